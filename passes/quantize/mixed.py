"""Bits layer by layer: how much each layer suffers from fewer bits, and which bits a budget buys.

The loss of a layer at so many bits is the relative squared error of the network's outputs when only that layer's
weights are rounded. Losses of layers add up nearly enough (they are independent noise), so the best bits for a budget
lie on the lower hulls of the layers' (size, loss) curves: the segments that cost least for the bits they save are taken
until the budget is met, which is optimal but for the last step (Shoham and Gersho 1988).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ...ir.diagnostics import error
from ...ir.graph import Graph, Node, Value
from .evaluate import run
from .formats import format_of
from .plan import Layer, Plan
from .round import round_layer
from .settings import Quantize, Weights
from .sweep import bound_symbols, chunks

__all__ = ["allocate", "sensitivities"]

CANDIDATES = (8, 6, 4, 3, 2)
HELD = 1 << 27  # elements of all values of the network that are kept: half a gigabyte
SAMPLES = 64

Losses = dict[Node, dict[int, float]]


def sensitivities(
    graph: Graph,
    plan: Plan,
    options: Quantize,
    batches: Sequence[Mapping[str, Any]],
    bits: Sequence[int] = CANDIDATES,
    only: Mapping[Node, Weights] | None = None,
) -> Losses:
    """The loss of each layer at each number of bits (or, with `only`, at the one that it names for the layer)."""
    inputs = chunks(graph, batches, SAMPLES)[0]
    symbols = bound_symbols(graph, inputs)
    count = _samples(graph, inputs, symbols)
    if count < len(inputs[0]) and symbols:
        inputs = [a[:count] for a in inputs]
        symbols = bound_symbols(graph, inputs)
    values: dict[Value | None, Any] = {None: None, **dict(zip(graph.inputs, inputs, strict=True))}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            values.update(zip(node.outputs, run(node, [values[v] for v in node.inputs], symbols), strict=True))
        found: Losses = {}
        for layer in plan.layers.values():
            tried = bits if only is None else [b for b in (only[layer.node],) if isinstance(b, int)]
            found[layer.node] = {b: _loss(graph, layer, b, options, values, symbols) for b in tried}
    return found


def allocate(plan: Plan, losses: Losses, options: Quantize, fixed: Mapping[Node, int]) -> dict[Node, Weights]:
    """Bits for every layer, `average` of them a weight; `fixed` layers have theirs. IG0434 when that cannot be."""
    assert options.average is not None
    layers = plan.layers
    room = options.average * sum(layer.weights.size for layer in layers.values())
    found = {node: fixed.get(node, max(losses[node])) for node in layers}
    used = sum(layers[node].weights.size * b for node, b in found.items())
    steps = []
    for node, layer in layers.items():
        if node not in fixed:
            hull = _hull(losses[node])
            steps += [
                ((losses[node][low] - losses[node][high]) / ((high - low) * layer.weights.size), node, high, low)
                for high, low in itertools.pairwise(hull)
            ]
    for _, node, _, low in sorted(steps, key=lambda s: s[0]):
        if used <= room:
            break
        used -= layers[node].weights.size * (found[node] - low)
        found[node] = low
    if used > room:
        least = used / sum(layer.weights.size for layer in layers.values())
        held = ", ".join(layers[node].name for node in fixed) or "none"
        what = f"{options.average:g} bits a weight cannot be met: {least:.2f} are the least"
        raise error("IG0434", what, label=f"layers with bits of their own: {held}", hint="see `edges` and `keep`")
    return {node: cast(Weights, b) for node, b in found.items()}


def _hull(losses: Mapping[int, float]) -> list[int]:
    """Bits from many to few on the lower convex hull of the losses."""
    hull: list[int] = []
    for b in sorted(losses, reverse=True):
        while len(hull) > 1:
            a, m = hull[-2], hull[-1]
            if (losses[m] - losses[a]) * (m - b) <= (losses[b] - losses[m]) * (a - m):
                break
            hull.pop()
        hull.append(b)
    return hull


def _samples(graph: Graph, inputs: Sequence[Any], symbols: Mapping[str, int]) -> int:
    """How many samples can be held with all values of the network."""
    size = 0
    for node in graph.nodes:
        for v in node.outputs:
            one = 1
            for extent in v.type.shape:
                one *= extent if isinstance(extent, int) else 1
            size += one
    return max(1, min(len(inputs[0]) if inputs[0].ndim else 1, HELD // max(size, 1)))


def _loss(
    graph: Graph, layer: Layer, bits: int, options: Quantize, values: Mapping[Value | None, Any], symbols: Any
) -> float:
    """Squared error over squared norm of the outputs with one layer rounded; only what depends on it is computed."""
    o = options
    made = round_layer(layer, format_of(bits), per=o.per, group=o.group, scales=o.scales, symmetric=o.symmetric)
    w = layer.node.inputs[1]
    changed: dict[Value | None, Any] = {}
    for node in graph.nodes:
        if node is layer.node:
            arrays = [made.real if v is w else values[v] for v in node.inputs]
        elif any(v in changed for v in node.inputs):
            arrays = [changed.get(v, values[v]) for v in node.inputs]
        else:
            continue
        results = run(node, arrays, symbols)
        if node is layer.node and o.bias:  # as the correction of biases will do
            axis = 1 if layer.is_conv else results[0].ndim - 1
            rest = tuple(i for i in range(results[0].ndim) if i != axis)
            shift = np.mean(values[node.output] - results[0], axis=rest, keepdims=True)
            results = (results[0] + shift,)
        changed.update(zip(node.outputs, results, strict=True))
    noise = signal = 0.0
    for v in graph.outputs:
        signal += float(np.sum(np.square(values[v]), dtype=np.float64))
        if v in changed:
            noise += float(np.sum(np.square(changed[v] - values[v]), dtype=np.float64))
    return noise / signal if signal > 0 else noise
