"""Tensors in DRAM: channels last, packed by lifetimes. Concatenations are written in parts, reshapes are names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ....ir.graph import Node, Value
from ....ir.types import Int
from ....ir.types import Tensor as Type
from ..allocate import Buffer, Placement, place
from .contraction import Activation
from .groups import Group

__all__ = ["ALIGNED", "Tensor", "Tensors", "View", "input_of", "int_of", "shape_of"]

ALIGNED = 64  # bytes in DRAM


@dataclass(frozen=True)
class Tensor:
    """A tensor at the border of a program: bytes [1, rows, columns, channels] from `base` on; shape as in the graph."""

    name: str
    base: int
    shape: tuple[int, ...]
    signed: bool


@dataclass
class View:
    """Where a value lies: part of a tensor. `flat` is (C, H, W) of a value whose elements are now all channels."""

    root: Value
    channel: int  # first channel in the root
    total: int  # channels of the root
    shape: tuple[int, int, int]  # channels, rows, columns
    flat: tuple[int, int, int] | None = None


class Tensors:
    """The values of a stage: where they lie, from which step to which."""

    def __init__(self, groups: Sequence[Group], inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        self.groups, self.inputs, self.outputs = groups, inputs, outputs
        self.views: dict[Value, View] = {}
        self.base: dict[Value, int] = {}
        self._find()
        self.placement = self._place()

    def _find(self) -> None:
        """Where every value lies: concatenations are written in parts, reshapes are other names."""
        for v in self.inputs:
            self.views[v] = dense_view(v)
        for group in self.groups:
            self.views.setdefault(group.output, dense_view(group.output))
        for group in reversed(self.groups):
            if group.kind != "shape.concat":
                continue
            whole, at = self.views[group.output], 0
            for part in group.nodes[0].inputs:
                assert part is not None
                mine = self.views[part]
                if mine.root is part and part not in self.inputs and part not in self.outputs and mine.flat is None:
                    self.views[part] = View(whole.root, whole.channel + at, whole.total, mine.shape)
                at += mine.shape[0]
        for group in self.groups:
            if group.kind == "shape.reshape":
                source = self.views[input_of(group.nodes[0])]
                c, h, w = source.shape
                flat = None if h * w == 1 else source.shape
                self.views[group.output] = View(source.root, source.channel, source.total, (c * h * w, 1, 1), flat)

    def _place(self) -> Placement:
        """Roots in DRAM, by the steps from their first writer to their last reader."""
        first: dict[Value, int] = {}
        last: dict[Value, int] = {}
        for v in self.inputs:
            first[self.views[v].root], last[self.views[v].root] = -1, -1
        for step, group in enumerate(self.groups):
            written = self.views[group.output].root
            first.setdefault(written, step)
            last[written] = step
            for node in group.nodes:
                for read in node.inputs:
                    if read is not None and read in self.views:
                        last[self.views[read].root] = step
        for v in self.outputs:
            last[self.views[v].root] = len(self.groups)
        roots = list(first)
        size = {v: -(-math.prod(dense_view(v).shape) // ALIGNED) * ALIGNED for v in roots}
        packed = place([Buffer(str(i), size[v], first[v], last[v]) for i, v in enumerate(roots)])
        self.base = {v: packed.addresses[str(i)] for i, v in enumerate(roots)}
        return packed

    def after(self, constants: int) -> int:
        """Move all tensors behind so many bytes of constants; where they end."""
        self.base = {v: at + constants for v, at in self.base.items()}
        return constants + self.placement.peak

    def activation(self, v: Value, zero: int = 0) -> Activation:
        """A value as the layers see it."""
        view = self.views[v]
        _, h, w = view.shape if view.flat is None else view.flat
        t = view.total
        return Activation(self.base[view.root] + view.channel, (h * w * t, 0, 1, w * t, t), int_of(v).signed, zero)

    def border(self, v: Value, i: int) -> Tensor:
        """A value as the host sees it, the i-th of its side."""
        view = self.views[v]
        assert view.total == view.shape[0] or view.flat is not None, "tensors at the border are dense"
        return Tensor(v.name or f"t{i}", self.base[view.root], shape_of(v), int_of(v).signed)

    def whole(self, v: Value) -> bool:
        """Whether a value is all of its tensor."""
        view = self.views[v]
        return view.channel == 0 and view.total == dense_view(view.root).shape[0] == view.shape[0]


def dense_view(v: Value) -> View:
    shape = shape_of(v)
    if len(shape) == 3:  # rows of channels
        return View(v, 0, shape[2], (shape[2], shape[1], 1))
    c, h, w = (*shape[1:], 1, 1)[:3]
    return View(v, 0, c, (c, h, w))


def shape_of(v: Value) -> tuple[int, ...]:
    """Extents, which are known: `groups.py` takes no others."""
    return tuple(d for d in v.type.shape if isinstance(d, int))


def int_of(v: Value) -> Int:
    assert isinstance(v.type, Type) and isinstance(v.type.elem, Int)
    return v.type.elem


def input_of(node: Node) -> Value:
    v = node.inputs[0]
    assert v is not None
    return v
