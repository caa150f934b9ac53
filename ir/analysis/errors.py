"""How far a local error travels: bounds on the outputs from bounds at the places where a rewrite changed something.

A `bounded` rewrite promises |new - old| <= abs at one value. Each op passes an error on by at most its Lipschitz
constant (in the largest absolute value), which its declaration states or its constant weights give; products need the
ranges of their operands. An op of which nothing is known passes on anything: the bound is infinite, which is honest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..graph import Graph, Node, Value
from .ranges import EVERYTHING, Interval, _reduced_count, ranges

__all__ = ["output_errors"]


def output_errors(
    graph: Graph, local: Mapping[Value, float], known: Mapping[Value, Interval] | None = None
) -> tuple[float, ...]:
    """Bounds on |new - old| for each output, when every value in `local` is off by at most that much.

    `known` are the ranges of the values (default: `ranges(graph)`); rounding of the graph itself is not counted.
    """
    span = known if known is not None else ranges(graph)
    errors: dict[Value | None, float] = {None: 0.0}
    for v in graph.inputs:
        errors[v] = local.get(v, 0.0)
    for node in graph.nodes:
        incoming = [errors[v] for v in node.inputs]
        passed = 0.0 if not any(incoming) else _passed(node, incoming, span)
        for v in node.outputs:
            errors[v] = passed + local.get(v, 0.0)
    return tuple(errors[v] for v in graph.outputs)


def _passed(node: Node, incoming: Sequence[float], span: Mapping[Value, Interval]) -> float:
    op = node.op
    if op.name in ("math.add", "math.sub"):
        return sum(incoming)
    if op.name == "math.mul":
        (a, b), (x, y) = incoming[:2], (_of(node, 0, span), _of(node, 1, span))
        return _times(x.magnitude, b) + _times(y.magnitude, a) + _times(a, b)
    if op.name == "math.div":
        return _division(incoming, _of(node, 0, span), _of(node, 1, span))
    if op.name in ("nn.matmul", "nn.conv"):
        return _product(node, incoming, span)
    if op.name == "math.reduce_sum":
        count = _reduced_count(node)
        return math.inf if count is None else count * incoming[0]
    if op.name in ("math.cast", "quant.dequantize"):
        return math.inf
    if op.has("structural"):
        return max(incoming)
    lipschitz = next((f.args[0] for f in op.facts if f.name == "lipschitz"), None)
    if lipschitz is not None:
        return float(lipschitz) * max(incoming)
    return math.inf


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _of(node: Node, i: int, span: Mapping[Value, Interval]) -> Interval:
    v = node.inputs[i]
    return span.get(v, EVERYTHING) if v is not None else EVERYTHING


def _division(incoming: Sequence[float], x: Interval, y: Interval) -> float:
    """|x'/y' - x/y| <= (|x| e_y + |y| e_x) / (|y| (|y| - e_y)) where y keeps away from 0."""
    least = 0.0 if y.low <= 0 <= y.high else min(abs(y.low), abs(y.high))
    if least <= incoming[1]:
        return math.inf
    return _times(x.magnitude, incoming[1]) / (least * (least - incoming[1])) + incoming[0] / (least - incoming[1])


def _product(node: Node, incoming: Sequence[float], span: Mapping[Value, Interval]) -> float:
    """Constant weights: the largest sum of absolute weights of an output times the error; else by ranges."""
    w = node.inputs[1]
    weights = w.node.constant if w is not None and w.node is not None else None
    bias = incoming[2] if len(incoming) > 2 else 0.0
    if weights is not None and incoming[1] == 0 and weights.array.ndim >= 2:
        axes = tuple(range(1, weights.array.ndim)) if node.op.name == "nn.conv" else (-2,)
        norms = np.abs(weights.array.astype(np.float64)).sum(axes)
        return (float(norms.max()) if norms.size else 0.0) * incoming[0] + bias
    first = node.inputs[0]
    inner = first.type.shape[-1] if first is not None and node.op.name == "nn.matmul" else None
    if not isinstance(inner, int):
        return math.inf
    a, b = incoming[0], incoming[1]
    x, y = _of(node, 0, span), _of(node, 1, span)
    return inner * (_times(x.magnitude, b) + _times(y.magnitude, a) + _times(a, b))
