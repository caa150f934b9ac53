"""What a pass may know of a target: which nodes it runs, and what they cost.

Passes never ask which target they run for; they are handed a `Target`. A new backend therefore gets every pass, and a
new pass every backend.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from .dims import Dim, substitute
from .dims import size as count
from .graph import Graph, Node
from .types import Tensor

__all__ = ["Cost", "Target", "node_cost"]


@dataclass(frozen=True)
class Cost:
    """Predicted effort of a node or a graph. Symbolic extents count as `substitute` in `node_cost` says."""

    flops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float | None = None  # where the target can say
    notes: tuple[str, ...] = field(default_factory=tuple)

    def __add__(self, other: Cost) -> Cost:
        seconds = None if self.seconds is None or other.seconds is None else self.seconds + other.seconds
        return Cost(
            self.flops + other.flops,
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            seconds,
            self.notes + other.notes,
        )


class Target(Protocol):
    """A target as passes see it."""

    name: str

    def legal(self, node: Node) -> str:
        """Empty when the target runs the node, else the reason why not."""

    def cost(self, graph: Graph) -> Cost:
        """Predicted cost of one run."""


def _bytes(t: object, sizes: dict[str, int]) -> int:
    if not isinstance(t, Tensor):
        return 0
    n = count(tuple(substitute(d, sizes) for d in t.shape))
    return 0 if isinstance(n, Dim) else n * t.dtype.itemsize


def node_cost(node: Node, sizes: dict[str, int] | None = None) -> Cost:
    """Floating-point (or integer) operations and bytes of one node; symbols take their value in `sizes`, default 1."""
    free = {s: 1 for v in (*node.inputs, *node.outputs) if v is not None for d in v.type.shape for s in _symbols(d)}
    sizes = {**free, **(sizes or {})}
    if node.op.name == "const":
        return Cost()
    body = node.attrs.get("body")
    if isinstance(body, Graph):
        inner = sum((node_cost(n, sizes).flops for n in body.nodes), 0)
        flops = inner
    elif node.op.flops is not None:
        shapes = [None if v is None else tuple(substitute(d, sizes) for d in v.type.shape) for v in node.inputs]
        known = {k: v for k, v in node.attrs.items()}
        found = node.op.flops(*shapes, **known)
        flops = 0 if isinstance(found, Dim) else found
    elif node.op.has("structural"):
        flops = 0
    else:
        n = count(tuple(substitute(d, sizes) for d in node.outputs[0].type.shape))
        if node.op.name.startswith("math.reduce") and node.inputs[0] is not None:
            n = count(tuple(substitute(d, sizes) for d in node.inputs[0].type.shape))
        if "kernel" in node.attrs:
            for k in node.attrs["kernel"]:
                n = n * k
        flops = 0 if isinstance(n, Dim) else n
    read = sum(_bytes(v.type, sizes) for v in node.inputs if v is not None)
    return Cost(flops, read, sum(_bytes(v.type, sizes) for v in node.outputs))


def _symbols(extent: object) -> set[str]:
    return {n for key, _ in extent.terms for n in key if n != "?"} if isinstance(extent, Dim) else set()
