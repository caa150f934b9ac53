"""Direct convolution of int8 and bf16 images in blocks of channels, straight from the input with its halo.

A register tile holds a few pixels times a few blocks of output channels. A step takes one word (4 bytes or 2 bf16) of a
pixel's channels. The halo must hold the zero point; so may, but need not, the lanes beyond the last channel. A stem
with few channels does well in a layout of 4 lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..blocked.conv import conv_blocked
from ..blocked.store import Output
from ..blocked.tiling import Tiling, plan_tiles
from ..blocked.window import needed_halo
from ..blocked.winograd_plan import GAIN, ranked_winograd
from ..conv_call import ConvCall
from ..conv_plan import ConvShape
from ..emit import Emitter
from ..kernel import Expr, Kernel, ceil_div
from ..layout import Blocked, Layout
from .dot import Bf16Dot, BytesDot, Dot
from .fixed import Rescale
from .header import Header
from .tile import DotTile

__all__ = ["conv_bf16", "conv_halves", "conv_int8", "reads_blocks"]

Array = npt.NDArray[Any]

RESIDENT_BYTES = 512 * 1024
"""Weights up to this size stay in the second-level cache while the image streams by."""


def conv_int8(
    call: ConvCall, *, zero_point: int = 0, bias: Array | None = None, rescale: Rescale | None = None
) -> Kernel | None:
    """ConvInteger of x (uint8 or int8) - zero_point with a constant int8 weight.

    The epilogue gets the exact int32 sum, `bias`[O] included (rescaled where `rescale` says so), and returns what is
    stored; the call's `fill` should be the result's zero point. None where the halo of x is too small for the window,
    and for groups that are no multiple of a block.
    """
    dot = BytesDot(call.unit, x_dtype=call.x_dtype)
    return _conv(call, dot, Header(dot.correction - zero_point, bias, rescale))


def conv_bf16(call: ConvCall) -> Kernel | None:
    """ONNX Conv of bf16 (uint16 holding the bits) with a constant weight, without the bias, summed up in fp32.

    As `conv_int8`; halo and unused lanes are zero.
    """
    return _conv(call, Bf16Dot(call.unit), Header())


def conv_halves(call: ConvCall) -> Kernel | None:
    """A convolution of bf16 by what promises to be fastest; the weight is given as bf16 (uint16 holding the bits).

    That is dot products of bf16; for a plain image, one channel a group and where Winograd saves more than the half of
    the work, the kernel of fp32 that reads and writes bf16.
    """
    shape, unit = call.shape, call.unit
    layout = call.x_layout
    whole = not isinstance(layout, Blocked) or layout.lanes == unit.lanes  # else the kernels of fp32 do not read it
    wide = not isinstance(layout, Blocked) or (whole and call.is_depthwise)
    if not wide and whole and reads_blocks(call) and call.allow_winograd:
        dot, window = Bf16Dot(unit), shape.window
        steps = ceil_div(shape.inputs, dot.depth) * window.taps
        halves = plan_tiles(
            window.rows.out, window.columns.out, ceil_div(shape.outputs, unit.lanes), steps, dot.tile_unit
        )
        plans = ranked_winograd(shape, unit)
        wide = bool(plans) and plans[0].slots() < GAIN * halves.slots(steps)
    made = None if wide else conv_bf16(call)
    if made is not None or not whole:
        return made
    made = conv_blocked(call)
    if made is None or made.packers[1] is None:
        return made
    pack = made.packers[1]
    return replace(made, packers=(None, lambda w: pack((w.astype(np.uint32) << 16).view(np.float32))))


def reads_blocks(call: ConvCall) -> bool:
    """Whether a call is a 2-D convolution of a blocked image with a halo large enough for it."""
    layout = call.x_layout
    return not call.window.is_1d and isinstance(layout, Blocked) and layout.halo.covers(needed_halo(call.window))


def _conv(call: ConvCall, dot: Dot, header: Header) -> Kernel | None:
    if not reads_blocks(call):
        return None
    x_layout, out_layout, shape, batch = call.x_layout, call.out_layout, call.shape, call.batch
    assert isinstance(x_layout, Blocked)
    lanes, window = dot.lanes, shape.window
    if x_layout.lanes % dot.depth:
        return None
    if shape.groups > 1 and (shape.inputs % x_layout.lanes or shape.outputs % lanes):
        return None
    rows, columns = window.rows, window.columns
    flat = window.taps == 1 and rows.stride == columns.stride == 1 and not _margins(x_layout, out_layout)
    height, width = (1, rows.out * columns.out) if flat else (rows.out, columns.out)
    words = ceil_div(shape.inputs, dot.depth)
    tiling = plan_tiles(height, width, ceil_div(shape.outputs, lanes), words * window.taps, dot.tile_unit)
    packing = _Packing(dot, shape, tiling, x_layout.lanes, header)
    packed_shape = (shape.groups * tiling.block_tiles * packing.task,)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_layout.shape(call.x_shape), dot.x_dtype)
        weight = emit.arg("weight", packed_shape, dot.weight_dtype)
        out = Output.of(emit, call, emit.extra_args(call.extras))
        task = _Task(emit, packing, x_layout, x, weight, out, flat)
        item = np.dtype(dot.weight_dtype).itemsize
        weights_first = shape.groups > 1 or item * packed_shape[0] > RESIDENT_BYTES
        with emit.llvm(dot.prelude), emit.parallel(batch * shape.groups * tiling.count) as t:
            image, tile = t // tiling.count, t % tiling.count
            if weights_first:
                blocks, pixels = tile // tiling.pixel_tiles, tile % tiling.pixel_tiles
            else:
                blocks, pixels = tile % tiling.block_tiles, tile // tiling.block_tiles
            task.emit_tile(image // shape.groups, image % shape.groups, blocks, pixels)
    return Kernel(
        emit.func,
        (None, packing.pack),
        (x_layout.shape(call.x_shape), packed_shape),
        out_layout.shape(call.out_shape),
    )


def _margins(*layouts: Layout) -> bool:
    """Whether there are pixels between one row of an image and the next."""
    return any(isinstance(x, Blocked) and x.halo.left + x.halo.right > 0 for x in layouts)


class _Packing:
    """Weights: [groups | tiles of blocks | header | blocks of C | KH | KW | words | O of the tile | depth], flat."""

    def __init__(self, dot: Dot, shape: ConvShape, tiling: Tiling, x_lanes: int, header: Header) -> None:
        self.dot, self.shape, self.tiling, self.head = dot, shape, tiling, header
        self.width = tiling.blocks * dot.lanes
        self.words = x_lanes // dot.depth
        self.full, rest = divmod(shape.inputs, x_lanes)
        self.rest = ceil_div(rest, dot.depth)
        self.step = self.width * dot.depth
        self.taps = shape.window.taps
        self.header = header.rows * self.step
        self.task = self.header + (self.full * self.words + self.rest) * self.taps * self.step

    def pack(self, weight: Array) -> Array:
        """[O, C / groups, KH, KW] as above; channels beyond the last are zero."""
        shape, tiling, dot = self.shape, self.tiling, self.dot
        parts: list[Array] = []
        for g in range(shape.groups):
            padded = np.zeros((tiling.depth * dot.lanes, *weight.shape[1:]), weight.dtype)
            first = g * shape.outputs
            padded[: shape.outputs] = weight[first : first + shape.outputs]
            for tile in range(tiling.block_tiles):
                start = min(tile * tiling.blocks, tiling.depth - tiling.blocks) * dot.lanes
                rows = padded[start : start + self.width]
                sums = rows.sum((1, 2, 3), dtype=np.int64)
                parts += self.head.pack(sums, slice(first + start, first + shape.outputs), self.width)
                parts += self._channels(rows)
        return np.concatenate(parts)

    def _channels(self, rows: Array) -> list[Array]:
        """The blocks of input channels of a tile's output channels [width, C, KH, KW]."""
        parts: list[Array] = []
        block = self.words * self.dot.depth
        for c in range(0, rows.shape[1], block):
            some = rows[:, c : c + block]
            words = ceil_div(some.shape[1], self.dot.depth)
            padded = np.zeros((self.width, words * self.dot.depth, *rows.shape[2:]), rows.dtype)
            padded[:, : some.shape[1]] = some
            split = padded.reshape(self.width, words, self.dot.depth, *rows.shape[2:])
            parts.append(split.transpose(3, 4, 1, 0, 2).ravel())
        return parts


class _Task:
    """Emits one register tile."""

    def __init__(
        self, emit: Emitter, packing: _Packing, layout: Blocked, x: Any, weight: Any, out: Output, flat: bool
    ) -> None:
        self.emit, self.packing, self.layout = emit, packing, layout
        self.dot, self.shape, self.tiling = packing.dot, packing.shape, packing.tiling
        self.x, self.weight, self.out, self.flat = x, weight, out, flat

    def emit_tile(self, n: Expr, group: Expr, blocks: Expr, pixels: Expr) -> None:
        emit, tiling, dot, packing = self.emit, self.tiling, self.dot, self.packing
        first = emit.bind(emit.step_back(blocks, tiling.blocks, tiling.depth))
        top = emit.bind(emit.step_back(pixels // tiling.column_tiles, tiling.rows, tiling.height))
        left = emit.bind(emit.step_back(pixels % tiling.column_tiles, tiling.columns, tiling.width))
        base = emit.bind((group * tiling.block_tiles + blocks) * packing.task)

        def constant(at: int, v: int) -> Expr:
            return emit.bits(self._weights(base + at * packing.step, v), f"int32x{dot.lanes}")

        sums = DotTile(emit, dot, tiling.pixels, tiling.blocks, packing.head.start(constant))
        self._accumulate(sums, n, group, top, left, base + packing.header)
        tile = packing.head.finished(emit, sums.finish(), constant, tiling.blocks, dot.lanes)
        block = group * tiling.depth + first
        out_columns = self.shape.window.columns.out

        def pixel(i: Expr) -> tuple[Expr, Expr]:
            if self.flat:
                return (left + i) // out_columns, (left + i) % out_columns
            return top + i // tiling.columns, left + i % tiling.columns

        self.out.store_tile(tile, tiling.pixels, tiling.blocks, n, block, pixel)
        with emit.when(pixels == 0):
            for b in range(tiling.blocks):
                self.out.fill_halo(n, block + b)

    def _weights(self, at: Expr, v: int) -> Expr:
        count = self.dot.lanes * self.dot.depth
        return self.weight[self.emit.ramp(at + v * count, count)]

    def _accumulate(self, sums: DotTile, n: Expr, group: Expr, top: Expr, left: Expr, weights: Expr) -> None:
        emit, packing, dot, tiling = self.emit, self.packing, self.dot, self.tiling
        rows, columns = self.shape.window.rows, self.shape.window.columns
        halo = self.layout.halo
        y = emit.bind(top * rows.stride + (halo.top - rows.before))
        x = emit.bind(left * columns.stride + (halo.left - columns.before))
        first = group * (self.shape.inputs // self.layout.lanes)

        def block(c: Expr, words: int) -> None:
            with emit.serial(rows.kernel) as kh, emit.serial(columns.kernel) as kw, emit.serial(words) as word:
                at = weights + c * (packing.words * packing.taps * packing.step)
                at = at + ((kh * columns.kernel + kw) * words + word) * packing.step

                def load(i: int) -> Callable[[int, int], Expr]:
                    r, q = divmod(i, tiling.columns)
                    h = y + (r * rows.stride + kh * rows.dilation)
                    w = x + (q * columns.stride + kw * columns.dilation)
                    return lambda j, width: self.x[n, first + c, h, w, emit.ramp(word * dot.depth + j, width)]

                sums.step(lambda i: dot.word(emit, load(i), dot.depth), lambda v: self._weights(at, v))

        if packing.full:
            with emit.serial(packing.full) as c:
                block(c, packing.words)
        if packing.rest:
            block(packing.full, packing.rest)
