"""Images of bytes in blocks of channels: pools, and copies with something done to each element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..blocked.pool import MAX_TAPS, _columns
from ..blocked.store import Output
from ..blocked.window import Pieces, each_row, needed_halo
from ..emit import Emitter
from ..geometry import Axis, make_window
from ..kernel import Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, identity, is_static
from ..layout import NO_HALO, Blocked, Layout
from ..tile import RegisterTile
from .gemm import VNNI

__all__ = ["concat_bytes", "interleave_bytes", "max_pool_bytes", "sum_pool_bytes"]

PIXELS = 8
"""Pixels of a pool's tile."""


def max_pool_bytes(
    x_shape: Sequence[Dim],
    kernel: Sequence[int],
    *,
    x_layout: Blocked,
    out_layout: Layout,
    x_dtype: str = "uint8",
    out_dtype: str = "uint8",
    fill: int = 0,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: bool = False,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VNNI,
) -> Kernel | None:
    """ONNX MaxPool of x[N, C, H, W]; N may be symbolic, no halo is needed.

    None for very large windows, and for padded windows with gaps.
    """
    window = make_window(x_shape[2:], kernel, strides, pads, dilations, ceil_mode)
    if not is_static(x_shape[1:]) or window is None or window.taps > MAX_TAPS or x_layout.lanes != unit.lanes:
        return None
    rows, columns = window.rows, window.columns
    gaps = max(rows.dilation, columns.dilation) > 1
    if needed_halo(window) != NO_HALO and (gaps or not all(_touches(a) for a in (rows, columns))):
        return None
    pieces = Pieces.of(columns.out, PIXELS)

    def nearest(emit: Emitter, axis: Axis, at: Expr, tap: int, last: int) -> Expr:
        """The element of a tap of output `at`; beside the image the nearest one inside, which has the same windows."""
        position = at * axis.stride + (tap - axis.before)
        position = emit.max(position, 0) if tap < axis.before else position
        beyond = last * axis.stride + tap - axis.before >= axis.size
        return emit.min(position, axis.size - 1) if beyond else position

    def emit_rows(emit: Emitter, x: Any, out: Output) -> None:
        def piece(n: Expr, block: Expr, row: Expr, i: Expr) -> None:
            left = pieces.start(emit, i)
            acc = RegisterTile(emit, pieces.size, 1, unit.lanes, x_dtype)
            started: set[int] = set()
            lines = [emit.bind(nearest(emit, rows, row, k * rows.dilation, rows.out - 1)) for k in range(rows.kernel)]
            for j, outputs in _columns(window, pieces.size):
                w = nearest(emit, columns, left, j, columns.out - pieces.size)
                best = RegisterTile(emit, 1, 1, unit.lanes, x_dtype)
                for k, h in enumerate(lines):
                    value = _vector(emit, x_layout, x, n, block, h, w)
                    best.update_one(0, 0, lambda a, k=k, v=value: emit.max(a, v) if k else v)  # type: ignore[misc]
                for p in outputs:
                    fresh = p not in started
                    started.add(p)
                    acc.update_one(p, 0, lambda a, f=fresh, v=best[0, 0]: v if f else emit.max(a, v))  # type: ignore[misc]
            out.store_tile(acc, pieces.size, 1, n, block, lambda p: (row, left + p))

        each_row(emit, x_shape[0], out, pieces.count, piece)

    logical = (x_shape[0], x_shape[1], *window.out_spatial)
    return _kernel(
        [(tuple(x_shape), x_layout, x_dtype)], logical, out_layout, out_dtype, fill, epilogue, extras, unit, emit_rows
    )


def _touches(axis: Axis) -> bool:
    """Whether every window has an element of the image in it."""
    first = [i * axis.stride - axis.before for i in range(axis.out)]
    return all(start < axis.size and start + axis.kernel > 0 for start in first)


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

    def emit_rows(emit: Emitter, x: Any, out: Output) -> None:
        def pixel(n: Expr, block: Expr, row: Expr, column: Expr) -> None:
            acc = RegisterTile(emit, 1, 1, unit.lanes, "int32")
            acc.fill(start)
            top, left = row * rows.stride - rows.before, column * columns.stride - columns.before
            with emit.serial(window.taps) as tap:
                h = top + tap // columns.kernel * rows.dilation
                w = left + tap % columns.kernel * columns.dilation
                value = emit.cast(_vector(emit, x_layout, x, n, block, h, w), "int32")
                acc.update(lambda a, r, v: a + value)
            out.store_tile(acc, 1, 1, n, block, lambda p: (row, column))

        each_row(emit, x_shape[0], out, columns.out, pixel)

    logical = (x_shape[0], x_shape[1], *window.out_spatial)
    return _kernel(
        [(tuple(x_shape), x_layout, x_dtype)], logical, out_layout, out_dtype, fill, epilogue, extras, unit, emit_rows
    )


def concat_bytes(
    x_shapes: Sequence[Sequence[Dim]],
    *,
    x_layouts: Sequence[Layout],
    x_dtypes: Sequence[str],
    out_layout: Layout,
    out_dtype: str = "uint8",
    fill: int = 0,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VNNI,
) -> Kernel | None:
    """epilogue(x) of images [N, C_i, H, W] in any layout, one after the other along the channels; N may be symbolic.

    None unless all but the last one fill their blocks of channels.
    """
    first = tuple(x_shapes[0])
    if len(first) != 4 or not all(is_static(s[1:]) and tuple(s[2:]) == first[2:] for s in x_shapes):
        return None
    if isinstance(out_layout, Blocked):
        unit = replace(unit, lanes=out_layout.lanes)
    if any(s[1] % unit.lanes for s in x_shapes[:-1]):
        return None
    logical = (first[0], sum(s[1] for s in x_shapes), *first[2:])
    sources = [(tuple(s), layout, dtype) for s, layout, dtype in zip(x_shapes, x_layouts, x_dtypes, strict=True)]

    def emit_rows(emit: Emitter, *rest: Any) -> None:
        *buffers, out = rest
        before = 0
        for x, (shape, layout, _) in zip(buffers, sources, strict=True):
            blocks = range(before, before - (-shape[1] // unit.lanes))

            def row(
                n: Expr, block: Expr, h: Expr, _: Expr, x: Any = x, layout: Layout = layout, b: int = before
            ) -> None:
                def value(w: Expr, lane: Expr) -> Expr:
                    return x[layout.index((n, (block - b) * unit.lanes + lane, h, w))]

                out.store_pixels(out.shape[3], n, block, lambda w: (h, w), value)

            each_row(emit, first[0], out, 1, row, blocks)
            before = blocks.stop

    return _kernel(sources, logical, out_layout, out_dtype, fill, epilogue, extras, unit, emit_rows)


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
    """epilogue(x) of a plain image [N, C, H, W] of few channels, the bytes of a pixel side by side; N may be symbolic.

    Vectors run along the pixels of a row. None for more than four channels.
    """
    lanes = out_layout.lanes
    if len(x_shape) != 4 or not is_static(x_shape[1:]) or lanes != 4 or x_shape[1] > lanes:
        return None
    batch, channels, _, width = x_shape
    spare = int.from_bytes(bytes([0] * channels + [fill & 255] * (lanes - channels)), "little", signed=True)

    def emit_rows(emit: Emitter, x: Any, out: Output) -> None:
        def row(n: Expr, _: Expr, h: Expr, __: Expr) -> None:
            def pixels(start: Expr, count: int) -> None:
                stack = emit.registers(channels * count, dtype="int32")
                for c in range(channels):
                    with emit.lanes(count) as i:
                        at = (n, c, h, start + i)
                        value = epilogue(x[at], at, extra)
                        emit.store(stack, [c * count + i], _word(emit, value))
                word = emit.splat_of(spare, "int32", count)
                for c in range(channels):
                    some = stack[emit.ramp(c * count, count)]
                    word = word | (some << emit.splat_of(8 * c, "int32", count) if c else some)
                *pixel, _ = out_layout.index((n, 0, h, start))
                emit.store(
                    out.buffer, [*pixel, emit.ramp(0, lanes * count)], emit.bits(word, f"{out_dtype}x{lanes * count}")
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


def _kernel(
    sources: Sequence[tuple[tuple[Dim, ...], Layout, str]],
    logical: tuple[Dim, ...],
    out_layout: Layout,
    out_dtype: str,
    fill: int,
    epilogue: Epilogue,
    extras: Sequence[ExtraOperand],
    unit: VectorUnit,
    emit_rows: Callable[..., None],
) -> Kernel:
    """The function around the loops."""
    emit = Emitter()
    memory = [layout.shape(shape) for shape, layout, _ in sources]
    with emit.function():
        buffers = [
            emit.arg(f"x{i}", m, dtype) for i, (m, (_, _, dtype)) in enumerate(zip(memory, sources, strict=True))
        ]
        extra = emit.extra_args(tuple(extras))
        emit_rows(emit, *buffers, Output(emit, out_layout, logical, epilogue, extra, unit, out_dtype, fill))
    return Kernel(emit.func, (None,) * len(memory), tuple(memory), out_layout.shape(logical))


def _word(emit: Emitter, value: Expr) -> Expr:
    """A byte as the low bits of an int32, the others empty."""
    return emit.cast(value, "int32") & emit.integer(255)


def _vector(emit: Emitter, layout: Blocked, x: Any, n: Expr, block: Expr, h: Expr, w: Expr) -> Expr:
    *pixel, _ = layout.index((n, block * layout.lanes, h, w))
    return x[(*pixel, emit.ramp(0, layout.lanes))]
