"""Ranges hold for every value of random programs; error bounds hold for what was perturbed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings

from intaglio.ir import Editor, Graph, Tensor, evaluate
from intaglio.ir.analysis import Interval, observed_ranges, output_errors, ranges
from intaglio.ir.testing import graphs
from intaglio.ir.types import Bool, Float, Int

PROFILE = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def _plain(v: Any) -> bool:
    return isinstance(v.type, Tensor) and isinstance(v.type.elem, (Float, Int, Bool))


def _inside(interval: Interval, array: Any) -> bool:
    wide = np.asarray(array).astype(np.float64)
    if np.isnan(wide).any() and not interval.nan:
        return False
    finite = wide[~np.isnan(wide)]
    return bool(((finite >= interval.low) & (finite <= interval.high)).all())


@PROFILE
@given(graphs(max_nodes=14))
def test_every_value_lies_in_its_range(case: tuple[Graph, list[Any]]) -> None:
    graph, inputs = case
    given_ranges = {}
    for v, array in zip(graph.inputs, inputs, strict=True):
        if _plain(v) and array.size:
            wide = array.astype(np.float64)
            given_ranges[v.name] = Interval(float(np.nanmin(wide)), float(np.nanmax(wide)), bool(np.isnan(wide).any()))
    found = ranges(graph, given_ranges)

    def observe(node: Any, results: tuple[Any, ...]) -> None:
        for v, array in zip(node.outputs, results, strict=True):
            if _plain(v):
                assert _inside(found[v], array), f"{node.op.name}: {found[v]} does not hold {array}"

    evaluate(graph, inputs, observe=observe)


@PROFILE
@given(graphs(max_nodes=8))
def test_observed_ranges_are_within_proven_ones(case: tuple[Graph, list[Any]]) -> None:
    graph, inputs = case
    proven = ranges(graph)
    for v, seen in observed_ranges(graph, [inputs]).items():
        assert proven[v].low <= seen.low or math.isnan(seen.low)
        assert seen.high <= proven[v].high or math.isnan(seen.high)


def _network(rng: np.random.Generator) -> Graph:
    """conv, batch norm, relu, matmul, sigmoid, residual product: what errors travel through in practice."""
    e = Editor()
    x = e.input("x", Tensor((2, 3, 6, 6), "f32"))
    w = e.constant(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    y = e.emit("math.relu", e.emit("nn.conv", x, w, pads=(1, 1, 1, 1)))
    flat = e.emit("shape.reshape", e.emit("math.reduce_mean", y, axes=(2, 3)), shape=(2, 4))
    m = e.constant(rng.standard_normal((4, 5)).astype(np.float32), "m")
    z = e.emit("math.sigmoid", e.emit("nn.matmul", flat, m))
    e.output(e.emit("math.mul", z, e.emit("math.tanh", z)), "y")
    return e.freeze()


def test_error_bounds_hold_and_are_not_idle() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        graph = _network(rng)
        x = rng.uniform(-1, 1, (2, 3, 6, 6)).astype(np.float32)
        bound = output_errors(graph, {graph.inputs[0]: 1e-2}, ranges(graph, {"x": Interval(-1.01, 1.01)}))[0]
        worst = 0.0
        for _ in range(10):
            moved = x + rng.uniform(-1e-2, 1e-2, x.shape).astype(np.float32)
            worst = max(worst, float(np.abs(evaluate(graph, [moved])[0] - evaluate(graph, [x])[0]).max()))
        assert 0 < worst <= bound < 10


def test_an_unknown_op_passes_on_anything() -> None:
    e = Editor()
    x = e.input("x", Tensor((3,), "f32"))
    e.output(e.emit("math.exp", x), "y")
    graph = e.freeze()
    assert output_errors(graph, {graph.inputs[0]: 1e-3}) == (math.inf,)
    assert output_errors(graph, {}) == (0.0,)


def test_relu6_is_bounded() -> None:
    e = Editor()
    x = e.input("x", Tensor((3,), "f32"))
    y = e.emit("math.minimum", e.emit("math.maximum", x, e.constant(np.float32(0))), e.constant(np.float32(6)))
    e.output(y, "y")
    graph = e.freeze()
    found = ranges(graph, {"x": Interval(-math.inf, math.inf)})[graph.outputs[0]]
    assert (found.low, found.high) == (0, 6)
