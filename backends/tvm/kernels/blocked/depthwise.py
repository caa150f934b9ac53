"""Depthwise convolution in blocks of channels: vectors are channels, so that neither shuffles nor copies are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..emit import Emitter
from ..geometry import Window, make_window
from ..kernel import (
    AVX512,
    Dim,
    Epilogue,
    Expr,
    ExtraOperand,
    FloatArray,
    Kernel,
    VectorUnit,
    ceil_div,
    identity,
    is_static,
)
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


def depthwise_conv(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    x_layout: Layout,
    out_layout: Layout,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
    allow_winograd: bool = True,
) -> Kernel | None:
    """ONNX Conv of x[N, C, H, W] with a kernel[C, 1, KH, KW] and C groups, without the bias; N may be symbolic.

    None for a channel multiplier, and where the input is not blocked or its halo is too small for the window.
    """
    window = depthwise_window(x_shape, weight_shape, x_layout, strides, pads, dilations, groups)
    if window is None:
        return None
    batch, channels = x_shape[0], x_shape[1]
    logical = (batch, channels, *window.out_spatial)
    pieces = Pieces.of(window.columns.out, PIXELS[unit.registers])
    packed_shape = (ceil_div(channels, unit.lanes) * unit.lanes * window.taps,)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_layout.shape(x_shape))
        weight = emit.arg("weight", packed_shape)
        extra = emit.extra_args(tuple(extras))
        out = Output(emit, out_layout, logical, epilogue, extra, unit)

        def piece(n: Expr, block: Expr, row: Expr, i: Expr) -> None:
            left = pieces.start(emit, i)
            tile = depthwise_tile(emit, window, x_layout, x, weight, n, block, row, left, pieces.size, unit.lanes)
            out.store_tile(tile, pieces.size, 1, n, block, lambda p: (row, left + p))

        each_row(emit, batch, out, pieces.count, piece)
    return Kernel(
        emit.func,
        (None, lambda w: pack_depthwise(w, unit.lanes)),
        (x_layout.shape(x_shape), packed_shape),
        out_layout.shape(logical),
    )


def depthwise_window(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    x_layout: Layout,
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None,
    groups: int,
) -> Window | None:
    """The window of a depthwise convolution with multiplier 1 over a halo that is large enough, else None."""
    if len(x_shape) != 4 or len(weight_shape) != 4 or not is_static(x_shape[1:]) or not is_static(weight_shape):
        return None
    if groups != x_shape[1] or tuple(weight_shape[:2]) != (groups, 1) or not isinstance(x_layout, Blocked):
        return None
    window = make_window(x_shape[2:], weight_shape[2:], strides, pads, dilations)
    if window is None or not x_layout.halo.covers(needed_halo(window)):
        return None
    return window


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
