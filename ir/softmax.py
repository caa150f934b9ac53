"""The softmax in integers that pass `integer` writes, seen again as one thing by fusion and by the backends.

m = math.reduce_max(scores)            along the last axis, as all reductions here
b = ...(m - scores)                    how far below the largest, a whole number
p = quant.table(b, exponentials)
t = math.reduce_sum(p)
y = (p * one + (t >> 1)) / t           the share of the sum, in units of 1 / one, rounded to the nearest
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .constants import Constant
from .graph import Node, Value
from .shapes import normal_axes
from .types import Affine, Int, Tensor

__all__ = ["IntegerSoftmax", "integer_softmax"]

_STEPS = {"quant.store", "quant.quantize", "math.mul", "math.add", "math.shift_right", "math.cast"}

LONGEST = 8
"""Nodes from the difference to the table."""

ROOM = 1 << 31
MOST_ONE = 1 << 22
"""Below it a share that is estimated in floats is off by less than one."""


@dataclass(frozen=True)
class IntegerSoftmax:
    """`nodes` are all of it, in no order; `differences` those from scores and `largest` to `below`."""

    scores: Value
    largest: Value
    differences: tuple[Node, ...]
    below: Value
    exponentials: Any
    one: int
    share: Node
    nodes: frozenset[Node]


def integer_softmax(share: Node, constant: Callable[[Value | None], Any]) -> IntegerSoftmax | None:
    """The softmax that ends with the division `share`; `constant` gives the array of a value that is known, or None."""
    if share.op.name != "math.div" or not isinstance(share.output.type, Tensor) or share.output.type.elem != Int("i32"):
        return None
    shape = share.output.type.shape
    if not shape:
        return None

    def made_by(value: Value | None, name: str) -> Node | None:
        node = None if value is None else value.node
        return node if node is not None and node.op.name == name else None

    def last(node: Node) -> bool:
        type = node.inputs[0].type if node.inputs[0] is not None else None
        axes = node.attr("axes")
        return (
            isinstance(type, Tensor)
            and type.shape == shape
            and bool(node.attr("keepdims"))
            and axes is not None
            and normal_axes(axes, len(shape)) == (len(shape) - 1,)
        )

    plus, total = made_by(share.inputs[0], "math.add"), made_by(share.inputs[1], "math.reduce_sum")
    scaled = None if plus is None else made_by(plus.inputs[0], "math.mul")
    half = None if plus is None else made_by(plus.inputs[1], "math.shift_right")
    if plus is None or total is None or scaled is None or half is None or not last(total):
        return None
    table, one, by = made_by(total.inputs[0], "quant.table"), constant(scaled.inputs[1]), constant(half.inputs[1])
    if table is None or scaled.inputs[0] is not table.output or half.inputs[0] is not total.output:
        return None
    exponentials = constant(table.inputs[1])
    if one is None or by is None or one.size != 1 or by.size != 1 or int(by.reshape(())) != 1 or exponentials is None:
        return None
    one = int(one.reshape(()))
    if not 0 < one < MOST_ONE or one * (int(exponentials.max()) + 1) >= ROOM // 2:
        return None
    if table.attr("first") != 0 or exponentials.min() < 0 or exponentials[0] < 1:  # so no sum is 0
        return None
    found = _differences(table.inputs[0], constant)
    if found is None or not last(found[0]):
        return None
    largest, differences = found
    scores, below = largest.inputs[0], table.inputs[0]
    assert scores is not None and below is not None
    nodes = frozenset({share, plus, total, scaled, half, table, largest, *differences})
    return IntegerSoftmax(scores, largest.output, differences, below, exponentials, one, share, nodes)


def _single(array: Any) -> bool:
    """Whether it is one number for all differences: the chain is the same function for every key."""
    return array is not None and array.size == 1


def _differences(below: Value | None, constant: Callable[[Value | None], Any]) -> tuple[Node, tuple[Node, ...]] | None:
    """The reduction, and the nodes from it and the scores to a value: a subtraction, of casts perhaps, and a chain."""
    chain: list[Node] = []
    node = None if below is None else below.node
    while node is not None and node.op.name in _STEPS:
        if len(chain) == LONGEST or not all(_single(constant(v)) for v in node.inputs[1:]):
            return None
        to = dict(node.attrs).get("to")
        if isinstance(to, Affine) and (isinstance(to.scale, Constant) or isinstance(to.zero, Constant)):
            return None
        chain.append(node)
        node = None if node.inputs[0] is None else node.inputs[0].node
    if node is None or node.op.name != "math.sub":
        return None
    chain.append(node)
    sides: list[Value | None] = []
    for v in node.inputs:
        cast = None if v is None else v.node
        if cast is not None and cast.op.name == "math.cast":
            chain.append(cast)
            v = cast.inputs[0]
        sides.append(v)
    largest = None if sides[0] is None else sides[0].node
    if largest is None or largest.op.name != "math.reduce_max" or largest.inputs[0] is not sides[1]:
        return None
    return largest, tuple(reversed(chain))
