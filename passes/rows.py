"""Recognising work along rows, such as RMS norm: reductions of the last axis and what is elementwise around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir.graph import Node, Value
from ..ir.types import Float, Tensor

__all__ = ["row_group"]

F32 = Float("f32")
MOST = 24  # nodes of a group
LENGTHS = range(16, 1 << 16)  # shorter rows are better taken side by side, longer ones cut among threads

_REDUCTIONS = {"math.reduce_sum", "math.reduce_mean", "math.reduce_max"}


Users = Mapping[Value, Sequence[Node]]


def row_group(start: Node, users: Users, results: set[Value], order: Mapping[Node, int]) -> set[Node]:
    """The nodes from a reduction of the last axis on that can go through a tensor row by row, if there are any.

    Every value has the tensor's shape, or its shape with a last axis of 1. One value has readers outside, and the
    tensor's shape. A value that is computed for the first reduction alone comes along if what it is made of has other
    readers, which have to wait for it anyway.
    """
    if not _reduces(start):
        return set()
    full = _shape(start.inputs[0])
    shapes = (full, (*full[:-1], 1))
    group = {start, *_made_for(start, full, users, results)}
    best: set[Node] = set()
    waiting = dict.fromkeys(users.get(start.output, ()))
    open_ = {start.output}
    while waiting and len(group) < MOST:
        node = min(waiting, key=order.__getitem__)
        del waiting[node]
        if not (_elementwise(node, shapes) or (_reduces(node) and _shape(node.inputs[0]) == full)):
            break
        group.add(node)
        readers = users.get(node.output, [])
        waiting.update(dict.fromkeys(n for n in readers if n not in group))
        open_ = {v for v in (*open_, node.output) if v in results or not group.issuperset(users.get(v, ()))}
        if open_ == {node.output} and _shape(node.output) == full:
            best = set(group)
    return best


def _made_for(start: Node, full: tuple[Any, ...], users: Users, results: set[Value]) -> list[Node]:
    """The node that makes what `start` reduces, if it comes along: the square of x, where x is used again."""
    source = start.inputs[0]
    if source is None or source.node is None or source in results or users[source] != [start]:
        return []
    wide = [v for v in source.node.inputs if v is not None and _shape(v) == full]
    return [source.node] if _elementwise(source.node, (full,)) and all(len(users[v]) > 1 for v in wide) else []


def _shape(value: Value | None) -> tuple[Any, ...]:
    type = value.type if value is not None else None
    return type.shape if isinstance(type, Tensor) and type.elem is F32 else ()


def _reduces(node: Node) -> bool:
    """Whether a node reduces the last axis, of a length worth it, and keeps it."""
    if node.op.name not in _REDUCTIONS or not node.attr("keepdims"):
        return False
    shape = _shape(node.inputs[0])
    if not shape or not isinstance(shape[-1], int) or shape[-1] not in LENGTHS:
        return False
    return tuple(node.attr("axes") or ()) in ((len(shape) - 1,), (-1,))


def _elementwise(node: Node, shapes: tuple[tuple[Any, ...], ...]) -> bool:
    return node.op.has("elementwise") and len(node.outputs) == 1 and _shape(node.output) in shapes
