"""One fusion group: what becomes one kernel, seen the same way whether it is a `tile.kernel` or a single node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....ir.constants import Constant
from ....ir.dims import UNKNOWN, Extent, size
from ....ir.graph import Node, Value
from ....ir.types import Affine, Sign, Tensor

__all__ = ["Group", "group_of", "merged_types"]


@dataclass(frozen=True)
class Group:
    """Nodes in topological order over `operands`, pairs of (value inside, value outside).

    `known` has the constants among the values inside.
    """

    operands: tuple[tuple[Value, Value], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    known: Mapping[Value, Constant]


def group_of(node: Node, constants: Mapping[Value, Constant]) -> Group:
    """The group of a node of the graph; `constants` are the values outside that are known."""
    body = node.attrs.get("body") if node.op.name == "tile.kernel" else None
    if body is None:
        distinct = dict.fromkeys(v for v in node.inputs if v is not None)
        known = {v: constants[v] for v in distinct if v in constants}
        return Group(tuple((v, v) for v in distinct), (node,), node.outputs, known)
    pairs = tuple((i, o) for i, o in zip(body.inputs, node.inputs, strict=True) if o is not None)
    known = {i: constants[o] for i, o in pairs if o in constants}
    nodes = []
    for inner in body.nodes:
        if inner.constant is not None:
            known[inner.output] = inner.constant
        else:
            nodes.append(inner)
    return Group(pairs, tuple(nodes), body.outputs, known)


def merged_types(group: Group) -> dict[Value, Tensor]:
    """Types under which an elementwise group has as few axes as broadcasting allows; empty if there is nothing to gain.

    Neighbouring axes become one where every value has both in full or neither, so that `[1, 64, 7, 7] + [64, 1, 1]` is
    one loop over 64 and one over 49. Symbolic axes stay alone: they are what threads share.
    """
    values = dict.fromkeys(v for n in group.nodes for v in (*n.inputs, *n.outputs) if v is not None)  # in their order
    types = {v: v.type for v in values if isinstance(v.type, Tensor)}
    shapes = {t.shape for v in group.outputs if isinstance(t := v.type, Tensor)}
    if len(types) != len(values) or len(shapes) != 1:
        return {}
    (full,) = shapes
    if UNKNOWN in full or len(full) < 2 or any(_per_axis(t) for t in types.values()):
        return {}
    patterns: dict[Value, list[bool]] = {}
    for v, t in types.items():
        shape = (1,) * (len(full) - len(t.shape)) + t.shape
        if len(shape) != len(full) or any(d not in (1, f) for d, f in zip(shape, full, strict=True)):
            return {}
        patterns[v] = [d != 1 for d in shape]
    runs: list[list[int]] = []
    for axis, extent in enumerate(full):
        if extent == 1:
            continue
        previous = runs[-1][-1] if runs else None
        joins = (
            previous is not None
            and isinstance(extent, int)
            and isinstance(full[previous], int)
            and all(p[axis] == p[previous] for p in patterns.values())
        )
        if joins:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) == len(full):
        return {}
    merged: list[Extent] = [size(tuple(full[a] for a in run)) for run in runs]
    return {
        v: types[v].with_shape(tuple(m if p[run[0]] else 1 for m, run in zip(merged, runs, strict=True)) or (1,))
        for v, p in patterns.items()
    }


def _per_axis(type: Tensor) -> bool:
    """Whether the element type refers to an axis by number."""
    elem: Any = type.elem
    return isinstance(elem, (Affine, Sign)) and (elem.axis is not None or isinstance(elem.scale, Constant))
