"""Segments: the graph cut where everything goes through a single value, such as between residual blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...ir.graph import Graph, Node, Value
from .evaluate import run
from .plan import Plan

__all__ = ["Segment", "compute", "segments"]


@dataclass(frozen=True)
class Segment:
    """`nodes` compute `target` from `source` and constants alone; nothing else of theirs is read outside."""

    source: Value
    target: Value
    nodes: tuple[Node, ...]


def segments(graph: Graph, plan: Plan, layers: int = 2) -> list[Segment]:
    """Segments in order, short ones joined until they have `layers` layers; none where there are several inputs."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return []
    order = [n for n in graph.nodes if n.constant is None]
    last = {v: i for i, node in enumerate(order) for v in node.inputs if v is not None}
    found: list[Segment] = []
    source, nodes, alive, count = graph.inputs[0], [], {graph.inputs[0]}, 0
    for i, node in enumerate(order):
        nodes.append(node)
        count += node in plan.layers
        alive = {v for v in alive | set(node.outputs) if last.get(v, -1) > i or v is graph.outputs[0]}
        if len(alive) != 1:
            continue
        (target,) = alive
        if target is graph.outputs[0] or (count >= layers and target in plan.points):
            found.append(Segment(source, target, tuple(nodes)))
            source, nodes, count = target, [], 0
    return [s for s in found if any(n in plan.layers for n in s.nodes)]


def compute(segment: Segment, values: Mapping[Value | None, Any], symbols: Mapping[str, int]) -> Any:
    """The target by the quick evaluator; `values` has the source and all constants."""
    held: dict[Value | None, Any] = dict(values)
    for node in segment.nodes:
        held.update(zip(node.outputs, run(node, [held[v] for v in node.inputs], symbols), strict=True))
    return held[segment.target]
