"""Copies: plain to blocked and back through transposed squares, blocked to blocked row by row; concatenation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..emit import Emitter
from ..kernel import AVX512, Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, ceil_div, cover, identity, is_static
from ..layout import Blocked, Layout, Plain
from ..tile import RegisterTile
from .store import Output
from .window import each_row

__all__ = ["concat_blocked", "relayout"]


def relayout(
    x_shape: Sequence[Dim], *, x_layout: Layout, out_layout: Layout, unit: VectorUnit = AVX512
) -> Kernel | None:
    """x[N, C, H, W] in another layout; N may be symbolic. None for symbolic extents and from plain to plain."""
    if len(x_shape) != 4 or not is_static(x_shape[1:]):
        return None
    if isinstance(x_layout, Blocked) and isinstance(out_layout, Blocked):
        return concat_blocked([x_shape], x_layouts=[x_layout], out_layout=out_layout, unit=unit)
    if isinstance(x_layout, Plain) and isinstance(out_layout, Plain):
        return None
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_layout.shape(x_shape))
        if isinstance(x_layout, Blocked):
            _to_plain(emit, tuple(x_shape), x_layout, x, emit.arg("out", out_layout.shape(x_shape)), unit)
        else:
            _to_blocked(emit, x, Output(emit, out_layout, tuple(x_shape), identity, (), unit), unit)
    return Kernel(emit.func, (None,), (x_layout.shape(x_shape),), out_layout.shape(x_shape))


def concat_blocked(
    x_shapes: Sequence[Sequence[Dim]],
    *,
    x_layouts: Sequence[Layout],
    out_layout: Layout,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """ONNX Concat of blocked [N, C_i, H, W] along the channels; N may be symbolic.

    None for a plain input, and unless all but the last one fill their blocks of channels.
    """
    first = tuple(x_shapes[0])
    if len(first) != 4 or not all(isinstance(layout, Blocked) for layout in x_layouts):
        return None
    if not all(is_static(s[1:]) and tuple(s[2:]) == first[2:] for s in x_shapes):
        return None
    if any(s[1] % unit.lanes for s in x_shapes[:-1]):
        return None
    logical = (first[0], sum(s[1] for s in x_shapes), *first[2:])
    memory = [layout.shape(s) for layout, s in zip(x_layouts, x_shapes, strict=True)]
    emit = Emitter()
    with emit.function():
        buffers = [emit.arg(f"x{i}", shape) for i, shape in enumerate(memory)]
        extra = emit.extra_args(tuple(extras))
        out = Output(emit, out_layout, logical, epilogue, extra, unit)
        before = 0
        for x, layout, shape in zip(buffers, x_layouts, memory, strict=True):
            blocks = range(before, before + shape[1])
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


def _to_plain(emit: Emitter, shape: tuple[Dim, ...], layout: Blocked, x: Any, out: Any, unit: VectorUnit) -> None:
    lanes, width = unit.lanes, shape[3]

    def square(n: Expr, block: Expr, first: Expr, pixels: int, channels: int) -> None:
        tile = RegisterTile(emit, lanes, 1, lanes)
        for i in range(pixels):
            *at, _ = layout.index((n, block * lanes, (first + i) // width, (first + i) % width))
            tile.update_one(i, 0, lambda _, at=at: x[(*at, emit.ramp(0, lanes))])  # type: ignore[misc]
        tile = transposed(emit, tile, lanes)
        for c in range(channels):
            # The image as one long row.
            emit.store(out, (n, block * lanes + c, 0, emit.ramp(first, pixels)), tile[c, 0])

    def pixel(n: Expr, block: Expr, first: Expr, channels: int) -> None:
        for start, some in cover(channels, lanes):
            with emit.lanes(some) as lane:
                at = (n, block * lanes + (start + lane), first // width, first % width)
                emit.store(out, at, x[layout.index(at)])

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
