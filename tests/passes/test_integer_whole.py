"""`integer{whole=true}`: what a transformer keeps in floats becomes integers, near the floats that it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from intaglio.ir import Constant, Graph, Module, Tensor, evaluate, verify
from intaglio.ir.edit import Editor
from intaglio.ir.graph import Value
from intaglio.ir.types import Affine, Float, Int
from intaglio.passes.definition import Context
from intaglio.passes.integer import integer

from .qdq import weight_of

F32 = Float("f32")


def coded(e: Editor, v: Value, scale: float, zero: int = 128) -> Value:
    return e.emit("quant.dequantize", e.emit("quant.quantize", v, to=Affine(Int("u8"), F32, scale, zero)), to=F32)


def product(e: Editor, x: Value, columns: int, rng: Any) -> Value:
    """By quantised weights of about the size that keeps numbers as they are."""
    depth = x.type.shape[-1]
    codes, elem = weight_of(rng.standard_normal((depth, columns)).astype(np.float32) / depth**0.5, 1)
    w = e.emit("quant.dequantize", e.constant(Constant(codes, "w"), type=Tensor(codes.shape, elem)), to=F32)
    return e.emit("nn.matmul", x, w)


def both(graph: Graph, arrays: list[Any]) -> tuple[Any, Any, Graph]:
    made = integer(graph, Context(), whole=True)
    verify(Module("m", {"main": made}, {}))
    return evaluate(graph, arrays)[0], evaluate(made, arrays, check=True)[0], made


def floats(graph: Graph) -> set[str]:
    """Ops on floats, casts aside."""
    found = {n.op.name for n in graph.nodes for v in n.outputs if getattr(v.type, "elem", None) is F32}
    return found - {"const", "quant.dequantize"}


@pytest.mark.parametrize("hidden", [0, 3])
def test_softmax_of_masked_scores(hidden: int) -> None:
    """Scores are a product scaled by a number, plus a mask of codes: 0 or -1e9."""
    rng = np.random.default_rng(0)
    e = Editor()
    x, mask = e.input("x", Tensor((2, 7, 16), "f32")), e.input("mask", Tensor((1, 1, 9), "f32"))
    scores = e.emit("math.mul", product(e, coded(e, x, 0.03), 9, rng), e.constant(np.float32(1.7)))
    hide = coded(e, mask, 1e9 / 255, 255)
    shares = coded(e, e.emit("nn.softmax", e.emit("math.add", scores, hide), axis=2), 1 / 255, 0)
    e.output(shares, "y")
    absent = np.where(np.arange(9) < 9 - hidden, 0, -1e9).astype(np.float32).reshape(1, 1, 9)
    want, got, made = both(e.freeze(), [rng.standard_normal((2, 7, 16)).astype(np.float32), absent])
    assert floats(made) == set()
    assert np.abs(want - got).max() <= 1.01 / 255
    assert not got[..., 9 - hidden :].any()


@pytest.mark.parametrize("width", [8, 384, 1024])
def test_norm_of_a_residual_sum(width: int) -> None:
    """A norm, whose result is added to a product of it, and normed again: the stream has more than 8 bits."""
    rng = np.random.default_rng(width)
    gains = [rng.normal(0, 1, width).astype(np.float32) for _ in range(2)]
    biases = [rng.standard_normal(width).astype(np.float32) for _ in range(2)]
    e = Editor()
    x = e.input("x", Tensor((5, width), "f32"))
    y = e.emit("nn.layer_norm", x, *(e.constant(v[0]) for v in (gains, biases)), axis=1, eps=1e-5)
    z = e.emit("math.add", y, product(e, coded(e, y, 0.03), width, rng))
    z = e.emit("nn.layer_norm", z, *(e.constant(v[1]) for v in (gains, biases)), axis=1, eps=1e-5)
    e.output(coded(e, z, 0.04), "y")
    want, got, made = both(e.freeze(), [rng.standard_normal((5, width)).astype(np.float32)])
    assert floats(made) == {"nn.layer_norm"}  # of what came in as floats
    steps = np.abs(want - got) / 0.04
    assert steps.max() <= 1.01 and np.mean(steps > 0.5) < 0.05


def test_embeddings_are_integers_from_their_sum_on() -> None:
    rng = np.random.default_rng(1)
    e = Editor()
    ids = e.input("ids", Tensor((1, 6), "i64"))
    table, places = (rng.standard_normal(s).astype(np.float32) for s in ((50, 32), (6, 32)))
    x = e.emit("math.add", e.emit("shape.gather", e.constant(table), ids, axis=0), e.constant(places))
    ones = e.constant(np.ones(32, np.float32))
    e.output(coded(e, e.emit("nn.layer_norm", x, ones, axis=2, eps=1e-12), 0.03), "y")
    want, got, made = both(e.freeze(), [rng.integers(0, 50, (1, 6))])
    assert floats(made) == {"shape.gather", "math.add"}
    assert np.abs(want - got).max() <= 0.0301


def test_without_the_option_streams_stay_floats() -> None:
    rng = np.random.default_rng(2)
    e = Editor()
    x = e.input("x", Tensor((3, 16), "f32"))
    y = product(e, coded(e, x, 0.03), 16, rng)
    e.output(coded(e, e.emit("nn.layer_norm", y, e.constant(np.ones(16, np.float32)), axis=1), 0.03), "y")
    graph = e.freeze()
    assert "nn.layer_norm" in floats(integer(graph, Context()))
    assert floats(integer(graph, Context(), whole=True)) == set()


def test_results_of_the_network_stay_floats() -> None:
    """A softmax that ends a classifier is nobody's codes."""
    rng = np.random.default_rng(3)
    e = Editor()
    x = e.input("x", Tensor((3, 16), "f32"))
    e.output(e.emit("nn.softmax", product(e, coded(e, x, 0.03), 10, rng), axis=1), "y")
    made = integer(e.freeze(), Context(), whole=True)
    assert "nn.softmax" in floats(made)


def test_a_bias_of_a_product_of_two_codes() -> None:
    """What is added to a product of activations, as in a graph convolution, goes into its sums."""
    rng = np.random.default_rng(4)
    e = Editor()
    a, x = e.input("a", Tensor((6, 6), "f32")), e.input("x", Tensor((6, 5), "f32"))
    y = e.emit("nn.matmul", coded(e, a, 0.03), coded(e, x, 0.03))
    y = e.emit("math.relu", e.emit("math.add", y, e.constant(rng.standard_normal(5).astype(np.float32))))
    e.output(coded(e, y, 0.05), "y")
    want, got, made = both(e.freeze(), [rng.standard_normal(s).astype(np.float32) for s in ((6, 6), (6, 5))])
    assert floats(made) == set()
    assert np.abs(want - got).max() <= 0.0501
