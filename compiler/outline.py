"""An outline of a graph: ops, types, wiring and cost of its nodes, without the data. What a report draws."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.target import node_cost

__all__ = ["Outline", "OutlineNode", "attrs_text", "outline"]


@dataclass(frozen=True)
class OutlineNode:
    """`reads` are positions in the outline's nodes; inputs are nodes of op `input`, constants are left out."""

    op: str
    name: str
    type: str
    attrs: str
    reads: tuple[int, ...]
    flops: int = 0
    bytes: int = 0
    weights: int = 0  # bytes of the constants it reads


@dataclass(frozen=True)
class Outline:
    nodes: tuple[OutlineNode, ...]
    outputs: tuple[tuple[str, int], ...]

    def dumps(self) -> str:
        rows = [[n.op, n.name, n.type, n.attrs, list(n.reads), n.flops, n.bytes, n.weights] for n in self.nodes]
        return json.dumps({"nodes": rows, "outputs": self.outputs}, ensure_ascii=False)

    @classmethod
    def loads(cls, text: str) -> Outline:
        """What `dumps` gave; ValueError for anything else."""
        try:
            data = json.loads(text)
            nodes = tuple(
                OutlineNode(
                    str(r[0]), str(r[1]), str(r[2]), str(r[3]), tuple(map(int, r[4])), int(r[5]), int(r[6]), int(r[7])
                )
                for r in data["nodes"]
            )
            outputs = tuple((str(name), int(at)) for name, at in data["outputs"])
        except (KeyError, TypeError, IndexError) as e:
            raise ValueError(f"no outline: {e}") from None
        if any(not 0 <= r < i for i, n in enumerate(nodes) for r in n.reads) or any(
            not 0 <= i < len(nodes) for _, i in outputs
        ):
            raise ValueError("no outline: it reads nodes that are not there")
        return cls(nodes, outputs)


def outline(graph: Graph) -> Outline:
    """The outline of a graph."""
    nodes: list[OutlineNode] = []
    place: dict[Value, int] = {}
    for v in graph.inputs:
        place[v] = len(nodes)
        nodes.append(OutlineNode("input", v.name, str(v.type), "", ()))
    returned = set(graph.outputs)
    for node in graph.nodes:
        if node.constant is not None and not any(v in returned for v in node.outputs):
            continue
        reads = tuple(dict.fromkeys(place[v] for v in node.inputs if v is not None and v in place))
        for v in node.outputs:
            place[v] = len(nodes)
        cost = node_cost(node)
        name = node.output.name or (node.loc.sources[0] if node.loc is not None and node.loc.sources else "")
        moved = cost.bytes_read + cost.bytes_written
        nodes.append(
            OutlineNode(
                _op(node), name, str(node.output.type), attrs_text(node.attrs), reads, cost.flops, moved, _weights(node)
            )
        )
    return Outline(tuple(nodes), tuple((n, place[v]) for n, v in zip(graph.output_names, graph.outputs, strict=True)))


def _op(node: Node) -> str:
    """The op; of a fused kernel, the ops inside."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return node.op.name
    inside = [n.op.name.rpartition(".")[2] for n in body.nodes if n.constant is None]
    shown = inside if len(inside) <= 5 else [*inside[:4], f"+{len(inside) - 4}"]
    return f"{node.op.name}: {' '.join(shown)}"


def attrs_text(attrs: Attrs) -> str:
    """Attributes for a reader: `pads = [1, 1]`, without data and bodies."""
    return ", ".join(f"{k} = {_attr(v)}" for k, v in attrs.items() if k not in ("value", "body"))


def _attr(value: Any) -> str:
    if isinstance(value, Attrs):
        return "{" + attrs_text(value) + "}"
    return f"[{', '.join(map(_attr, value))}]" if isinstance(value, tuple) else str(value)


def _weights(node: Node) -> int:
    found = [v.node.constant for v in node.inputs if v is not None and v.node is not None]
    return sum(c.array.nbytes for c in found if c is not None)
