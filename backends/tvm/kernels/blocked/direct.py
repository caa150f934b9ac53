"""Direct convolution in blocks of channels, straight from the input with its halo.

A register tile holds a few pixels times a few blocks of output channels. For each tap and input channel it loads a
vector of weights a block and broadcasts a scalar a pixel. Every tile is one step of one parallel loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..conv_call import ConvCall
from ..conv_plan import ConvShape
from ..emit import Emitter
from ..kernel import Dim, Expr, FloatArray, Kernel, VectorUnit
from ..layout import Blocked, Halo
from ..tile import RegisterTile
from .padded import PaddedImage
from .store import Output
from .tiling import NARROW, Tiling
from .window import needed_halo

__all__ = ["direct_conv", "pack_direct"]

RESIDENT_BYTES = 512 * 1024
"""Weights up to this size stay in the second-level cache while the image streams by."""


def direct_conv(call: ConvCall, tiling: Tiling) -> Kernel | None:
    """The kernel of a planned convolution; None for groups that are no multiple of a block."""
    shape, x_layout, unit = call.shape, call.x_layout, call.unit
    whole = shape.inputs % unit.lanes == 0 and shape.outputs % unit.lanes == 0
    if shape.groups > 1 and not (whole and isinstance(x_layout, Blocked)):
        return None
    task_weights = shape.depth * tiling.blocks * unit.lanes
    packed_shape = (shape.groups * tiling.block_tiles * task_weights,)
    emit = Emitter()
    with emit.function():
        x = emit.floats("x", x_layout.shape(call.x_shape), call.x_dtype)
        weight = emit.arg("weight", packed_shape)
        out = Output.of(emit, call, emit.extra_args(call.extras))
        weights_first = shape.groups > 1 or 4 * packed_shape[0] > RESIDENT_BYTES

        def tiles(images: Dim, task: _Task, first: Expr) -> None:
            with emit.parallel(images * shape.groups * tiling.count) as t:
                image, tile = t // tiling.count, t % tiling.count
                if weights_first:
                    blocks, pixels = tile // tiling.pixel_tiles, tile % tiling.pixel_tiles
                else:
                    blocks, pixels = tile % tiling.block_tiles, tile // tiling.block_tiles
                task.emit_all(first + image // shape.groups, image % shape.groups, blocks, pixels)

        if isinstance(x_layout, Blocked):
            read = lambda n, block, lane, h, w: x[n, block, h, w, lane]  # noqa: E731
            tiles(call.batch, _Task(emit, shape, tiling, x_layout.halo, unit, read, weight, out), 0)
        else:
            padded = PaddedImage(emit, call.x_shape[1:], needed_halo(shape.window), unit)
            task = _Task(emit, shape, tiling, padded.halo, unit, padded.read, weight, out)
            with emit.serial(call.batch) as n:
                padded.fill(x, n)
                tiles(1, task, n)

    def pack(w: FloatArray) -> FloatArray:
        return pack_direct(w, shape.groups, tiling, unit.lanes)

    shapes = (x_layout.shape(call.x_shape), packed_shape)
    return Kernel(emit.func, (None, pack), shapes, call.out_layout.shape(call.out_shape))


def pack_direct(weight: FloatArray, groups: int, tiling: Tiling, lanes: int) -> FloatArray:
    """[O, C, KH, KW] to [groups | tiles of blocks | blocks of C | KH | KW | C of the block | O of the tile], flat.

    Output channels beyond the last are zero; there are no input channels beyond the last.
    """
    outputs, channels = weight.shape[0] // groups, weight.shape[1]
    width = tiling.blocks * lanes
    parts: list[FloatArray] = []
    for g in range(groups):
        padded = np.zeros((tiling.depth * lanes, *weight.shape[1:]), np.float32)
        padded[:outputs] = weight[g * outputs : (g + 1) * outputs]
        for tile in range(tiling.block_tiles):
            start = min(tile * tiling.blocks, tiling.depth - tiling.blocks) * lanes
            rows = padded[start : start + width]
            for c in range(0, channels, lanes):
                parts.append(rows[:, c : c + lanes].transpose(2, 3, 1, 0).ravel())
    return np.concatenate(parts)


class _Task:
    """Emits one register tile."""

    def __init__(
        self,
        emit: Emitter,
        shape: ConvShape,
        tiling: Tiling,
        halo: Halo,
        unit: VectorUnit,
        read: Callable[[Expr, Expr, Expr, Expr, Expr], Expr],
        weight: Any,
        out: Output,
    ) -> None:
        self.emit, self.shape, self.tiling, self.halo, self.lanes = emit, shape, tiling, halo, unit.lanes
        self.read, self.weight, self.out = read, weight, out

    def emit_all(self, n: Expr, group: Expr, blocks: Expr, pixels: Expr) -> None:
        emit, tiling, shape = self.emit, self.tiling, self.shape
        first = emit.bind(emit.step_back(blocks, tiling.blocks, tiling.depth))
        top = emit.bind(emit.step_back(pixels // tiling.column_tiles, tiling.rows, tiling.height))
        left = emit.bind(emit.step_back(pixels % tiling.column_tiles, tiling.columns, tiling.width))
        tile = RegisterTile(emit, tiling.pixels, tiling.blocks, self.lanes)
        tile.fill()
        weights = emit.bind((group * tiling.block_tiles + blocks) * (shape.depth * tiling.blocks * self.lanes))
        self._accumulate(tile, n, group, top, left, weights)
        block = group * tiling.depth + first
        self.out.store_tile(
            tile,
            tiling.pixels,
            tiling.blocks,
            n,
            block,
            lambda i: (top + i // tiling.columns, left + i % tiling.columns),
        )
        with emit.when(pixels == 0):
            for b in range(tiling.blocks):
                self.out.fill_halo(n, block + b)

    def _accumulate(self, tile: RegisterTile, n: Expr, group: Expr, top: Expr, left: Expr, weights: Expr) -> None:
        emit, tiling, lanes = self.emit, self.tiling, self.lanes
        rows, columns = self.shape.window.rows, self.shape.window.columns
        halo, width = self.halo, tiling.blocks * lanes
        full, rest = divmod(self.shape.inputs, lanes)
        y, x = (
            emit.bind(top * rows.stride + (halo.top - rows.before)),
            left * columns.stride + (halo.left - columns.before),
        )
        x = emit.bind(x)
        first = group * (self.shape.inputs // lanes)

        def step(c: Expr, channels: int, kh: Expr, kw: Expr, lane: Expr) -> None:
            at = weights + (c * (lanes * rows.kernel) + kh * channels) * (columns.kernel * width)
            at = at + (kw * channels + lane) * width

            def pixel(i: int) -> Expr:
                r, q = divmod(i, tiling.columns)
                h = y + (r * rows.stride + kh * rows.dilation)
                w = x + (q * columns.stride + kw * columns.dilation)
                return self.read(n, first + c, lane, h, w)

            tile.add_outer(pixel, lambda b: self.weight[emit.ramp(at + b * lanes, lanes)])

        def block(c: Expr, channels: int) -> None:
            if lanes <= NARROW and channels == lanes:
                with emit.serial(rows.kernel) as kh, emit.serial(columns.kernel * lanes) as i:
                    step(c, channels, kh, i // lanes, i % lanes)
            else:
                with (
                    emit.serial(rows.kernel) as kh,
                    emit.serial(columns.kernel) as kw,
                    emit.serial(channels) as lane,
                ):
                    step(c, channels, kh, kw, lane)

        if full:
            with emit.serial(full) as c:
                block(c, lanes)
        if rest:
            block(full, rest)
