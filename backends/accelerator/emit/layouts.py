"""Names for parts of tensors of rows: what a reshape or transpose means for the steps between elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ....ir.graph import Node, Value

__all__ = ["Layout", "dense", "derived", "reshaped", "restored"]


@dataclass(frozen=True)
class Layout:
    """Where a value lies: elements of a root from `first` on, with steps (in elements) along its own axes."""

    root: Value
    strides: tuple[int, ...]
    first: int = 0


def dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Steps of a tensor whose rows lie one after the other."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def derived(node: Node, strides: Sequence[int]) -> tuple[int, ...] | None:
    """Steps of a name's result, from those of its operand; None where the numbers would have to move."""
    x = node.inputs[0]
    assert x is not None
    if node.op.name == "shape.transpose":
        return tuple(strides[i] for i in _order(node))
    return reshaped(_extents(x), strides, _extents(node.output))


def restored(node: Node, strides: Sequence[int]) -> tuple[int, ...] | None:
    """The other way: steps of the operand, from those of the result."""
    x = node.inputs[0]
    assert x is not None
    if node.op.name == "shape.transpose":
        order = _order(node)
        return tuple(strides[order.index(i)] for i in range(len(order)))
    return reshaped(_extents(node.output), strides, _extents(x))


def _order(node: Node) -> list[int]:
    perm = node.attr("perm")
    rank = node.output.type.rank
    return [int(i) % rank for i in perm] if perm is not None else list(reversed(range(rank)))


def _extents(v: Value) -> tuple[int, ...]:
    return tuple(d for d in v.type.shape if isinstance(d, int))


def reshaped(shape: Sequence[int], strides: Sequence[int], to: Sequence[int]) -> tuple[int, ...] | None:
    """Axes that lie side by side are one; the new axes cut them, from the last on."""
    blocks: list[tuple[int, int]] = []  # (elements, step), the last axis first
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n == 1:
            continue
        if blocks and step == blocks[-1][0] * blocks[-1][1]:
            blocks[-1] = (blocks[-1][0] * n, blocks[-1][1])
        else:
            blocks.append((n, step))
    found: list[int] = []
    left, step, rest = 1, 1, iter(blocks)
    for n in reversed(to):
        if n > 1 and left == 1:
            left, step = next(rest)
        if left % n:
            return None
        found.append(step)
        left, step = left // n, step * n
    return tuple(reversed(found))
