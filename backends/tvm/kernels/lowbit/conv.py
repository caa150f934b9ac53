"""Direct convolution of int8 and bf16 images in blocks of channels, straight from the input with its halo.

A register tile holds a few pixels times a few blocks of output channels. A step takes one word (4 bytes or 2 bf16) of a
pixel's channels. The halo must hold the zero point; so may, but need not, the lanes beyond the last channel. A stem
with few channels does well in a layout of 4 lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..blocked.store import Output
from ..blocked.tiling import Tiling, plan_tiles
from ..blocked.window import needed_halo
from ..conv_plan import ConvShape
from ..emit import Emitter
from ..geometry import make_window
from ..kernel import Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, ceil_div, identity, is_static
from ..layout import Blocked, Layout
from .dot import Bf16Dot, BytesDot, Dot
from .fixed import Rescale
from .gemm import BF16, VNNI
from .header import Header
from .tile import DotTile

__all__ = ["conv_bf16", "conv_int8", "convolution"]

Array = npt.NDArray[Any]

RESIDENT_BYTES = 512 * 1024
"""Weights up to this size stay in the second-level cache while the image streams by."""


def conv_int8(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    x_layout: Blocked,
    out_layout: Layout,
    x_dtype: str = "uint8",
    zero_point: int = 0,
    out_dtype: str = "int32",
    fill: int = 0,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    bias: Array | None = None,
    rescale: Rescale | None = None,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VNNI,
) -> Kernel | None:
    """ConvInteger of x[N, C, H, W] (uint8 or int8) - zero_point with a constant int8 weight[O, C / groups, KH, KW].

    The epilogue gets the exact int32 sum, `bias`[O] included (rescaled where `rescale` says so), and returns what is
    stored as `out_dtype`; `fill` is stored in the halo and the unused lanes of the result, which should be its zero
    point. N may be symbolic. None where the halo of x is too small for the window, and for groups that are no multiple
    of a block.
    """
    dot = BytesDot(unit, x_dtype=x_dtype)
    shape = convolution(x_shape, weight_shape, x_layout, strides, pads, dilations, groups)
    if shape is None:
        return None
    offset = dot.correction - zero_point
    header = Header(offset, bias, rescale)
    return _conv(dot, header, x_shape[0], shape, x_layout, out_layout, out_dtype, fill, epilogue, extras)


def conv_bf16(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    x_layout: Blocked,
    out_layout: Layout,
    out_dtype: str = "float32",
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = BF16,
) -> Kernel | None:
    """ONNX Conv of bf16 (uint16 holding the bits) with a constant weight, without the bias, summed up in fp32.

    As `conv_int8`; halo and unused lanes are zero.
    """
    shape = convolution(x_shape, weight_shape, x_layout, strides, pads, dilations, groups)
    if shape is None:
        return None
    return _conv(Bf16Dot(unit), Header(), x_shape[0], shape, x_layout, out_layout, out_dtype, 0, epilogue, extras)


def convolution(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    x_layout: Blocked,
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None,
    groups: int,
) -> ConvShape | None:
    """The problem in numbers; None where it is no proper 2-D convolution or the halo of x is too small for it."""
    if len(x_shape) != 4 or len(weight_shape) != 4 or not is_static(x_shape[1:]) or not is_static(weight_shape):
        return None
    if groups < 1 or x_shape[1] != weight_shape[1] * groups or weight_shape[0] % groups:
        return None
    window = make_window(x_shape[2:], weight_shape[2:], strides, pads, dilations)
    if window is None:
        return None
    if not x_layout.halo.covers(needed_halo(window)):
        return None
    return ConvShape(groups, weight_shape[1], weight_shape[0] // groups, window)


def _conv(
    dot: Dot,
    header: Header,
    batch: Dim,
    shape: ConvShape,
    x_layout: Blocked,
    out_layout: Layout,
    out_dtype: str,
    fill: int,
    epilogue: Epilogue,
    extras: Sequence[ExtraOperand],
) -> Kernel | None:
    lanes, window = dot.lanes, shape.window
    if x_layout.lanes % dot.depth:
        return None
    if shape.groups > 1 and (shape.inputs % x_layout.lanes or shape.outputs % lanes):
        return None
    rows, columns = window.rows, window.columns
    x_shape = (batch, shape.groups * shape.inputs, rows.size, columns.size)
    out_shape = (batch, shape.groups * shape.outputs, rows.out, columns.out)
    flat = window.taps == 1 and rows.stride == columns.stride == 1 and not _margins(x_layout, out_layout)
    height, width = (1, rows.out * columns.out) if flat else (rows.out, columns.out)
    words = ceil_div(shape.inputs, dot.depth)
    tiling = plan_tiles(height, width, ceil_div(shape.outputs, lanes), words * window.taps, dot.tile_unit)
    packing = _Packing(dot, shape, tiling, x_layout.lanes, header)
    packed_shape = (shape.groups * tiling.block_tiles * packing.task,)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_layout.shape(x_shape), dot.x_dtype)
        weight = emit.arg("weight", packed_shape, dot.weight_dtype)
        extra = emit.extra_args(extras)
        out = Output(emit, out_layout, out_shape, epilogue, extra, dot.unit, out_dtype, fill)
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
        (x_layout.shape(x_shape), packed_shape),
        out_layout.shape(out_shape),
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
