"""Images of bytes in blocks of channels: sums over windows, and the copy that puts a pixel's bytes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..blocked.store import Output
from ..blocked.window import each_row, needed_halo
from ..emit import Emitter
from ..geometry import make_window
from ..kernel import Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, identity, is_static
from ..layout import Blocked, Layout
from ..tile import RegisterTile
from .gemm import VNNI

__all__ = ["interleave_bytes", "sum_pool_bytes"]


def sum_pool_bytes(
    x_shape: Sequence[Dim],
    kernel: Sequence[int],
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
    ceil_mode: bool = False,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VNNI,
) -> Kernel | None:
    """Sums of x - zero_point over windows of x[N, C, H, W], whose halo holds the zero point; N may be symbolic.

    None where the halo is too small.
    """
    window = make_window(x_shape[2:], kernel, strides, pads, dilations, ceil_mode)
    if not is_static(x_shape[1:]) or window is None or x_layout.lanes != unit.lanes:
        return None
    if not x_layout.halo.covers(needed_halo(window)):
        return None
    rows, columns = window.rows, window.columns
    start = -zero_point * window.taps

    logical, memory = (x_shape[0], x_shape[1], *window.out_spatial), x_layout.shape(x_shape)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", memory, x_dtype)
        extra = emit.extra_args(tuple(extras))
        out = Output(emit, out_layout, logical, epilogue, extra, unit, out_dtype, fill)

        def pixel(n: Expr, block: Expr, row: Expr, column: Expr) -> None:
            acc = RegisterTile(emit, 1, 1, unit.lanes, "int32")
            acc.fill(start)
            top, left = row * rows.stride - rows.before, column * columns.stride - columns.before
            with emit.serial(window.taps) as tap:
                h = top + tap // columns.kernel * rows.dilation
                w = left + tap % columns.kernel * columns.dilation
                *at, _ = x_layout.index((n, block * unit.lanes, h, w))
                value = emit.cast(x[(*at, emit.ramp(0, unit.lanes))], "int32")
                acc.update(lambda a, r, v: a + value)
            out.store_tile(acc, 1, 1, n, block, lambda p: (row, column))

        each_row(emit, x_shape[0], out, columns.out, pixel)
    return Kernel(emit.func, (None,), (memory,), out_layout.shape(logical))


def interleave_bytes(
    x_shape: Sequence[Dim],
    *,
    out_layout: Blocked,
    x_dtype: str = "float32",
    out_dtype: str = "uint8",
    fill: int = 0,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VNNI,
) -> Kernel | None:
    """epilogue(x) of a plain image [N, C, H, W] of few channels, those of a pixel side by side; N may be symbolic.

    `out_dtype` is one of bytes, or uint16. Vectors run along the pixels of a row. None for more than four channels.
    """
    lanes = out_layout.lanes
    if len(x_shape) != 4 or not is_static(x_shape[1:]) or lanes != 4 or x_shape[1] > lanes:
        return None
    batch, channels, _, width = x_shape
    bits = 8 * np.dtype(out_dtype).itemsize
    per = 32 // bits  # channels in a word
    words = lanes // per
    spare = [fill & (1 << bits) - 1 if c >= channels else 0 for c in range(lanes)]

    def emit_rows(emit: Emitter, x: Any, out: Output) -> None:
        def word(stack: Any, count: int, some: range) -> Expr:
            """These channels of all pixels, each in its place of an int32."""
            empty = sum(spare[c] << bits * (c - some.start) for c in some)
            result = emit.splat_of(empty - (empty >> 31 << 32), "int32", count)
            for c in some[: max(0, channels - some.start)]:
                value = stack[emit.ramp(c * count, count)]
                by = bits * (c - some.start)
                result = result | (value << emit.splat_of(by, "int32", count) if by else value)
            return result

        def row(n: Expr, _: Expr, h: Expr, __: Expr) -> None:
            def pixels(start: Expr, count: int) -> None:
                stack = emit.registers(channels * count, dtype="int32")
                for c in range(channels):
                    with emit.lanes(count) as i:
                        at = (n, c, h, start + i)
                        value = epilogue(x[at], at, extra)
                        emit.store(stack, [c * count + i], _word(emit, value, bits))
                found = [word(stack, count, range(first, first + per)) for first in range(0, lanes, per)]
                picks = [j * count + i for i in range(count) for j in range(words)]
                vector = found[0] if words == 1 else emit.shuffle(found, picks)
                *pixel, _ = out_layout.index((n, 0, h, start))
                emit.store(
                    out.buffer, [*pixel, emit.ramp(0, lanes * count)], emit.bits(vector, f"{out_dtype}x{lanes * count}")
                )

            emit.for_each_vector(width, unit.lanes, pixels)

        each_row(emit, batch, out, 1, row)

    emit = Emitter()
    with emit.function():
        x = emit.arg("x", tuple(x_shape), x_dtype)
        extra = emit.extra_args(tuple(extras))
        narrow = replace(unit, lanes=lanes)
        emit_rows(emit, x, Output(emit, out_layout, tuple(x_shape), identity, (), narrow, out_dtype, fill))
    return Kernel(emit.func, (None,), (tuple(x_shape),), out_layout.shape(x_shape))


def _word(emit: Emitter, value: Expr, bits: int) -> Expr:
    """A number as the low bits of an int32, the others empty."""
    return emit.cast(value, "int32") & emit.integer((1 << bits) - 1)
