"""Recognising attention: which nodes around a softmax `fuse` makes one kernel of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ..ir.graph import Node, Value
from ..ir.shapes import normal_axis
from ..ir.types import Float, Tensor

__all__ = ["attention_group", "moved"]

F32 = Float("f32")
LONGEST = 12  # nodes from a product to the softmax, or of the chain that brings an operand into its place

_VIEWS = {"shape.reshape", "shape.squeeze", "shape.unsqueeze"}
_MOVES = {*_VIEWS, "shape.transpose", "shape.slice", "shape.expand"}

_Alone: TypeAlias = Callable[[Value | None, Node], Node | None]
"""The node that computes a value for one reader only, or None."""


def attention_group(softmax: Node, users: Mapping[Value, Sequence[Node]], results: set[Value]) -> set[Node]:
    """The nodes of softmax(f(q @ k)) @ v around a softmax over the last axis; empty where it is not that.

    f is elementwise (scale, mask). Transposes, slices and factors of q, k and v alone come along, and a transpose of
    the result: the kernel copies what it reads anyway. Reshapes of what lies in memory stay out, they cost nothing.
    """

    def alone(value: Value | None, reader: Node) -> Node | None:
        if value is None or value in results or users.get(value) != [reader]:
            return None
        return value.node

    weights = softmax.output
    readers = users.get(weights, [])
    if not _is_matrix(weights) or len(readers) != 1 or weights in results:
        return set()
    rank = len(_shape(weights))
    second = readers[0]
    if normal_axis(softmax.attr("axis"), rank) != rank - 1 or second.op.name != "nn.matmul":
        return set()
    q_to_softmax = _back_to_product(softmax.inputs[0], softmax, alone)
    if not q_to_softmax or second.inputs[0] is not weights:
        return set()
    first = q_to_softmax[-1]
    (q, k), v = first.inputs, second.inputs[1]
    if not all(_is_matrix(x) for x in (q, k, v, second.output)) or _shape(weights)[:-2] != _shape(second.output)[:-2]:
        return set()
    if not isinstance(_shape(q)[-1], int) or not isinstance(_shape(v)[-1], int):
        return set()
    group = {softmax, second, *q_to_softmax}
    for value, reader in ((q, first), (k, first), (v, second)):
        group.update(moved(value, reader, alone))
    readers = users.get(second.output, [])
    if len(readers) == 1 and second.output not in results and readers[0].op.name == "shape.transpose":
        group.add(readers[0])
    return group


def _shape(value: Value | None) -> tuple[Any, ...]:
    type = value.type if value is not None else None
    return type.shape if isinstance(type, Tensor) else ()


def _is_matrix(value: Value | None) -> bool:
    type = value.type if value is not None else None
    return isinstance(type, Tensor) and type.elem is F32 and len(type.shape) >= 2 and 0 not in type.shape


def _back_to_product(value: Value | None, reader: Node, alone: _Alone, room: int = LONGEST) -> list[Node]:
    """The elementwise nodes from a value back to a product, along the scores' own path and not that of a mask."""
    node = alone(value, reader)
    if node is None or not room:
        return []
    if node.op.name == "nn.matmul":
        return [node] if _is_matrix(value) else []
    if not node.op.has("elementwise"):
        return []
    for operand in node.inputs:
        found = _back_to_product(operand, node, alone, room - 1) if _shape(operand) == _shape(value) else []
        if found:
            return [node, *found]
    return []


def moved(value: Value | None, reader: Node, alone: _Alone) -> list[Node]:
    """The chain of nodes that bring an operand into its place."""
    chain: list[Node] = []
    while len(chain) < LONGEST:
        node = alone(value, reader)
        if node is None or (node.op.name not in _MOVES and not _scales(node)):
            break
        chain.append(node)
        value, reader = node.inputs[0], node
    while chain and chain[-1].op.name in _VIEWS:
        chain.pop()
    return chain


def _scales(node: Node) -> bool:
    """Whether a node multiplies or divides by one number."""
    if node.op.name not in ("math.mul", "math.div") or node.inputs[1] is None:
        return False
    type = node.inputs[1].type
    return isinstance(type, Tensor) and type.elem is F32 and all(d == 1 for d in type.shape)
