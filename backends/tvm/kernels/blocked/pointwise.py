"""Pointwise (1x1) convolution in blocks of channels: a matrix product over pixels.

A register tile holds `rows` x `columns` pixels times a few blocks of output channels. For each input channel it loads
one vector of weights a block and broadcasts one scalar a pixel; pixels of a tile lie at fixed distances, so that a
halo costs nothing. Every tile of the image is one step of one parallel loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..conv_call import ConvCall
from ..emit import Emitter
from ..kernel import Expr, FloatArray, Kernel, VectorUnit, ceil_div
from ..layout import Blocked, Layout
from ..tile import RegisterTile, of_rank, ranked
from .store import Output
from .tiling import MAX_BLOCKS, NARROW, STORE_SLOTS, TILE_SLOTS, most_pixels, step_slots

__all__ = ["pointwise_conv"]

STEP = 8
"""Input channels of one pass of the inner loop: what its counter costs is spread over them."""

VARIANT_SHARE = 0.03
"""Tiles of another shape are more code to compile: they must save this share of the time."""


@dataclass(frozen=True)
class Cut:
    """An extent in `whole` pieces of `size` and one of `rest`."""

    extent: int
    size: int

    @property
    def whole(self) -> int:
        return self.extent // self.size

    @property
    def rest(self) -> int:
        return self.extent % self.size

    @property
    def count(self) -> int:
        return ceil_div(self.extent, self.size)

    def sizes(self) -> list[tuple[int, int]]:
        """(number of pieces, their size), without empty ones."""
        return [(n, size) for n, size in ((self.whole, self.size), (1, self.rest)) if n and size]


@dataclass(frozen=True)
class PointwisePlan:
    """How the output is cut into register tiles."""

    rows: Cut
    columns: Cut
    blocks: Cut

    @property
    def tiles(self) -> int:
        return self.rows.count * self.columns.count * self.blocks.count

    def cost(self, depth: int) -> float:
        """Issue slots of all tiles, each a product of `depth` outer products, and a share for the code's size."""
        slots, variants = 0.0, 0
        for a, rows in self.rows.sizes():
            for b, columns in self.columns.sizes():
                for c, blocks in self.blocks.sizes():
                    pixels = rows * columns
                    tile = depth * step_slots(pixels, blocks) + STORE_SLOTS * pixels * blocks + TILE_SLOTS
                    slots += a * b * c * tile
                    variants += 1
        return slots * (1 + VARIANT_SHARE * variants)


@functools.cache
def plan_pointwise(height: int, width: int, depth: int, blocks: int, unit: VectorUnit, rank: int = 0) -> PointwisePlan:
    """The cheapest tiles for `height` x `width` pixels, `depth` input channels and `blocks` output blocks.

    Tiles of several rows are as wide as the image: pieces of rows make too many streams of memory.
    """
    plans = []
    for v in range(1, min(blocks, MAX_BLOCKS) + 1):
        most = most_pixels(v, unit)
        tiles = [(1, columns) for columns in range(1, min(width, most) + 1)]
        tiles += [(rows, width) for rows in range(2, min(height, most // width) + 1)]
        plans += [PointwisePlan(Cut(height, y), Cut(width, x), Cut(blocks, v)) for y, x in tiles]
    return of_rank(ranked(plans, lambda plan: plan.cost(depth)), rank)


def pack_pointwise(weight: FloatArray, blocks: Cut, lanes: int) -> FloatArray:
    """[O, C, 1, 1] to [groups of blocks | C | channels of the group], flat; channels beyond the last are zero."""
    outputs, depth = weight.shape[:2]
    padded = np.zeros((blocks.extent * lanes, depth), np.float32)
    padded[:outputs] = weight.reshape(outputs, depth)
    width = blocks.size * lanes
    return np.concatenate([padded[o : o + width].T.reshape(-1) for o in range(0, len(padded), width)])


def pointwise_conv(call: ConvCall) -> Kernel | None:
    """A 1x1 convolution of images with any strides, in either layout. None for groups, padding, and other kernels."""
    window = call.window
    if window.is_1d or call.groups != 1 or call.weight_shape[2:] != (1, 1):
        return None
    if any(a.before or a.after for a in (window.rows, window.columns)):
        return None
    unit, depth, x_layout = call.unit, call.channels, call.x_layout
    height, width = window.out_spatial
    stride = (window.rows.stride, window.columns.stride)
    flat = stride == (1, 1) and not _margins(x_layout) and not _margins(call.out_layout)
    # Without margins between the rows the image is one long row.
    tall, wide = (1, height * width) if flat else (height, width)
    plan = plan_pointwise(tall, wide, depth, ceil_div(call.outputs, unit.lanes), unit, call.rank)
    packed_shape = (plan.blocks.extent * unit.lanes * depth,)
    emit = Emitter()
    with emit.function():
        x = emit.floats("x", x_layout.shape(call.x_shape), call.x_dtype)
        weight = emit.arg("weight", packed_shape)
        out = Output.of(emit, call, emit.extra_args(call.extras))

        def load(n: Expr, c: Expr, row: Expr, column: Expr) -> Expr:
            return x[x_layout.index((n, c, row * stride[0], column * stride[1]))]

        tiles = _Tiles(emit, plan, depth, flat, unit, load, weight, out)
        with emit.parallel(call.batch * plan.tiles) as task:
            tiles.emit_tile(task // plan.tiles, task % plan.tiles)
    return Kernel(
        emit.func,
        (None, lambda w: pack_pointwise(w, plan.blocks, unit.lanes)),
        (x_layout.shape(call.x_shape), packed_shape),
        call.out_layout.shape(call.out_shape),
    )


def _margins(layout: Layout) -> bool:
    """Whether there are pixels between one row of the image and the next."""
    return isinstance(layout, Blocked) and (layout.halo.left > 0 or layout.halo.right > 0)


class _Tiles:
    """Emits the register tiles of a planned pointwise convolution.

    load(n, c, row, column) reads its input. `flat`: the plan takes the image as one long row.
    """

    def __init__(
        self,
        emit: Emitter,
        plan: PointwisePlan,
        depth: int,
        flat: bool,
        unit: VectorUnit,
        load: Callable[[Expr, Expr, Expr, Expr], Expr],
        weight: Any,
        out: Output,
    ) -> None:
        self.emit, self.plan, self.depth, self.flat = emit, plan, depth, flat
        self.lanes, self.load, self.weight, self.out = unit.lanes, load, weight, out

    def emit_tile(self, n: Expr, index: Expr) -> None:
        """The tile of a number below plan.tiles; the first one of a group of blocks fills their halo."""
        plan, emit = self.plan, self.emit
        pixels = plan.rows.count * plan.columns.count
        # All pixels for one group of blocks, then the next: its weights stay in the cache, images are read in order.
        group, pixel = index // pixels, index % pixels
        row, column = pixel // plan.columns.count, pixel % plan.columns.count

        def blocks(size: int) -> None:
            with emit.when(pixel == 0):
                for b in range(size):
                    self.out.fill_halo(n, group * plan.blocks.size + b)

            def rows(tall: int) -> None:
                each(emit, plan.columns, column, lambda wide: self._tile(n, group, row, column, tall, wide, size))

            each(emit, plan.rows, row, rows)

        each(emit, plan.blocks, group, blocks)

    def _tile(self, n: Expr, group: Expr, row: Expr, column: Expr, tall: int, wide: int, size: int) -> None:
        """`tall` x `wide` pixels times `size` blocks of channels."""
        plan, emit, lanes = self.plan, self.emit, self.lanes
        top, left, width = row * plan.rows.size, column * plan.columns.size, size * lanes
        tile = RegisterTile(emit, tall * wide, size, lanes)
        tile.fill()
        step = 1 if lanes <= NARROW else math.gcd(STEP, lanes, self.depth)
        first = group * (plan.blocks.size * lanes * self.depth)
        with emit.serial(self.depth // step) as i:
            for k in range(step):
                c = i * step + k
                weights = first + c * width
                tile.add_outer(
                    lambda p, c=c: self.load(n, c, top + p // wide, left + p % wide),  # type: ignore[misc]
                    lambda b, at=weights: self.weight[emit.ramp(at + b * lanes, lanes)],  # type: ignore[misc]
                )
        self.out.store_tile(
            tile,
            tall * wide,
            size,
            n,
            group * plan.blocks.size,
            lambda i: self._pixel(top + i // wide, left + i % wide),
        )

    def _pixel(self, row: Expr, column: Expr) -> tuple[Expr, Expr]:
        """The logical pixel; flattening a blocked index of it folds division and remainder back."""
        if not self.flat:
            return (row, column)
        width = self.out.shape[3]
        return (column // width, column % width)


def each(emit: Emitter, cut: Cut, index: Expr, body: Callable[[int], None]) -> None:
    """body(size) for the piece `index` of a cut: the code of whole pieces, and that of the rest."""
    if cut.whole and cut.rest:
        emit.branch(index < cut.whole, lambda: body(cut.size), lambda: body(cut.rest))
    else:
        body(cut.size)
