"""Transposed convolutions as convolutions: every shape and attribute, against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from intaglio.ir import Editor, Graph, Tensor, dim, evaluate
from intaglio.passes.subpixel import subpixel


@st.composite
def transposed(draw: Any) -> tuple[Graph, Any]:
    rank = draw(st.integers(1, 3))
    few = st.integers(1, 4)
    axes = lambda strategy: tuple(draw(st.lists(strategy, min_size=rank, max_size=rank)))  # noqa: E731
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = draw(few) * groups, draw(few)
    kernel, strides, dilations = axes(few), axes(st.integers(1, 3)), axes(st.sampled_from([1, 1, 1, 2]))
    sizes = axes(st.integers(1, 6))
    before = tuple(draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilations, strict=True))
    after = tuple(draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilations, strict=True))
    extra = tuple(draw(st.integers(0, s - 1)) for s in strides)
    full = [
        (n - 1) * s + d * (k - 1) + 1 + o - a - b
        for n, s, d, k, o, a, b in zip(sizes, strides, dilations, kernel, extra, before, after, strict=True)
    ]
    if min(full) < 1:
        before = after = (0,) * rank
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    batch = draw(st.integers(1, 2))
    x = rng.standard_normal((batch, inputs, *sizes)).astype(np.float32)
    e = Editor()
    v = e.input("x", Tensor((draw(st.sampled_from([dim("N"), batch])), inputs, *sizes), "f32"))
    w = e.constant(rng.standard_normal((inputs, outputs, *kernel)).astype(np.float32), "w")
    bias = [e.constant(rng.standard_normal(outputs * groups).astype(np.float32), "b")] if draw(st.booleans()) else []
    attrs: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": (*before, *after)}
    e.output(e.emit("nn.conv_transpose", v, w, *bias, **attrs, output_pads=extra, g=groups), "y")
    return e.freeze(), x


@given(transposed())
def test_is_the_same_function(case: tuple[Graph, Any]) -> None:
    graph, x = case
    after = subpixel(graph)
    (want,), (got,) = evaluate(graph, [x]), evaluate(after, [x])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert after.outputs[0].type == graph.outputs[0].type


def test_usual_ones_are_all_rewritten() -> None:
    for k, s, p, o in [
        (2, 2, 0, 0),
        (3, 2, 1, 1),
        (4, 2, 1, 0),
        (4, 4, 0, 0),
        (5, 2, 2, 1),
        (3, 1, 1, 0),
        (16, 8, 4, 0),
    ]:
        e = Editor()
        x = e.input("x", Tensor((1, 8, 10, 10), "f32"))
        w = e.constant(np.ones((8, 3, k, k), np.float32), "w")
        e.output(e.emit("nn.conv_transpose", x, w, strides=(s, s), pads=(p,) * 4, output_pads=(o, o)), "y")
        ops = [n.op.name for n in subpixel(e.freeze()).nodes]
        assert "nn.conv" in ops
        assert "nn.conv_transpose" not in ops
