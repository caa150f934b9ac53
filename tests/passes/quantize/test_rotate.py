"""Rotated heads compute the same, and no channel sticks out any more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.ir import Editor, Graph, Tensor, dim, verify
from intaglio.ir.types import Float
from intaglio.passes.canonicalize import canonicalize
from intaglio.passes.definition import Context
from intaglio.passes.quantize.evaluate import evaluate
from intaglio.passes.quantize.rotate import orthogonal, rotate

F32 = Float("f32")


def attention(heads: int, size: int, *, scaled: bool = True, biased: bool = True, seed: int = 0) -> Graph:
    """softmax(q k^T / sqrt(size)) v of one input; the first channel of each head of v is 50 times as large."""
    rng = np.random.default_rng(seed)
    width = heads * size
    e = Editor(name="main")
    x = e.input("x", Tensor((dim("N"), 7, width), F32))

    def linear(v: Any, name: str, spread: Any = 1.0) -> Any:
        w = (rng.standard_normal((width, width)) / width**0.5 * spread).astype(np.float32)
        y = e.emit("nn.matmul", v, e.constant(w, name))
        return (
            e.emit("math.add", y, e.constant(np.linspace(-1, 1, width).astype(np.float32), f"{name}.b"))
            if biased
            else y
        )

    def split(v: Any) -> Any:
        return e.emit(
            "shape.transpose", e.emit("shape.reshape", v, shape=(dim("N"), 7, heads, size)), perm=(0, 2, 1, 3)
        )

    high = np.where(np.arange(width) % size == 0, 50.0, 1.0)
    q, k, v = split(linear(x, "q")), split(linear(x, "k")), split(linear(x, "v", high))
    scores = e.emit("nn.matmul", q, e.emit("shape.transpose", k, perm=(0, 1, 3, 2)))
    if scaled:
        scores = e.emit("math.div", scores, e.constant(np.float32(size**0.5)))
    y = e.emit("nn.matmul", e.emit("nn.softmax", scores, axis=-1), v)
    y = e.emit("shape.reshape", e.emit("shape.transpose", y, perm=(0, 2, 1, 3)), shape=(dim("N"), 7, width))
    e.output(linear(y, "o"), "y")
    return e.freeze()


def arrays(graph: Graph) -> dict[str, Any]:
    return {n.constant.name: n.constant.array for n in graph.nodes if n.constant is not None}


@settings(deadline=None)  # the first example imports and compiles
@given(
    st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 8]), st.booleans(), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_the_same_function(heads: int, size: int, scaled: bool, biased: bool, seed: int) -> None:
    graph = attention(heads, size, scaled=scaled, biased=biased, seed=seed)
    context = Context()
    made = rotate(graph, context, seed=seed)
    verify(made)
    x = np.random.default_rng(seed).standard_normal((2, 7, heads * size)).astype(np.float32)
    want = evaluate(graph, [x])[0]
    np.testing.assert_allclose(evaluate(made, [x])[0], want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    if heads > 1 and size > 1:  # else nothing sticks out, or there are no heads to see
        assert context.notes[-1] == "heads rotated in 1 products of queries and keys, 1 of weights and values"
        before, after = arrays(graph), arrays(made)
        assert all(not np.allclose(before[n], after[n]) for n in "qkvo")


@pytest.mark.parametrize("size", [1, 2, 3, 6, 8, 32])
def test_rotations(size: int) -> None:
    r = orthogonal(size, 1)
    np.testing.assert_allclose(r @ r.T, np.eye(size), atol=1e-12)
    if size in (8, 32):
        np.testing.assert_allclose(np.abs(r), size**-0.5)


def test_outliers_are_spread() -> None:
    graph = attention(2, 16)
    made = rotate(graph, scores=False)
    before, after = (np.abs(arrays(g)["v"]).max(axis=0) for g in (graph, made))
    assert before.max() / np.median(before) > 20
    assert after.max() / np.median(after) < 3
    np.testing.assert_array_equal(arrays(canonicalize(graph))["q"], arrays(made)["q"])


def test_what_is_read_twice_stays() -> None:
    """An output between values and what reads them has to remain what it is."""
    graph = attention(2, 4)
    e = Editor(graph)
    (softmax,) = [n for n in e.nodes if n.op.name == "nn.softmax"]
    (product,) = [n for n in e.nodes if softmax.output in n.inputs]
    e.output(product.output, "heads")
    graph = e.freeze()
    made = rotate(graph)
    np.testing.assert_array_equal(arrays(graph)["v"], arrays(made)["v"])
    x = np.random.default_rng(0).standard_normal((2, 7, 8)).astype(np.float32)
    for have, want in zip(evaluate(made, [x]), evaluate(graph, [x]), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-4)
