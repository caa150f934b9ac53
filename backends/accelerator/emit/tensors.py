"""Tensors in DRAM: channels last, packed by lifetimes. Concatenations are written in parts, reshapes are names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.diagnostics import error
from ....ir.graph import Node, Value
from ....ir.types import Int
from ....ir.types import Tensor as Type
from ..allocate import Buffer, Placement, place
from .contraction import Activation
from .groups import Group
from .layouts import Layout, dense, derived, restored

__all__ = [
    "ALIGNED",
    "Tensor",
    "Tensors",
    "View",
    "array_of",
    "bytes_of",
    "clamp",
    "input_of",
    "int_of",
    "shape_of",
]

ALIGNED = 64  # bytes in DRAM


@dataclass(frozen=True)
class Tensor:
    """A tensor at the border of a program: bytes [1, rows, columns, channels] from `base` on; shape as in the graph.

    With `strides` (in bytes, along its axes) it lies as they say; `bits` are those of an element.
    """

    name: str
    base: int
    shape: tuple[int, ...]
    signed: bool
    bits: int = 8
    strides: tuple[int, ...] | None = None


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
        self.layouts: dict[Value, Layout] = {}  # of tensors of rows: what is no image
        self._find()
        self._lay()
        self.placement: Placement = self.place({})

    def _find(self) -> None:
        """Where every value lies: concatenations are written in parts, reshapes are other names."""
        for v in self.inputs:
            self.views[v] = dense_view(v)
        for group in self.groups:
            for v in group.results:
                self.views.setdefault(v, dense_view(v))
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
            if group.kind == "shape.reshape" and not _plain(group):
                source = self.views[input_of(group.nodes[0])]
                c, h, w = source.shape
                flat = None if h * w == 1 else source.shape
                self.views[group.output] = View(source.root, source.channel, source.total, (c * h * w, 1, 1), flat)

    def _lay(self) -> None:
        """Layouts of what work on rows and products of activations read and write, and of other names for these."""
        names = [g.nodes[0] for g in self.groups if _plain(g)]
        for group in self.groups:
            if group.kind in ("rows", "product"):
                for v in (*group.results, *(v for n in group.nodes for v in n.inputs)):
                    if v is not None and v in self.views:
                        self._own(v)
        for node in names:
            self._own(input_of(node))
        for _ in range(len(names) + 1):  # until no root has moved
            moved = next((n for n in names if not self._name(n)), None)
            if moved is None:
                break
            self._move(moved, names)
        for v, layout in self.layouts.items():
            if layout.root is not v:
                self.views[v] = View(layout.root, 0, 0, dense_view(v).shape)

    def _own(self, v: Value) -> None:
        """A layout of its own, unless it is known or a part of something."""
        view = self.views[v]
        if view.root is not v:
            rows = [1] * (v.type.rank - 2) + [view.total, 1]
            self.layouts.setdefault(v, Layout(view.root, tuple(rows[-v.type.rank :]), view.channel))
        else:
            self.layouts.setdefault(v, Layout(v, dense(shape_of(v))))

    def _name(self, node: Node) -> bool:
        """Derive the layout of a name; False where that cannot be."""
        source = self.layouts[input_of(node)]
        if node.output in self.layouts and self.layouts[node.output].root is node.output and node.output is source.root:
            return True
        steps = derived(node, source.strides)
        if steps is not None:
            self.layouts[node.output] = Layout(source.root, steps, source.first)
        return steps is not None

    def _move(self, node: Node, names: Sequence[Node]) -> None:
        """Let the result of a name that cannot be derived be the tensor, of which what it comes from is a name."""
        made = {n.output: n for n in names}
        v, layout = node.output, Layout(node.output, dense(shape_of(node.output)))
        while True:
            self.layouts[v] = layout
            if v not in made:
                break
            steps = restored(made[v], layout.strides)
            source = input_of(made[v])
            if steps is None or self.views[source].root is not source or source in self.inputs:
                raise error("IG0585", f"`{v.name or v.type}` would have to be copied")
            v, layout = source, Layout(layout.root, steps)

    def place(self, together: Mapping[Group, tuple[int, int]], inside: Set[Value] = frozenset()) -> Placement:
        """Roots in DRAM, by the steps from their first writer to their last reader.

        Groups that run `together` have the steps (first, last) of all of them; what is `inside` is never in DRAM.
        """
        first: dict[Value, int] = {}
        last: dict[Value, int] = {}
        for v in self.inputs:
            first[self.views[v].root], last[self.views[v].root] = -1, -1
        for number, group in enumerate(self.groups):
            begin, step = together.get(group, (number, number))
            for written in (self.views[v].root for v in group.results):
                first.setdefault(written, begin)
                last[written] = max(last.get(written, 0), step)
            for node in group.nodes:
                for read in node.inputs:
                    if read is not None and read in self.views:
                        root = self.views[read].root
                        last[root] = max(last.get(root, 0), step)
        for v in self.outputs:
            last[self.views[v].root] = len(self.groups)
        roots = [v for v in first if v not in inside]
        size = {v: -(-math.prod(shape_of(v)) * bytes_of(v) // ALIGNED) * ALIGNED for v in roots}
        packed = place([Buffer(str(i), size[v], first[v], last[v]) for i, v in enumerate(roots)])
        self.base = dict.fromkeys(inside, 0) | {v: packed.addresses[str(i)] for i, v in enumerate(roots)}
        self.placement = packed
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
        bits = 8 * bytes_of(v)
        if (layout := self.layouts.get(v)) is not None:
            steps = tuple(s * bytes_of(v) for s in layout.strides)
            start = self.base[layout.root] + layout.first * bytes_of(v)
            return Tensor(v.name or f"t{i}", start, shape_of(v), int_of(v).signed, bits, steps)
        assert view.total == view.shape[0] or view.flat is not None, "tensors at the border are dense"
        return Tensor(v.name or f"t{i}", self.base[view.root], shape_of(v), int_of(v).signed, bits)

    def rows(self, v: Value) -> tuple[int, tuple[int, ...]]:
        """Where a tensor of rows begins in DRAM, and its steps in bytes along its axes."""
        layout, size = self.layouts[v], bytes_of(v)
        return self.base[layout.root] + layout.first * size, tuple(s * size for s in layout.strides)

    def whole(self, v: Value) -> bool:
        """Whether a value is all of its tensor."""
        view = self.views[v]
        return view.channel == 0 and view.total == dense_view(view.root).shape[0] == view.shape[0]


def dense_view(v: Value) -> View:
    shape = shape_of(v)
    if len(shape) == 3:  # rows of channels
        return View(v, 0, shape[2], (shape[2], shape[1], 1))
    if not 2 <= len(shape) <= 4:  # no image
        return View(v, 0, math.prod(shape), (math.prod(shape), 1, 1))
    c, h, w = (*shape[1:], 1, 1)[:3]
    return View(v, 0, c, (c, h, w))


def _plain(group: Group) -> bool:
    """Whether a group is a name for a tensor of rows."""
    return group.kind == "name"


def bytes_of(v: Value) -> int:
    """Bytes of an element."""
    return max(1, int_of(v).bits // 8)


def shape_of(v: Value) -> tuple[int, ...]:
    """Extents, which are known: `groups.py` takes no others."""
    return tuple(d for d in v.type.shape if isinstance(d, int))


def array_of(v: Value | None) -> Any:
    """A constant's array."""
    assert v is not None and v.node is not None and v.node.constant is not None
    return np.asarray(v.node.constant.array)


def clamp(node: Node) -> tuple[int, int]:
    """The least and the largest result of a change of scale."""
    least, most = int_of(node.output).range
    low, high = node.attr("low"), node.attr("high")
    return least if low is None else low, most if high is None else high


def int_of(v: Value) -> Int:
    assert isinstance(v.type, Type) and isinstance(v.type.elem, Int)
    return v.type.elem


def input_of(node: Node) -> Value:
    v = node.inputs[0]
    assert v is not None
    return v
