"""Copies: plain to blocked and back through transposed squares, blocked to blocked row by row; concatenation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..emit import Emitter
from ..kernel import AVX512, Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, ceil_div, cover, identity, is_static
from ..layout import Blocked, Layout, Plain
from ..tile import RegisterTile
from .store import Output
from .window import each_row

__all__ = ["concat_blocked", "relayout"]


def relayout(
    x_shape: Sequence[Dim],
    *,
    x_layout: Layout,
    out_layout: Layout,
    dtype: str = "float32",
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """x[N, C, H, W], fp32 or bf16 (uint16), in another layout; N may be symbolic.

    None for symbolic extents and from plain to plain.
    """
    if len(x_shape) != 4 or not is_static(x_shape[1:]):
        return None
    emit = Emitter()

    def stored(acc: Expr, index: tuple[Expr, ...], extras: tuple[Any, ...]) -> Expr:
        return emit.narrowed(acc, dtype)

    if isinstance(x_layout, Blocked) and isinstance(out_layout, Blocked):
        dtypes: dict[str, Any] = {"x_dtypes": [dtype], "out_dtype": dtype, "epilogue": stored}
        return concat_blocked([x_shape], x_layouts=[x_layout], out_layout=out_layout, unit=unit, **dtypes)
    if isinstance(x_layout, Plain) and isinstance(out_layout, Plain):
        return None
    lanes = next(layout.lanes for layout in (x_layout, out_layout) if isinstance(layout, Blocked))
    unit = replace(unit, lanes=lanes)
    with emit.function():
        x = emit.floats("x", x_layout.shape(x_shape), dtype)
        if isinstance(x_layout, Blocked):
            out = emit.arg("out", out_layout.shape(x_shape), dtype)
            _to_plain(emit, tuple(x_shape), x_layout, x, out, dtype, unit)
        else:
            _to_blocked(emit, x, Output(emit, out_layout, tuple(x_shape), stored, (), unit, dtype), unit)
    return Kernel(emit.func, (None,), (x_layout.shape(x_shape),), out_layout.shape(x_shape))


def concat_blocked(
    x_shapes: Sequence[Sequence[Dim]],
    *,
    x_layouts: Sequence[Layout],
    out_layout: Layout,
    x_dtypes: Sequence[str] = (),
    out_dtype: str = "float32",
    fill: float = 0,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """epilogue(x) of images [N, C_i, H, W] in any layout, one after the other along the channels; N may be symbolic.

    `x_dtypes` (fp32 where there are none) and `out_dtype` are those in memory, where bf16 is uint16. `fill` is what the
    halo of the result holds. None unless all but the last image fill their blocks of channels.
    """
    first = tuple(x_shapes[0])
    if len(first) != 4 or not all(is_static(s[1:]) and tuple(s[2:]) == first[2:] for s in x_shapes):
        return None
    if isinstance(out_layout, Blocked):
        unit = replace(unit, lanes=out_layout.lanes)
    if any(s[1] % unit.lanes for s in x_shapes[:-1]):
        return None
    logical = (first[0], sum(s[1] for s in x_shapes), *first[2:])
    memory = [layout.shape(s) for layout, s in zip(x_layouts, x_shapes, strict=True)]
    dtypes = x_dtypes or ("float32",) * len(memory)
    emit = Emitter()
    with emit.function():
        buffers = [emit.floats(f"x{i}", s, d) for i, (s, d) in enumerate(zip(memory, dtypes, strict=True))]
        extra = emit.extra_args(tuple(extras))
        out = Output(emit, out_layout, logical, epilogue, extra, unit, out_dtype, fill)
        before = 0
        for x, layout, shape in zip(buffers, x_layouts, x_shapes, strict=True):
            blocks = range(before, before + ceil_div(shape[1], unit.lanes))
            each_row(emit, first[0], out, 1, _copy_row(out, x, layout, blocks.start, unit), blocks)
            before = blocks.stop
    return Kernel(emit.func, (None,) * len(memory), tuple(memory), out_layout.shape(logical))


def _copy_row(
    out: Output, x: Any, layout: Layout, before: int, unit: VectorUnit
) -> Callable[[Expr, Expr, Expr, Expr], None]:
    """A body for `each_row`; block `before` of the output is the first one of x."""

    def row(n: Expr, block: Expr, h: Expr, _: Expr) -> None:
        def value(w: Expr, lane: Expr) -> Expr:
            return x[layout.index((n, (block - before) * unit.lanes + lane, h, w))]

        out.store_pixels(out.shape[3], n, block, lambda w: (h, w), value)

    return row


def _to_plain(
    emit: Emitter, shape: tuple[Dim, ...], layout: Blocked, x: Any, out: Any, dtype: str, unit: VectorUnit
) -> None:
    lanes, width = unit.lanes, shape[3]

    def square(n: Expr, block: Expr, first: Expr, pixels: int, channels: int) -> None:
        tile = RegisterTile(emit, lanes, 1, lanes)
        for i in range(pixels):
            *at, _ = layout.index((n, block * lanes, (first + i) // width, (first + i) % width))
            tile.update_one(i, 0, lambda _, at=at: x[(*at, emit.ramp(0, lanes))])  # type: ignore[misc]
        tile = transposed(emit, tile, lanes)
        for c in range(channels):
            # The image as one long row.
            emit.store(out, (n, block * lanes + c, 0, emit.ramp(first, pixels)), emit.narrowed(tile[c, 0], dtype))

    def pixel(n: Expr, block: Expr, first: Expr, channels: int) -> None:
        for start, some in cover(channels, lanes):
            with emit.lanes(some) as lane:
                at = (n, block * lanes + (start + lane), first // width, first % width)
                emit.store(out, at, emit.narrowed(x[layout.index(at)], dtype))

    _each_square(emit, shape, unit, square, pixel)


def _to_blocked(emit: Emitter, x: Any, out: Output, unit: VectorUnit) -> None:
    lanes, width = unit.lanes, out.shape[3]

    def square(n: Expr, block: Expr, first: Expr, pixels: int, channels: int) -> None:
        tile = RegisterTile(emit, lanes, 1, lanes)
        tile.fill()
        for c in range(channels):
            # The image as one long row.
            row = x[n, block * lanes + c, 0, emit.ramp(first, pixels)]
            tile.update_one(c, 0, lambda _, row=row: row)  # type: ignore[misc]
        tile = transposed(emit, tile, lanes)
        with emit.when(first == 0):
            out.fill_halo(n, block)
        out.store_tile(tile, pixels, 1, n, block, lambda i: ((first + i) // width, (first + i) % width))

    def pixel(n: Expr, block: Expr, first: Expr, channels: int) -> None:
        h, w = first // width, first % width
        with emit.when(first == 0):
            out.fill_halo(n, block)
        out.store(n, block, h, w, lambda lane: x[n, block * lanes + lane, h, w])

    _each_square(emit, out.shape, unit, square, pixel)


def _each_square(
    emit: Emitter,
    shape: tuple[Dim, ...],
    unit: VectorUnit,
    square: Callable[[Expr, Expr, Expr, int, int], None],
    pixel: Callable[[Expr, Expr, Expr, int], None],
) -> None:
    """Call square(n, block, first pixel, pixels, channels) for squares of pixels x channels that cover the tensor.

    Where an image has fewer pixels than a vector, call pixel(n, block, pixel, channels) for each instead.
    """
    batch, channels, height, width = shape
    lanes, pixels = unit.lanes, height * width
    size = lanes if pixels >= lanes else 1
    squares, blocks = ceil_div(pixels, size), ceil_div(channels, lanes)
    full, rest = divmod(channels, lanes)
    with emit.parallel(batch * (blocks * squares)) as task:
        n, index = task // (blocks * squares), task % (blocks * squares)
        block, first = index // squares, emit.step_back(index % squares, size, pixels)

        def body(count: int) -> None:
            if size == 1:
                pixel(n, block, first, count)
            else:
                square(n, block, first, size, count)

        if full and rest:
            emit.branch(block < full, lambda: body(lanes), lambda: body(rest))
        else:
            body(rest or lanes)


def transposed(emit: Emitter, tile: RegisterTile, lanes: int) -> RegisterTile:
    """Row i of the result is lane i of all rows: log2(lanes) rounds that swap ever larger halves of pairs of rows."""
    apart = 1
    while apart < lanes:
        low = [i + lanes - apart if i & apart else i for i in range(lanes)]
        high = [i + lanes if i & apart else i + apart for i in range(lanes)]
        result = RegisterTile(emit, lanes, 1, lanes)
        for r in range(lanes):
            pair = (tile[r & ~apart, 0], tile[r | apart, 0])
            picks = high if r & apart else low
            result.update_one(r, 0, lambda _, pair=pair, picks=picks: emit.shuffle(pair, picks))  # type: ignore[misc]
        tile, apart = result, apart * 2
    return tile
