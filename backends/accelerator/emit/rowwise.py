"""Which nodes work on rows, and which of them stay together in local memory: softmax, norms, changes of scale.

A node has a *space*: R rows of L numbers. Operands are full [R, L], a number a row, one row for all, or one number.

    %m = math.reduce_max(%x) {axes = [3]}      [R, L] -> [R, 1]
    %d = math.sub(%m, %x)                      one number a row, and a full operand
    %e = quant.table(%d, %exp)                 and so on: one group, whose tensors between them never leave the chip
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence

from ....ir.graph import Graph, Node, Value
from ....ir.types import Int, Tensor
from ..isa.instructions import TYPES
from .vector import KINDS, ROWS

__all__ = ["NAMES", "constant", "extents", "form_of", "named", "ordered", "rowwise", "space_of", "wide"]

NAMES = {"shape.reshape", "shape.transpose", "shape.unsqueeze", "shape.squeeze"}
"""Ops that give the same numbers another shape: nothing is done for them."""
LONGEST_ROW = (1 << 13) - 1  # numbers: what the field of `row` holds


def wide(v: Value | None) -> bool:
    """Whether a value is a tensor of integers of known size that vector instructions take."""
    return (
        v is not None
        and isinstance(v.type, Tensor)
        and v.type.static
        and isinstance(v.type.elem, Int)
        and v.type.elem.name in TYPES[1:]
    )


def constant(v: Value | None) -> bool:
    return v is None or (v.node is not None and v.node.constant is not None)


def extents(v: Value) -> tuple[int, ...]:
    return tuple(d for d in v.type.shape if isinstance(d, int))


def space_of(node: Node) -> tuple[int, int] | None:
    """(rows, numbers in a row) of a node that works on rows, None for others."""
    op = node.op.name
    values = [v for v in node.inputs if v is not None]
    if len(node.outputs) != 1 or not all(map(wide, (*values, node.output))) or all(map(constant, values)):
        return None
    if op in ROWS:
        shape, axes = extents(values[0]), node.attr("axes")
        if axes is None or [a % len(shape) for a in axes] != [len(shape) - 1] or not node.attr("keepdims"):
            return None
    elif op in KINDS or op == "quant.table":
        shape = extents(node.output)
        if op == "quant.requantize" and not _scales(node, shape):
            return None
        if op in ("quant.requantize", "quant.add") and not _narrow(node):
            return None
        if op in ("quant.table", "quant.requantize"):
            if not all(map(constant, values[1:])) or constant(values[0]):
                return None
            values = values[:1]
    else:
        return None
    if not shape or not 0 < shape[-1] <= LONGEST_ROW or 0 in shape:
        return None
    if any(form_of(extents(v), shape) is None for v in values):
        return None
    return math.prod(shape[:-1]), shape[-1]


def _scales(node: Node, shape: Sequence[int]) -> bool:
    """Whether the factors of a requantisation are one for all, or one a column."""
    factor = node.inputs[1]
    return factor is not None and (not factor.type.shape or node.attr("axis") % len(shape) == len(shape) - 1)


def _narrow(node: Node) -> bool:
    """Whether the numbers of a change of scale fit registers, which have 44 bits."""
    most = max(abs(node.attr(n)) for n in ("a_multiplier", "b_multiplier")) if node.op.name == "quant.add" else 0
    return node.output.type.elem.bits <= 32 and most < 1 << 43  # type: ignore[union-attr]


def form_of(shape: Sequence[int], space: Sequence[int]) -> str | None:
    """How an operand lies in the space of a node: `full`, `rows` (one number each), `columns` (one row) or `one`."""
    mine = (*[1] * (len(space) - len(shape)), *shape)
    if len(shape) > len(space):
        return None
    if mine == tuple(space):
        return "full"
    if math.prod(mine) == 1:
        return "one"
    if mine[-1] == 1 and mine[:-1] == tuple(space[:-1]):
        return "rows"
    return "columns" if mine[-1] == space[-1] and math.prod(mine[:-1]) == 1 else None


def named(node: Node, images: Container[Value]) -> bool:
    """Whether a node gives numbers of rows another shape."""
    x = node.inputs[0] if node.inputs else None
    if node.op.name not in NAMES or not wide(x) or not wide(node.output) or constant(x):
        return False
    return x not in images and node.output not in images and all(map(constant, node.inputs[1:]))


def rowwise(graph: Graph, inside: Mapping[Node, Sequence[Node]], images: Container[Value]) -> list[tuple[Node, ...]]:
    """Nodes on rows in groups that run in one go: those of one space, where nothing else is in between.

    `inside` has what runs together already, by node.
    """
    groups: list[list[Node]] = []
    of: dict[Node, int] = {}  # nodes of ours
    spaces: list[tuple[int, int]] = []

    def together(node: Node) -> Sequence[Node]:
        return inside.get(node) or (groups[of[node]] if node in of else (node,))

    for node in graph.nodes:
        if node in inside or any(v in images for v in (*node.inputs, *node.outputs)):
            continue
        space = space_of(node)
        if space is None:
            continue
        near = sorted({of[m] for m in _makers(node) if m in of}, reverse=True)
        fits = (i for i in near if _same(spaces[i], space) and not _around(node, groups[i], together))
        mine = next(fits, None)
        if mine is None:
            mine = len(groups)
            groups.append([])
            spaces.append(space)
        elif space[1] > spaces[mine][1]:
            spaces[mine] = space
        groups[mine].append(node)
        of[node] = mine
    return [tuple(g) for g in groups]


def _same(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] == b[0] and (a[1] == b[1] or 1 in (a[1], b[1]))


def _around(node: Node, group: Sequence[Node], together: Callable[[Node], Sequence[Node]]) -> bool:
    """Whether a node needs something that others make from results of the group: it would have to run in between."""
    members = set(group)
    seen: set[Node] = set()
    look = [m for m in _makers(node) if m not in members]
    while look:
        one = look.pop()
        if one in members:
            return True
        if one not in seen:
            parts = together(one)
            seen.update(parts)
            look += [m for part in parts for m in _makers(part)]
    return False


def _makers(node: Node) -> list[Node]:
    return [v.node for v in node.inputs if v is not None and v.node is not None]


def ordered(graph: Graph, units: Sequence[tuple[Node, ...]]) -> list[tuple[Node, ...]]:
    """The units one after the other, each behind what it needs; where there is a choice, by their last nodes."""
    import heapq

    place = {n: i for i, n in enumerate(graph.nodes)}
    of = {n: i for i, unit in enumerate(units) for n in unit}
    needs: list[set[int]] = [
        {of[v.node] for n in unit for v in n.inputs if v is not None and v.node is not None and v.node in of} - {i}
        for i, unit in enumerate(units)
    ]
    users: dict[int, list[int]] = {}
    for i, before in enumerate(needs):
        for j in before:
            users.setdefault(j, []).append(i)
    left = [len(before) for before in needs]
    ready = [(place[unit[-1]], i) for i, unit in enumerate(units) if not left[i]]
    heapq.heapify(ready)
    found = []
    while ready:
        _, i = heapq.heappop(ready)
        found.append(units[i])
        for j in users.get(i, ()):
            left[j] -= 1
            if not left[j]:
                heapq.heappush(ready, (place[units[j][-1]], j))
    assert len(found) == len(units), "groups need each other"
    return found
