"""Ranges: an interval for every value, that holds whatever the inputs are within theirs.

Each op has a transfer function on intervals; for many it follows from the declaration: a monotone op maps end points
to end points, a structural one only moves elements. Intervals are widened by a few units in the last place, since the
graph rounds. What no function covers is unbounded. Ranges seen on calibration data (`observed_ranges`) hold for these
data only; passes that rely on them guard or clamp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import Graph, Node, Value
from ..interpret import evaluate
from ..types import Bool, Float, Int, Tensor, Type

__all__ = ["EVERYTHING", "Interval", "observed_ranges", "of_type", "ranges"]


@dataclass(frozen=True, slots=True)
class Interval:
    """All numbers from `low` to `high`; `nan` says that the value may also be not a number."""

    low: float
    high: float
    nan: bool = False

    def __contains__(self, x: float) -> bool:
        return self.nan if math.isnan(x) else self.low <= x <= self.high

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high), self.nan or other.nan)

    @property
    def magnitude(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def finite(self) -> bool:
        return not self.nan and math.isfinite(self.low) and math.isfinite(self.high)

    def widened(self, t: Type, terms: int = 1) -> Interval:
        """With room for the rounding of a computation of `terms` steps in type t."""
        if not isinstance(t, Tensor) or not isinstance(t.elem, Float):
            return self
        unit = 2.0 ** -(_SIGNIFICAND.get(t.elem.name, 2))
        size = max((abs(end) for end in (self.low, self.high) if math.isfinite(end)), default=0.0)
        room = size * unit * (terms + 2) + 1e-300
        return Interval(self.low - room, self.high + room, self.nan)  # infinite ends stay what they are

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]" + (" or nan" if self.nan else "")


_SIGNIFICAND = {"f64": 52, "f32": 23, "f16": 10, "bf16": 7, "f8e4m3fn": 3, "f8e4m3fnuz": 3, "f8e5m2": 2}
EVERYTHING = Interval(-math.inf, math.inf, nan=True)


def of_type(t: Type) -> Interval:
    """What the element type alone says."""
    elem = t.elem if isinstance(t, Tensor) else None
    if isinstance(elem, Bool):
        return Interval(0, 1)
    if isinstance(elem, Int):
        low, high = elem.range
        return Interval(float(low), float(high))
    return EVERYTHING


Transfer = Callable[[Node, Sequence[Interval]], Interval]
_TRANSFERS: dict[str, Transfer] = {}


def transfer(*names: str) -> Callable[[Transfer], Transfer]:
    """Mark the transfer function of ops."""

    def mark(fn: Transfer) -> Transfer:
        for name in names:
            _TRANSFERS[name] = fn
        return fn

    return mark


def ranges(graph: Graph, inputs: Mapping[str, Interval] | None = None) -> dict[Value, Interval]:
    """An interval for every value, from intervals of the inputs by name (missing: what their types say)."""
    found: dict[Value, Interval] = {}
    for v in graph.inputs:
        found[v] = (inputs or {}).get(v.name, of_type(v.type))
    for node in graph.nodes:
        operands = [found[v] if v is not None else Interval(0, 0) for v in node.inputs]
        for v, interval in zip(node.outputs, _results(node, operands), strict=True):
            found[v] = _within(interval, v.type)
    return found


def _within(interval: Interval, t: Type) -> Interval:
    """Integers wrap: an interval that leaves the type's says nothing but the type."""
    bound = of_type(t)
    if bound is EVERYTHING:
        return interval
    return interval if bound.low <= interval.low and interval.high <= bound.high and not interval.nan else bound


def _results(node: Node, operands: list[Interval]) -> list[Interval]:
    if node.op.name == "math.top_k":
        return [operands[0], of_type(node.outputs[1].type)]
    fn = _TRANSFERS.get(node.op.name)
    if fn is not None:
        return [fn(node, operands)] * len(node.outputs)
    if node.op.name == "tile.kernel":
        body = node.attrs["body"]
        inner = ranges(body, {v.name: r for v, r in zip(body.inputs, operands, strict=True)})
        return [inner[v] for v in body.outputs]
    if node.op.has("structural") and operands and not node.op.has("dynamic"):
        return [_hull(operands)] * len(node.outputs)
    if node.op.has("monotone") and node.op.has("elementwise") and len(operands) == 1:
        return [_monotone(node, operands[0])]
    return [of_type(v.type) for v in node.outputs]


def _hull(operands: Sequence[Interval]) -> Interval:
    out = operands[0]
    for r in operands[1:]:
        out = out.hull(r)
    return out


def _monotone(node: Node, x: Interval) -> Interval:
    """A non-decreasing function of one operand maps end points to end points; where it is undefined, nan."""
    with np.errstate(all="ignore"):
        ends = [float(node.op.function(np.float64(e) * np.ones(1), **node.attrs)[0]) for e in (x.low, x.high)]
    if any(math.isnan(e) for e in ends):
        return EVERYTHING
    return Interval(ends[0], ends[1], x.nan).widened(node.outputs[0].type, 8)


@transfer("const")
def _const(node: Node, _: Sequence[Interval]) -> Interval:
    array = node.attrs["value"].array
    if array.size == 0 or not isinstance(node.outputs[0].type.elem, (Float, Int, Bool)):  # type: ignore[union-attr]
        return EVERYTHING
    wide = array.astype(np.float64)
    return Interval(float(np.nanmin(wide)), float(np.nanmax(wide))) if not np.isnan(wide).any() else EVERYTHING


def _combine(candidates: list[float], nan: bool) -> Interval:
    if any(math.isnan(c) for c in candidates):
        return EVERYTHING
    return Interval(min(candidates), max(candidates), nan)


@transfer("math.add")
def _add(node: Node, r: Sequence[Interval]) -> Interval:
    return _combine([r[0].low + r[1].low, r[0].high + r[1].high], r[0].nan or r[1].nan).widened(node.outputs[0].type)


@transfer("math.sub")
def _sub(node: Node, r: Sequence[Interval]) -> Interval:
    return _combine([r[0].low - r[1].high, r[0].high - r[1].low], r[0].nan or r[1].nan).widened(node.outputs[0].type)


@transfer("math.mul")
def _mul(node: Node, r: Sequence[Interval]) -> Interval:
    if node.inputs[0] is node.inputs[1]:  # a square
        top = r[0].magnitude ** 2
        low = 0.0 if r[0].low <= 0 <= r[0].high else min(abs(r[0].low), abs(r[0].high)) ** 2
        return Interval(low, top, r[0].nan).widened(node.outputs[0].type)
    products = [a * b for a in (r[0].low, r[0].high) for b in (r[1].low, r[1].high)]
    return _combine(products, r[0].nan or r[1].nan).widened(node.outputs[0].type)


@transfer("math.div")
def _div(node: Node, r: Sequence[Interval]) -> Interval:
    if r[1].low <= 0 <= r[1].high or not isinstance(node.outputs[0].type.elem, Float):  # type: ignore[union-attr]
        return of_type(node.outputs[0].type)
    quotients = [a / b for a in (r[0].low, r[0].high) for b in (r[1].low, r[1].high)]
    return _combine(quotients, r[0].nan or r[1].nan).widened(node.outputs[0].type, 2)


@transfer("math.neg")
def _neg(node: Node, r: Sequence[Interval]) -> Interval:
    return Interval(-r[0].high, -r[0].low, r[0].nan)


@transfer("math.abs")
def _abs(node: Node, r: Sequence[Interval]) -> Interval:
    low = 0.0 if r[0].low <= 0 <= r[0].high else min(abs(r[0].low), abs(r[0].high))
    return Interval(low, r[0].magnitude, r[0].nan)


@transfer("math.maximum")
def _maximum(node: Node, r: Sequence[Interval]) -> Interval:
    return Interval(max(r[0].low, r[1].low), max(r[0].high, r[1].high), r[0].nan or r[1].nan)


@transfer("math.minimum")
def _minimum(node: Node, r: Sequence[Interval]) -> Interval:
    return Interval(min(r[0].low, r[1].low), min(r[0].high, r[1].high), r[0].nan or r[1].nan)


@transfer("math.where")
def _where(node: Node, r: Sequence[Interval]) -> Interval:
    return r[1].hull(r[2])


@transfer("math.sin", "math.cos")
def _wave(node: Node, r: Sequence[Interval]) -> Interval:
    return Interval(-1, 1, nan=not r[0].finite)


@transfer("math.leaky_relu")
def _leaky(node: Node, r: Sequence[Interval]) -> Interval:
    alpha = float(node.attr("alpha"))
    ends = [x if x >= 0 else alpha * x for x in (r[0].low, r[0].high)] + ([0.0] if r[0].low < 0 < r[0].high else [])
    return _combine(ends, r[0].nan).widened(node.outputs[0].type)


@transfer("nn.softmax")
def _softmax(node: Node, r: Sequence[Interval]) -> Interval:
    return Interval(0, 1, nan=not r[0].finite).widened(node.outputs[0].type, 8) if r[0].finite else Interval(0, 1, True)


@transfer("nn.gelu")
def _gelu(node: Node, r: Sequence[Interval]) -> Interval:
    """Least value -0.17 near -0.75; above 0 it lies between 0 and x."""
    if not r[0].finite:
        return EVERYTHING
    return Interval(-0.1701 if r[0].low < 0 else 0.0, max(0.0, r[0].high)).widened(node.outputs[0].type, 8)


@transfer("nn.max_pool", "nn.avg_pool")
def _pool(node: Node, r: Sequence[Interval]) -> Interval:
    if node.op.name == "nn.avg_pool":
        inside = r[0].hull(Interval(0, 0)) if node.attr("count_pads") else r[0]
        return inside.widened(node.outputs[0].type, math.prod(node.attrs["kernel"]))
    return r[0]


@transfer("math.reduce_max", "math.reduce_min", "shape.gather")
def _picked(node: Node, r: Sequence[Interval]) -> Interval:
    """An element of the operand; of no elements, the neutral one."""
    operand = node.inputs[0]
    assert operand is not None
    return r[0] if 0 not in operand.type.shape and operand.type.static else of_type(node.outputs[0].type)


@transfer("math.reduce_mean")
def _mean(node: Node, r: Sequence[Interval]) -> Interval:
    count = _reduced_count(node)
    if not count:
        return of_type(node.outputs[0].type)
    return r[0].widened(node.outputs[0].type, count)


@transfer("math.reduce_sum")
def _sum(node: Node, r: Sequence[Interval]) -> Interval:
    count = _reduced_count(node)
    if count is None:
        return of_type(node.outputs[0].type)
    return _combine([count * r[0].low, count * r[0].high] if count else [0.0], r[0].nan).widened(
        node.outputs[0].type, count
    )


def _reduced_count(node: Node) -> int | None:
    """How many elements each result sums up, if known."""
    operand = node.inputs[0]
    assert operand is not None
    shape = operand.type.shape
    axes = node.attr("axes")
    extents = [shape[a] for a in (axes if axes is not None else range(len(shape)))]
    known = [d for d in extents if isinstance(d, int)]
    return math.prod(known) if len(known) == len(extents) else None


@transfer("shape.pad")
def _pad(node: Node, r: Sequence[Interval]) -> Interval:
    if node.attr("mode") != "constant":
        return r[0]
    return r[0].hull(r[1] if len(r) > 1 else Interval(0, 0))


@transfer("shape.scatter_elements", "shape.scatter_nd")
def _scatter(node: Node, r: Sequence[Interval]) -> Interval:
    return r[0].hull(r[2]) if node.attr("reduction") == "none" else of_type(node.outputs[0].type)


@transfer("shape.one_hot")
def _one_hot(node: Node, r: Sequence[Interval]) -> Interval:
    return r[1]


@transfer("shape.gather_elements", "shape.gather_nd", "shape.trilu", "shape.reverse_sequence")
def _moved(node: Node, r: Sequence[Interval]) -> Interval:
    return r[0].hull(Interval(0, 0)) if node.op.name == "shape.trilu" else r[0]


@transfer("shape.iota", "shape.extents", "math.bitcast", "quant.store", "quant.load", "quant.quantize")
def _by_type(node: Node, r: Sequence[Interval]) -> Interval:
    return of_type(node.outputs[0].type)


@transfer("math.cast")
def _cast(node: Node, r: Sequence[Interval]) -> Interval:
    """Between floats; what overflows a narrower type becomes infinite. To integers the type's range says it all."""
    to, operand = node.attrs["to"], node.inputs[0]
    assert operand is not None
    if not isinstance(to, Float):
        return of_type(node.outputs[0].type)
    if not isinstance(operand.type.elem, (Float, Int, Bool)):  # type: ignore[union-attr]
        return EVERYTHING
    wide = r[0].widened(node.outputs[0].type)
    largest = {"f64": math.inf, "f32": 3.4e38, "bf16": 3.38e38, "f16": 65504.0}.get(to.name, 0.0)
    return wide if wide.magnitude <= largest else EVERYTHING


@transfer("nn.matmul", "nn.conv")
def _product(node: Node, r: Sequence[Interval]) -> Interval:
    """With constant weights, each output is bounded by its own weights; else by extents times magnitudes."""
    w = node.inputs[1]
    assert w is not None
    bias = r[2] if len(r) > 2 else Interval(0, 0)
    weights = w.node.constant if w.node is not None else None
    if not (r[0].finite and r[1].finite and bias.finite) or not isinstance(w.type.elem, Float):  # type: ignore[union-attr]
        return of_type(node.outputs[0].type)
    data = weights.array.astype(np.float64) if weights is not None else None
    x = r[0].hull(Interval(0, 0)) if node.op.name == "nn.conv" else r[0]  # the padding's zeros
    if data is not None and data.ndim >= 2:
        axes = tuple(range(1, data.ndim)) if node.op.name == "nn.conv" else (-2,)
        positive, negative = np.maximum(data, 0).sum(axes), np.minimum(data, 0).sum(axes)
        lows, highs = positive * x.low + negative * x.high, positive * x.high + negative * x.low
        terms = int(np.prod([data.shape[a] for a in axes]))
        # cancellation: rounding is relative to the sum of absolute terms
        size = float(np.max((positive - negative) * x.magnitude)) if positive.size else 0.0
        low, high = (float(lows.min()), float(highs.max())) if lows.size else (0.0, 0.0)
    else:
        first = node.inputs[0]
        assert first is not None
        inner = first.type.shape[-1] if node.op.name == "nn.matmul" else None
        if not isinstance(inner, int):
            return of_type(node.outputs[0].type)
        size = inner * x.magnitude * r[1].magnitude
        low, high, terms = -size, size, inner
    room = Interval(-size, size).widened(node.outputs[0].type, terms).high - size
    return Interval(low + bias.low - room, high + bias.high + room).widened(node.outputs[0].type)


@transfer("nn.batch_norm")
def _batch_norm(node: Node, r: Sequence[Interval]) -> Interval:
    constants = [v.node.constant if v is not None and v.node is not None else None for v in node.inputs[1:]]
    if any(c is None for c in constants) or not r[0].finite:
        return of_type(node.outputs[0].type)
    g, b, m, v = (c.array.astype(np.float64) for c in constants if c is not None)
    if (v < 0).any():
        return EVERYTHING
    scale = g / np.sqrt(v + float(node.attr("eps")))
    ends = np.concatenate([(r[0].low - m) * scale + b, (r[0].high - m) * scale + b])
    size = float(np.max((np.abs(m) + r[0].magnitude) * np.abs(scale) + np.abs(b))) if ends.size else 0.0
    room = Interval(-size, size).widened(node.outputs[0].type, 8).high - size
    return Interval(float(ends.min()) - room, float(ends.max()) + room) if ends.size else Interval(0, 0)


def observed_ranges(graph: Graph, batches: Sequence[Sequence[Any]]) -> dict[Value, Interval]:
    """The smallest and the largest element of every value on batches (arrays in the order of the inputs)."""
    found: dict[Value, Interval] = {}

    def see(v: Value, array: Any) -> None:
        if array.size and isinstance(v.type, Tensor) and isinstance(v.type.elem, (Float, Int, Bool)):
            wide = array.astype(np.float64)
            now = Interval(float(np.nanmin(wide)), float(np.nanmax(wide)), bool(np.isnan(wide).any()))
            found[v] = found[v].hull(now) if v in found else now

    def observe(node: Node, results: tuple[Any, ...]) -> None:
        for v, array in zip(node.outputs, results, strict=True):
            see(v, array)

    for batch in batches:
        for v, array in zip(graph.inputs, batch, strict=True):
            see(v, np.asarray(array))
        evaluate(graph, batch, observe=observe)
    return found
