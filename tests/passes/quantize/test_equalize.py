"""Equalization computes the same, and what it is for comes out better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from intaglio.ir import Editor, Graph, Tensor, verify
from intaglio.ir.interpret import evaluate
from intaglio.ir.types import Float
from intaglio.passes.definition import Context
from intaglio.passes.quantize.equalize import equalize
from intaglio.passes.quantize.evaluate import evaluate as quick
from intaglio.passes.quantize.quantize import quantize

F32 = Float("f32")


def unequal(clip: float | None = None, depthwise: bool = False) -> Graph:
    """A pair of convolutions whose channels differ by a factor of 1000."""
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((8, 3, 6, 6), F32))
    factors = np.logspace(-1.5, 1.5, 8).astype(np.float32).reshape(-1, 1, 1, 1)
    w1 = rng.standard_normal((8, 3, 3, 3)).astype(np.float32) * factors
    b1 = rng.standard_normal(8).astype(np.float32) * factors.reshape(-1)
    y = e.emit("math.relu", e.emit("nn.conv", x, e.constant(w1, "w1"), e.constant(b1, "b1")))
    if clip is not None:
        y = e.emit("math.minimum", y, e.constant(np.float32(clip)))
    if depthwise:
        w2 = rng.standard_normal((8, 1, 3, 3)).astype(np.float32) / factors
        e.output(e.emit("nn.conv", y, e.constant(w2, "w2"), g=8), "y")
    else:
        w2 = rng.standard_normal((4, 8, 1, 1)).astype(np.float32) / factors.reshape(1, -1, 1, 1)
        e.output(e.emit("nn.conv", y, e.constant(w2, "w2")), "y")
    return e.freeze()


def spread(graph: Graph, name: str, axis: int) -> float:
    """The ratio of the widest to the narrowest channel."""
    (w,) = [n.constant.array for n in graph.nodes if n.constant is not None and n.constant.name == name]
    tops = np.abs(w).max(axis=tuple(i for i in range(w.ndim) if i != axis))
    return float(tops.max() / tops.min())


def images() -> Any:
    return np.random.default_rng(1).standard_normal((8, 3, 6, 6)).astype(np.float32)


def test_same_function_and_equal_ranges() -> None:
    x = images()
    for depthwise in (False, True):
        graph = unequal(depthwise=depthwise)
        made = equalize(graph)
        verify(made)
        np.testing.assert_allclose(evaluate(made, [x])[0], evaluate(graph, [x])[0], rtol=1e-4, atol=1e-4)
        for name, axis in (("w1", 0), ("w2", 0 if depthwise else 1)):
            assert spread(graph, name, axis) > 100
        arrays = {n.constant.name: n.constant.array for n in made.nodes if n.constant is not None}
        first, second = arrays["w1"], arrays["w2"]
        r1 = np.abs(first).max(axis=(1, 2, 3))
        r2 = np.abs(second).max(axis=(1, 2, 3) if depthwise else (0, 2, 3))
        np.testing.assert_allclose(r1, r2, rtol=1e-3)


def test_a_clip_stays_where_it_is() -> None:
    """Channels that reach the clip keep their scale, so that nothing changes on the data."""
    x, graph = images(), unequal(clip=6.0)
    made = equalize(graph, Context(calibration=[{"x": x}]))
    np.testing.assert_allclose(evaluate(made, [x])[0], evaluate(graph, [x])[0], rtol=1e-4, atol=1e-4)
    assert spread(made, "w1", 0) < spread(graph, "w1", 0)
    assert any(n.op.name == "math.minimum" for n in made.nodes)
    assert equalize(graph).digest == equalize(equalize(graph)).digest  # without data: left alone


def test_dead_channels() -> None:
    graph = unequal()
    e = Editor(graph)
    for node in list(e.nodes):
        if node.constant is not None and node.constant.name == "b1":
            bias = node.constant.array.copy()
            bias[7] = -1e6
            e.replace(node, [e.constant(bias, "b1")])
    graph, x = e.freeze(), images()
    context = Context(calibration=[{"x": x}])
    made = equalize(graph, context)
    assert "1 channels" in context.notes[-1]
    np.testing.assert_allclose(evaluate(made, [x])[0], evaluate(graph, [x])[0], rtol=1e-4, atol=1e-4)


def test_a_scale_for_the_whole_tensor_then_suffices() -> None:
    x, graph = images(), unequal()
    context = Context(calibration=[{"x": x}])
    want = evaluate(graph, [x])[0]
    errors = []
    for source in (graph, equalize(graph, context)):
        made = quantize(source, context, per="tensor", activations="float", bias=False)
        errors.append(float(np.linalg.norm(evaluate(made, [x])[0] - want) / np.linalg.norm(want)))
    assert errors[1] < errors[0] / 5


def high(clip: float | None = None, pads: int = 0, groups: int = 1) -> Graph:
    """Channels that are never below 5, 10, 15, ... before the activation function."""
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((8, 3, 6, 6), F32))
    w1, b1 = rng.standard_normal((8, 3, 1, 1)) / 4, np.arange(8) * 10.0
    y = e.emit("nn.conv", x, e.constant(w1.astype(np.float32), "w1"), e.constant(b1.astype(np.float32), "b1"))
    y = e.emit("math.relu", y)
    if clip is not None:
        y = e.emit("math.minimum", y, e.constant(np.float32(clip)))
    w2 = rng.standard_normal((4, 8 // groups, 3, 3)).astype(np.float32)
    b2 = e.constant(np.ones(4, np.float32), "b2")
    e.output(e.emit("nn.conv", y, e.constant(w2, "w2"), b2, g=groups, pads=(pads,) * 4), "y")
    return e.freeze()


def top_of_activations(graph: Graph, x: Any) -> float:
    tops: list[float] = []
    quick(graph, [x], lambda n, r: tops.append(float(r[0].max())) if n.op.name == "math.relu" else None)
    (top,) = tops
    return top


@pytest.mark.parametrize("groups", [1, 4])
def test_high_biases_move_on(groups: int) -> None:
    x, graph = images(), high(groups=groups)
    context = Context(calibration=[{"x": x}])
    made = equalize(graph, context, absorb=True)
    verify(made)
    assert "7 channels absorbed" in " ".join(context.notes)
    np.testing.assert_allclose(evaluate(made, [x])[0], evaluate(graph, [x])[0], rtol=1e-4, atol=1e-3)
    narrow, wide = (top_of_activations(g, x) for g in (made, equalize(graph, context)))
    assert narrow < wide / 3


def test_padding_would_see_them() -> None:
    """At the border the next layer reads zeros, not what is never below c."""
    x, graph = images(), high(pads=1)
    context = Context(calibration=[{"x": x}])
    made = equalize(graph, context, absorb=True)
    assert "0 channels absorbed" in " ".join(context.notes)
    np.testing.assert_allclose(evaluate(made, [x])[0], evaluate(graph, [x])[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("clip", "stays"), [(1000.0, False), (74.0, True), (6.0, True)])
def test_clips_out_of_reach_go(clip: float, stays: bool) -> None:
    """The largest number here is about 72: 74 is too near."""
    x, graph = images(), high(clip=clip)
    context = Context(calibration=[{"x": x}])
    made = equalize(graph, context, unclip=True)
    verify(made)
    assert any(n.op.name == "math.minimum" for n in made.nodes) is stays
    np.testing.assert_allclose(evaluate(made, [x])[0], evaluate(graph, [x])[0], rtol=1e-4, atol=1e-3)
    assert any(n.op.name == "math.minimum" for n in equalize(graph, unclip=True).nodes)  # nothing is known without data


def test_products() -> None:
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((8, 5), F32))
    w1 = rng.standard_normal((5, 6)).astype(np.float32) * np.logspace(-2, 2, 6, dtype=np.float32)
    h = e.emit("math.add", e.emit("nn.matmul", x, e.constant(w1, "w1")), e.constant(np.ones(6, np.float32), "b1"))
    w2 = rng.standard_normal((6, 3)).astype(np.float32)
    e.output(e.emit("nn.matmul", e.emit("math.relu", h), e.constant(w2, "w2")), "y")
    graph, data = e.freeze(), rng.standard_normal((8, 5)).astype(np.float32)
    made = equalize(graph)
    np.testing.assert_allclose(evaluate(made, [data])[0], evaluate(graph, [data])[0], rtol=1e-4, atol=1e-3)
    assert spread(made, "w1", 1) < spread(graph, "w1", 1)
