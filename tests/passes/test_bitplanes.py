"""Products of few bits by planes of signs: exactly the same sums, in the interpreter and on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.ir import Editor, Graph, Module, Tensor, evaluate, verify
from intaglio.ir.ops.quant_integer import fixed_point
from intaglio.ir.types import Int
from intaglio.passes.bitplanes import bitplanes


@st.composite
def products(draw: Any) -> tuple[Graph, Any]:
    """A product of an activation of 1 to 4 bits, anywhere in its type, with weights of 1 to 4 bits."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    bits, weight_bits = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rows, depth, columns = draw(st.integers(1, 5)), draw(st.integers(1, 100)), draw(st.integers(1, 40))
    elem = draw(st.sampled_from(["u8", "i8"]))
    low, high = Int(elem).range
    first = draw(st.integers(low, high - (1 << bits) + 1))
    step = draw(st.sampled_from([1, 1, 2, 3]))
    e = Editor()
    x = e.input("x", Tensor((2, rows, depth), "i32"))
    multiplier, shift = fixed_point(1.0)
    codes = e.emit(
        "quant.requantize", x, e.constant(multiplier), e.constant(shift),
        to=Int(elem), zero=first, low=first, high=first + (1 << bits) - 1, axis=2,
    )  # fmt: skip
    w = rng.integers(0, 1 << weight_bits, (depth, columns)) * step + draw(st.integers(-60, 0))
    bias = [e.constant(rng.integers(-99, 99, columns).astype(np.int32))] if draw(st.booleans()) else []
    zero = draw(st.integers(low, high))
    e.output(e.emit("quant.matmul", codes, e.constant(w.astype(np.int8)), *bias, a_zero=zero), "y")
    return e.freeze(), rng.integers(-2, (1 << bits) + 2, (2, rows, depth)).astype(np.int32)


@given(products())
def test_is_the_same_integer(case: tuple[Graph, Any]) -> None:
    graph, x = case
    after = bitplanes(graph, most=16)
    verify(Module("m", {"main": after}, {}))
    assert "quant.matmul" not in {n.op.name for n in after.nodes}
    (want,), (got,) = evaluate(graph, [x], check=True), evaluate(after, [x], check=True)
    assert np.array_equal(got, want)


@settings(max_examples=8, deadline=None)
@given(products())
def test_runs_on_the_binary_kernels(case: tuple[Graph, Any]) -> None:
    pytest.importorskip("tvm")
    from intaglio.compiler.api import compile as compile_model

    graph, x = case
    compiled = compile_model(Module("m", {"main": bitplanes(graph, most=16)}, {}), "cpu", threads=1)
    nodes = [n for k in compiled.module.main.nodes for n in (k.attrs["body"].nodes if "body" in k.attrs else (k,))]
    assert "quant.sign_matmul" in {n.op.name for n in nodes}
    assert np.array_equal(compiled.program.run([x])[0], evaluate(graph, [x])[0])


def test_more_bits_than_pay_are_left() -> None:
    e = Editor()
    x = e.input("x", Tensor((2, 8), "u4"))
    w = e.constant(np.arange(-8, 8).reshape(8, 2).astype(np.int8))
    e.output(e.emit("quant.matmul", x, w), "y")
    graph = e.freeze()
    assert bitplanes(graph) is graph
    assert bitplanes(graph, most=16) is not graph
