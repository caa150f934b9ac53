"""Depthwise convolution in blocks of channels: vectors are channels, so that neither shuffles nor copies are needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..conv_call import ConvCall
from ..emit import Emitter
from ..geometry import Window
from ..kernel import Expr, FloatArray, Kernel, ceil_div
from ..layout import Blocked, Layout
from ..tile import RegisterTile
from .store import Output
from .window import Pieces, each_row, needed_halo

__all__ = ["depthwise_conv"]

PIXELS = {32: 14, 16: 6}
"""Pixels of a tile by the number of registers: a row of a 3x3 kernel's weights and a pixel fit next to them."""

UNROLLED_TAPS = 25
"""Kernels are unrolled up to this many taps, larger ones row by row."""


def pack_depthwise(weight: FloatArray, lanes: int) -> FloatArray:
    """[C, 1, KH, KW] to [blocks of channels | KH | KW | lanes], flat; channels beyond the last are zero."""
    channels = weight.shape[0]
    padded = np.zeros((ceil_div(channels, lanes), lanes, weight[0].size), np.float32)
    padded.reshape(-1, weight[0].size)[:channels] = weight.reshape(channels, -1)
    return np.ascontiguousarray(padded.transpose(0, 2, 1)).reshape(-1)


def depthwise_conv(call: ConvCall) -> Kernel | None:
    """A convolution of images with as many groups as channels.

    None for a channel multiplier, and where the input is not blocked or its halo is too small for the window.
    """
    window, unit, x_layout = call.window, call.unit, call.x_layout
    if not call.groups == call.channels == call.outputs or not isinstance(x_layout, Blocked):
        return None
    if window.is_1d or not x_layout.halo.covers(needed_halo(window)):
        return None
    pieces = Pieces.of(window.columns.out, PIXELS[unit.registers])
    packed_shape = (ceil_div(call.channels, unit.lanes) * unit.lanes * window.taps,)
    emit = Emitter()
    with emit.function():
        x = emit.floats("x", x_layout.shape(call.x_shape), call.x_dtype)
        weight = emit.arg("weight", packed_shape)
        out = Output.of(emit, call, emit.extra_args(call.extras))

        def piece(n: Expr, block: Expr, row: Expr, i: Expr) -> None:
            left = pieces.start(emit, i)
            tile = depthwise_tile(emit, window, x_layout, x, weight, n, block, row, left, pieces.size, unit.lanes)
            out.store_tile(tile, pieces.size, 1, n, block, lambda p: (row, left + p))

        each_row(emit, call.batch, out, pieces.count, piece)
    return Kernel(
        emit.func,
        (None, lambda w: pack_depthwise(w, unit.lanes)),
        (x_layout.shape(call.x_shape), packed_shape),
        call.out_layout.shape(call.out_shape),
    )


def depthwise_tile(
    emit: Emitter,
    window: Window,
    x_layout: Layout,
    x: Any,
    weight: Any,
    n: Expr,
    block: Expr,
    row: Expr,
    left: Expr,
    pixels: int,
    lanes: int,
) -> RegisterTile:
    """Sums of `pixels` outputs of a row, from column `left` on, for one block of channels.

    Each input vector is loaded once a kernel row and added to all outputs that it belongs to.
    """
    rows, columns = window.rows, window.columns
    tile = RegisterTile(emit, pixels, 1, lanes)
    tile.fill()

    def kernel_row(kh: Expr) -> None:
        h = row * rows.stride + kh * rows.dilation - rows.before
        for j in range((pixels - 1) * columns.stride + columns.reach + 1):
            w = left * columns.stride + j - columns.before
            *pixel, _ = x_layout.index((n, block * lanes, h, w))
            value = x[(*pixel, emit.ramp(0, lanes))]
            for kw in range(columns.kernel):
                p, beside = divmod(j - kw * columns.dilation, columns.stride)
                if beside == 0 and 0 <= p < pixels:
                    tap = (block * rows.kernel + kh) * columns.kernel + kw
                    factor = weight[emit.ramp(tap * lanes, lanes)]
                    tile.update_one(p, 0, lambda acc, a=value, b=factor: acc + a * b)  # type: ignore[misc]

    if window.taps <= UNROLLED_TAPS:
        for kh in range(rows.kernel):
            kernel_row(kh)
    else:
        with emit.serial(rows.kernel) as kh:
            kernel_row(kh)
    return tile
