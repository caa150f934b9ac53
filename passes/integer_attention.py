"""Recognising attention in integers: which nodes around an integer softmax `fuse` makes one kernel of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir.graph import Node, Value
from ..ir.softmax import integer_softmax
from ..ir.types import Int, Tensor
from .attention import moved
from .rebuild import array_of

__all__ = ["integer_attention_group"]

LONGEST = 12  # nodes between a product and the softmax

_ALSO_ELEMENTWISE = {
    "quant.requantize",
    "quant.table",
    "quant.quantize",
    "quant.dequantize",
    "quant.store",
    "quant.load",
}

Users = Mapping[Value, Sequence[Node]]


def integer_attention_group(share: Node, users: Users, results: set[Value]) -> set[Node]:
    """The nodes of g(softmax(f(q @ k))) @ v around the division that ends a softmax; empty where it is not that.

    Both products are of bytes, f and g elementwise. As in floats, transposes of q, k and v come along, and what is
    done with the result element by element, and a transpose of it.
    """
    found = integer_softmax(share, array_of)
    if found is None:
        return set()

    def reader(value: Value) -> Node | None:
        readers = users.get(value, ())
        return readers[0] if len(readers) == 1 and value not in results else None

    def alone(value: Value | None, by: Node) -> Node | None:
        return None if value is None or reader(value) is not by else value.node

    group = set(found.nodes)
    shape = _shape(share.output)
    if any(not group.issuperset(users.get(n.output, ())) or n.output in results for n in group - {share}):
        return set()
    # up to the first product
    value: Value | None = found.scores
    if value in results or not group.issuperset(users.get(found.scores, ())):
        return set()
    node = found.scores.node
    before = _back(node, shape, alone)
    if not before:
        return set()
    group.update(before)
    first = before[-1]
    # down to the second one
    node = reader(share.output)
    value = share.output
    while node is not None and _elementwise(node) and node.inputs[0] is value and _shape(node.output) == shape:
        group.add(node)
        value = node.output
        node = reader(value)
    if node is None or node.op.name != "quant.matmul" or node.inputs[0] is not value or len(node.inputs) > 2:
        return set()
    second = node
    operands = (*first.inputs, second.inputs[0], second.inputs[1])
    if not all(_is_matrix(v) for v in operands) or len(first.inputs) > 2 or second.inputs[1] is value:
        return set()
    if _shape(share.output)[:-2] != _shape(second.output)[:-2]:
        return set()
    if not isinstance(_shape(first.inputs[0])[-1], int) or not isinstance(_shape(second.output)[-1], int):
        return set()
    group.add(second)
    for v, by in ((first.inputs[0], first), (first.inputs[1], first), (second.inputs[1], second)):
        group.update(moved(v, by, alone))
    value, node = second.output, reader(second.output)
    while node is not None and _elementwise(node) and node.inputs[0] is value and _shape(node.output) == _shape(value):
        group.add(node)
        value, node = node.output, reader(node.output)
    if node is not None and node.op.name == "shape.transpose":
        group.add(node)
    return group


def _back(node: Node | None, shape: Any, alone: Any, room: int = LONGEST) -> list[Node]:
    """The elementwise nodes from one of them back to a product, along the scores' own path and not that of a mask."""
    if node is None or not room:
        return []
    if node.op.name == "quant.matmul":
        return [node]
    if not _elementwise(node):
        return []
    for operand in node.inputs:
        found = _back(alone(operand, node), shape, alone, room - 1) if _shape(operand) == shape else []
        if found:
            return [node, *found]
    return []


def _elementwise(node: Node) -> bool:
    return (node.op.has("elementwise") or node.op.name in _ALSO_ELEMENTWISE) and len(node.outputs) == 1


def _shape(value: Value | None) -> tuple[Any, ...]:
    type = value.type if value is not None else None
    return type.shape if isinstance(type, Tensor) else ()


def _is_matrix(value: Value | None) -> bool:
    """Whether a value that is no constant has matrices of bytes."""
    type = value.type if value is not None else None
    plain = isinstance(type, Tensor) and isinstance(type.elem, Int) and type.elem.bits == 8 and len(type.shape) >= 2
    return plain and array_of(value) is None and 0 not in _shape(value)
