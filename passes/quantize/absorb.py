"""What `equalize` may do besides where the calibration data allow it: drop clips, and move high biases on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.graph import Graph, Node
from ..rebuild import Rebuild, array_of
from .evaluate import evaluate
from .plan import Layer
from .sweep import chunks

__all__ = ["absorbed", "movable", "unclipped"]

MARGIN = 0.9  # of a clip: what the data stay below, other inputs will hardly reach


def unclipped(graph: Graph, batches: Sequence[Mapping[str, Any]], samples: int) -> tuple[Graph, int]:
    """The graph without the upper clips that nothing comes near, and how many these were: ReLU6 becomes ReLU."""
    limits = {}
    for node in graph.nodes:
        limit = array_of(node.inputs[1]) if node.op.name == "math.minimum" else None
        if limit is not None and limit.size == 1 and array_of(node.inputs[0]) is None:
            limits[node] = float(limit.reshape(-1)[0])
    reached = dict.fromkeys(limits, -math.inf)

    def observe(node: Node, results: tuple[Any, ...]) -> None:
        if node in reached and results[0].size:
            reached[node] = max(reached[node], float(results[0].max()))

    for arrays in chunks(graph, batches, samples):
        evaluate(graph, arrays, observe)
    idle = {n for n, limit in limits.items() if -math.inf < reached[n] < MARGIN * limit}

    def step(to: Rebuild, node: Node) -> None:
        x = to.now[node.inputs[0]] if node in idle else None
        if x is None:
            to.keep(node)
        else:
            to.put(node, (x,))

    return (Rebuild(graph).finish(step) if idle else graph), len(idle)


def movable(second: Layer) -> bool:
    """Whether a constant added to all inputs of a layer is a constant added to its outputs: padding adds zeros."""
    return not second.is_conv or not any(second.node.attr("pads") or ())


def absorbed(c: Any, w: Any, second: Layer) -> Any:
    """What `c`, added to each input channel, adds to each output channel: f32[M]."""
    if not second.is_conv:
        return np.tensordot(c, w, (0, 0)).astype(np.float32)
    m = second.matrix(w).astype(np.float64)
    window = math.prod(w.shape[2:])
    each = np.repeat(c.reshape(second.groups, 1, -1), window, axis=2)
    return (m * each).sum(-1).reshape(-1).astype(np.float32)
