"""The integer forms of softmax, layer norm and functions are as near to the exact ones as pass `integer` claims."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.ir import Graph, Tensor, evaluate
from intaglio.ir.edit import Editor
from intaglio.ir.graph import Node
from intaglio.ir.types import Float, Int
from intaglio.passes.definition import Context
from intaglio.passes.integer import integer
from intaglio.passes.integer.accuracy import function_bound, layer_norm_bound, softmax_bound
from intaglio.passes.integer.norms import layer_norm, softmax, softmax_of_floats
from intaglio.passes.integer.values import Code, Fixed, Sums

from .test_integer import simple

F32 = Float("f32")
some = settings(max_examples=60, deadline=None)


def node_of(name: str, shape: tuple[int, ...], *others: Any, **attrs: Any) -> Node:
    e = Editor()
    made = e.emit(name, e.input("x", Tensor(shape, "f32")), *(e.constant(o) for o in others), **attrs)
    assert made.node is not None
    return made.node


def integers(e: Editor, sums: Any) -> Graph:
    """The graph of the raw sums, bias included."""
    assert isinstance(sums, Sums)
    bias = None if sums.bias is None else sums.integers.astype(np.int32)
    e.output(sums.emit(bias), "y")
    return e.freeze()


rows = st.tuples(st.integers(1, 300), st.integers(0, 10_000), st.sampled_from(["normal", "flat", "spread", "one"]))


def codes_of_row(count: int, seed: int, kind: str) -> Any:
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return np.clip(rng.normal(128, 30, (2, count)), 0, 255).astype(np.uint8)
    if kind == "flat":
        return rng.integers(100, 102, (2, count)).astype(np.uint8)
    if kind == "spread":
        return rng.choice([0, 255], (2, count)).astype(np.uint8)
    made = np.full((2, count), 7, np.uint8)
    made[:, rng.integers(count)] += rng.integers(1, 200, dtype=np.uint8)
    return made


@some
@given(rows, st.floats(1e-3, 0.5))
def test_softmax_of_codes(row: tuple[int, int, str], scale: float) -> None:
    codes = codes_of_row(*row)
    e = Editor()
    x = Code(e.input("x", Tensor(codes.shape, Int("u8"))), scale, 3, 0, 255)
    sums = softmax(e, node_of("nn.softmax", codes.shape, axis=-1), [x])
    (got,) = evaluate(integers(e, sums), [codes])
    exact = exact_softmax((codes.astype(np.float64) - 3) * scale)
    near(got * 2.0**-14, exact, softmax_bound(codes.shape[1], codes=True))


@some
@given(st.integers(1, 300), st.integers(0, 10_000), st.floats(1e-2, 30), st.booleans())
def test_softmax_of_floats(count: int, seed: int, spread: float, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, count)) * spread).astype(np.float32)
    if masked:
        x[:, 1:] += np.where(rng.random((2, count - 1)) < 0.5, np.float32(rng.choice([-1e9, -np.inf])), np.float32(0))
    e = Editor()
    sums = softmax_of_floats(e, node_of("nn.softmax", x.shape, axis=-1), e.input("x", Tensor(x.shape, "f32")))
    (got,) = evaluate(integers(e, sums), [x])
    near(got * 2.0**-14, exact_softmax(x.astype(np.float64)), softmax_bound(count, codes=False))


@some
@given(rows, st.floats(1e-3, 0.5), st.sampled_from([1e-12, 1e-5, 1e-2]))
def test_layer_norm_of_codes(row: tuple[int, int, str], scale: float, eps: float) -> None:
    codes = codes_of_row(*row)
    count = codes.shape[1]
    rng = np.random.default_rng(row[1])
    gain, bias = (rng.standard_normal(count).astype(np.float32) for _ in range(2))
    e = Editor()
    x = Code(e.input("x", Tensor(codes.shape, Int("u8"))), scale, 3, 0, 255)
    node = node_of("nn.layer_norm", codes.shape, gain, bias, axis=-1, eps=eps)
    sums = layer_norm(e, node, [x, Fixed(gain), Fixed(bias)])
    (got,) = evaluate(integers(e, sums), [codes])
    assert isinstance(sums, Sums)
    real = (codes.astype(np.float64) - 3) * scale
    apart = real - real.mean(-1, keepdims=True)
    exact = apart / np.sqrt((apart**2).mean(-1, keepdims=True) + np.float64(node.attr("eps"))) * gain
    near(got * np.asarray(sums.scale) - bias, exact, layer_norm_bound(count, gain))


@pytest.mark.parametrize("name", ["nn.gelu", "math.sigmoid", "math.tanh"])
def test_functions_of_sums(name: str) -> None:
    """Every number between two entries is at most what the table changes there away from the nearest one."""
    node = node_of(name, (1,))
    rng = np.random.default_rng(0)

    def of(x: Any) -> Any:
        e = Editor()
        e.output(e.emit(name, e.input("x", Tensor(x.shape, "f32")), **dict(node.attrs)), "y")
        return evaluate(e.freeze(), [x.astype(np.float32)])[0]

    low, high, entries = -6.0, 7.0, 1 << 12
    step = (high - low) / (entries - 1)
    x = rng.uniform(low, high, 100_000)
    nearest = np.rint((x - low) / step) * step + low
    assert np.abs(of(x) - of(nearest)).max() <= function_bound(of, low, high, entries).abs + 1e-6


def exact_softmax(x: Any) -> Any:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def near(got: Any, exact: Any, bound: Any) -> None:
    assert math.isfinite(bound.abs)
    assert np.all(np.abs(got - exact) <= bound.abs + bound.rel * np.abs(exact) + 1e-12)


def test_bounds_are_not_idle() -> None:
    assert softmax_bound(128, codes=True).abs < 2**-14
    assert softmax_bound(128, codes=True).rel < 0.01
    assert softmax_bound(128, codes=False).rel < 0.02
    assert layer_norm_bound(384, np.ones(384)).rel < 0.005
    assert softmax_bound(1 << 20, codes=True).abs == math.inf


def test_the_pass_declares_them() -> None:
    context = Context()
    integer(simple(lambda e, x: e.emit("nn.softmax", x, axis=1), (30, 64)), context)
    told = " ".join(context.notes)
    assert re.search(r"1 nn\.softmax: each within \S+ \+ \S+ \|y\| of the exact one", told), told
