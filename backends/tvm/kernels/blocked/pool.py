"""Max, average and global average pooling in blocks of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..emit import Emitter
from ..geometry import Axis, Window, make_window
from ..kernel import AVX512, Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, identity, is_static
from ..layout import NO_HALO, Blocked, Layout
from ..tile import RegisterTile
from .store import Output
from .window import Pieces, each_row, needed_halo

__all__ = ["average_pool_blocked", "global_average_pool_blocked", "max_pool_blocked"]

PIXELS = {32: 14, 16: 8}
"""Pixels of a tile by the number of registers."""

MAX_TAPS = 196
"""Windows are unrolled; larger ones belong to a generic reduction."""

SUMS = 8
"""Independent sums of a global pool, to hide the latency of additions."""


def max_pool_blocked(
    x_shape: Sequence[Dim],
    kernel: Sequence[int],
    *,
    x_layout: Layout,
    out_layout: Layout,
    x_dtype: str = "float32",
    out_dtype: str = "float32",
    fill: float = 0,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: bool = False,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """ONNX MaxPool (values only) on a blocked x[N, C, H, W]; N may be symbolic, nan wins, no halo is needed.

    x is fp32, bf16 (uint16) or bytes (uint8, int8).

    None for a plain input, very large windows, windows that lie outside the image altogether, and padded windows with
    gaps.
    """
    window = _window(x_shape, kernel, x_layout, strides, pads, dilations, ceil_mode)
    if window is None:
        return None
    rows, columns = window.rows, window.columns
    if max(rows.dilation, columns.dilation) > 1 and needed_halo(window) != NO_HALO:
        return None
    pieces = Pieces.of(columns.out, PIXELS[unit.registers] // (1 if columns.kernel <= 3 else 2))
    whole = x_dtype in ("uint8", "int8")
    kind = x_dtype if whole else "float32"

    def larger(emit: Emitter, a: Expr, b: Expr) -> Expr:
        return emit.max(a, b) if whole else emit.larger(a, b, unit)

    result = _Result(out_layout, out_dtype, fill, epilogue, tuple(extras), unit)

    def emit_rows(emit: Emitter, x: Any, out: Output) -> None:
        def nearest(axis: Axis, at: Expr, tap: int, last: int) -> Expr:
            """The element of a tap of output `at`, which is at most `last`; beside the image the nearest one inside.

            Without gaps, that one belongs to the same windows.
            """
            position = at * axis.stride + (tap - axis.before)
            position = emit.max(position, 0) if tap < axis.before else position
            beyond = last * axis.stride + tap - axis.before >= axis.size
            return emit.min(position, axis.size - 1) if beyond else position

        def piece(n: Expr, block: Expr, row: Expr, i: Expr) -> None:
            left = pieces.start(emit, i)
            acc = RegisterTile(emit, pieces.size, 1, unit.lanes, kind)
            started: set[int] = set()
            lines = [emit.bind(nearest(rows, row, k * rows.dilation, rows.out - 1)) for k in range(rows.kernel)]
            for j, outputs in _columns(window, pieces.size):
                w = nearest(columns, left, j, columns.out - pieces.size)
                column = RegisterTile(emit, 1, 1, unit.lanes, kind)
                for k, h in enumerate(lines):
                    value = _vector(emit, x_layout, x, n, block, h, w, unit)
                    column.update_one(0, 0, lambda a, k=k, v=value: larger(emit, a, v) if k else v)  # type: ignore[misc]
                best = column[0, 0]
                for p in outputs:
                    fresh = p not in started
                    started.add(p)
                    acc.update_one(p, 0, lambda a, f=fresh, v=best: v if f else larger(emit, a, v))  # type: ignore[misc]
            out.store_tile(acc, pieces.size, 1, n, block, lambda p: (row, left + p))

        each_row(emit, x_shape[0], out, pieces.count, piece)

    return _kernel(x_shape, window.out_spatial, x_layout, x_dtype, result, emit_rows)


def average_pool_blocked(
    x_shape: Sequence[Dim],
    kernel: Sequence[int],
    *,
    x_layout: Layout,
    out_layout: Layout,
    x_dtype: str = "float32",
    out_dtype: str = "float32",
    fill: float = 0,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """ONNX AveragePool on a blocked x[N, C, H, W] whose halo covers the windows; N may be symbolic.

    None for a plain input, a halo too small, very large windows, and windows that lie outside the image altogether.
    """
    window = _window(x_shape, kernel, x_layout, strides, pads, dilations, ceil_mode)
    if window is None or not isinstance(x_layout, Blocked) or not x_layout.halo.covers(needed_halo(window)):
        return None
    rows, columns = window.rows, window.columns
    pieces = Pieces.of(columns.out, PIXELS[unit.registers])
    bounds = [(-a.before, a.size + a.after) if count_include_pad else (0, a.size) for a in (rows, columns)]

    result = _Result(out_layout, out_dtype, fill, epilogue, tuple(extras), unit)

    def emit_rows(emit: Emitter, x: Any, out: Output) -> None:
        def piece(n: Expr, block: Expr, row: Expr, i: Expr) -> None:
            left = pieces.start(emit, i)
            acc = RegisterTile(emit, pieces.size, 1, unit.lanes)
            acc.fill()
            for kh in range(rows.kernel):
                h = row * rows.stride + kh * rows.dilation - rows.before
                for j, outputs in _columns(window, pieces.size):
                    w = left * columns.stride + j - columns.before
                    value = _vector(emit, x_layout, x, n, block, h, w, unit)
                    for p in outputs:
                        acc.update_one(p, 0, lambda a, v=value: a + v)  # type: ignore[misc]
            out.store_tile(acc, pieces.size, 1, n, block, lambda p: (row, left + p))

        each_row(emit, x_shape[0], out, pieces.count, piece)

    def divide(emit: Emitter, acc: Expr, index: tuple[Expr, ...]) -> Expr:
        count = 1
        for axis, at, (low, high) in zip((rows, columns), index[2:], bounds, strict=True):
            count = count * _emitted_taps(emit, axis, at, low, high)
        return acc * emit.const(1.0 / count) if isinstance(count, int) else acc / emit.to_float(count)

    return _kernel(x_shape, window.out_spatial, x_layout, x_dtype, result, emit_rows, divide)


def global_average_pool_blocked(
    x_shape: Sequence[Dim],
    *,
    x_layout: Layout,
    out_layout: Layout,
    x_dtype: str = "float32",
    out_dtype: str = "float32",
    fill: float = 0,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """ONNX GlobalAveragePool of a blocked x[N, C, H, W] to [N, C, 1, 1]; N may be symbolic. None for a plain input."""
    if len(x_shape) != 4 or not is_static(x_shape[1:]) or not isinstance(x_layout, Blocked):
        return None
    height, width = x_shape[2:]
    # Without margins between the rows the image is one long row.
    rows, row = (1, height * width) if not (x_layout.halo.left or x_layout.halo.right) else (height, width)
    whole, rest = divmod(row, SUMS)

    result = _Result(out_layout, out_dtype, fill, epilogue, tuple(extras), unit)

    def emit_rows(emit: Emitter, x: Any, out: Output) -> None:
        def pixel(n: Expr, block: Expr, _row: Expr, _piece: Expr) -> None:
            acc = RegisterTile(emit, SUMS, 1, unit.lanes)
            acc.fill()

            def add(h: Expr, first: Expr, count: int) -> None:
                for i in range(count):
                    value = _vector(emit, x_layout, x, n, block, h, first + i, unit)
                    acc.update_one(i, 0, lambda a, v=value: a + v)  # type: ignore[misc]

            if whole:
                with emit.serial(rows * whole) as i:
                    add(i // whole, i % whole * SUMS, SUMS)
            if rest:
                with emit.serial(rows) as h:
                    add(h, whole * SUMS, rest)
            sums = emit.registers(SUMS * unit.lanes)
            acc.spill(sums, lambda i, _: [i * unit.lanes])
            half = SUMS
            while half > 1:
                half //= 2
                for i in range(half):
                    a, b = (emit.ramp(j * unit.lanes, unit.lanes) for j in (i, i + half))
                    emit.store(sums, [a], sums[a] + sums[b])
            out.store(n, block, 0, 0, lambda lane: sums[lane])

        each_row(emit, x_shape[0], out, 1, pixel)

    def divide(emit: Emitter, acc: Expr, index: tuple[Expr, ...]) -> Expr:
        return acc * emit.const(1.0 / (height * width))

    return _kernel(x_shape, (1, 1), x_layout, x_dtype, result, emit_rows, divide)


@dataclass(frozen=True)
class _Result:
    """How a result is finished and stored."""

    layout: Layout
    dtype: str
    fill: float
    epilogue: Epilogue
    extras: tuple[ExtraOperand, ...]
    unit: VectorUnit


def _kernel(
    x_shape: Sequence[Dim],
    out_spatial: tuple[int, ...],
    x_layout: Layout,
    x_dtype: str,
    result: _Result,
    emit_rows: Callable[[Emitter, Any, Output], None],
    finish: Callable[[Emitter, Expr, tuple[Expr, ...]], Expr] = lambda emit, acc, index: acc,
) -> Kernel:
    """The function around the loops; finish(emit, accumulator, index) comes before the epilogue."""
    emit, r = Emitter(), result
    logical = (x_shape[0], x_shape[1], *out_spatial)

    def finished(acc: Expr, index: tuple[Expr, ...], extra: tuple[Any, ...]) -> Expr:
        return r.epilogue(finish(emit, acc, index), index, extra)

    with emit.function():
        x = emit.floats("x", x_layout.shape(x_shape), x_dtype)
        extra = emit.extra_args(r.extras)
        emit_rows(emit, x, Output(emit, r.layout, logical, finished, extra, r.unit, r.dtype, r.fill))
    return Kernel(emit.func, (None,), (x_layout.shape(x_shape),), r.layout.shape(logical))


def _window(
    x_shape: Sequence[Dim],
    kernel: Sequence[int],
    x_layout: Layout,
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None,
    ceil_mode: bool,
) -> Window | None:
    """The window, unless it is too large or some of its positions lie outside the image altogether."""
    if len(x_shape) != 4 or not is_static(x_shape[1:]) or not isinstance(x_layout, Blocked):
        return None
    window = make_window(x_shape[2:], kernel, strides, pads, dilations, ceil_mode)
    if window is None or window.taps > MAX_TAPS:
        return None
    inside = all(_taps(a, i, 0, a.size) for a in (window.rows, window.columns) for i in range(a.out))
    return window if inside else None


def _taps(axis: Axis, position: int, low: int, high: int) -> int:
    """How many taps of an output position lie in [low, high)."""
    start = position * axis.stride - axis.before
    return sum(low <= start + k * axis.dilation < high for k in range(axis.kernel))


def _first_tap(emit: Emitter, axis: Axis, position: Expr, low: int) -> Expr:
    """The first tap of an output position at `low` or beyond."""
    missing = low + axis.before - position * axis.stride
    return (emit.max(missing, 0) + (axis.dilation - 1)) // axis.dilation


def _last_tap(emit: Emitter, axis: Axis, position: Expr, high: int) -> Expr:
    """The last tap of an output position before `high`."""
    return emit.min(high - 1 + axis.before - position * axis.stride, axis.reach) // axis.dilation


def _emitted_taps(emit: Emitter, axis: Axis, position: Expr, low: int, high: int) -> Expr:
    """`_taps` of a position that is an expression; a number where all positions have as many."""
    counts = {_taps(axis, i, low, high) for i in range(axis.out)}
    if len(counts) == 1:
        return counts.pop()
    return _last_tap(emit, axis, position, high) - _first_tap(emit, axis, position, low) + 1


def _columns(window: Window, pixels: int) -> list[tuple[int, list[int]]]:
    """The input columns of a tile of outputs, from its first tap on, each with the outputs that it belongs to (again
    for each tap).
    """
    axis = window.columns
    taps = [(p * axis.stride + k * axis.dilation, p) for k in range(axis.kernel) for p in range(pixels)]
    return [(j, [p for i, p in taps if i == j]) for j in sorted({i for i, _ in taps})]


def _vector(emit: Emitter, layout: Layout, x: Any, n: Expr, block: Expr, h: Expr, w: Expr, unit: VectorUnit) -> Expr:
    *pixel, _ = layout.index((n, block * unit.lanes, h, w))
    return x[(*pixel, emit.ramp(0, unit.lanes))]
