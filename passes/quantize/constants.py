"""A graph with other constants in some places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.graph import Graph, Node, Value
from ..rebuild import Rebuild

__all__ = ["with_constants"]


def with_constants(graph: Graph, changed: Mapping[tuple[Node, int], Any]) -> Graph:
    """`changed` has the new array for an operand of a node; other readers of the old constant keep it."""

    def step(to: Rebuild, node: Node) -> None:
        held: dict[Value, Value | None] = {}
        for i, v in enumerate(node.inputs):
            if v is not None and (node, i) in changed:
                held[v] = to.now[v]
                to.now[v] = to.editor.constant(changed[node, i], v.name)
        to.keep(node)
        for v, now in held.items():
            to.now[v] = now

    return Rebuild(graph).finish(step)
