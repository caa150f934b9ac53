"""Interpolation and sampling of images: positions and weights in f64, as the interpreter has them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ....ir.graph import Node
from ....ir.ops._resize import axis_weights
from ....ir.types import Float, Tensor, elem_of
from ..api import modules
from .casts import convert
from .context import Context
from .contract import per_axis
from .elements import compute_dtype
from .expr import Expr, Index, all_of, cast, clamp, const, is_nan, larger, like, select
from .functions import Let, round_half_even
from .loops import outer_nest
from .problems import static_only
from .reduction import Accumulator, reduce
from .table import lower
from .tensor import Lazy

F64 = "float64"
Taps = list[tuple[Expr, Expr]]
"""(index, weight) of the neighbours along one axis."""


def _table(ctx: Context, array: Any) -> Lazy:
    return ctx.table(array, Tensor(array.shape, elem_of(array.dtype)))


# --- resize ---------------------------------------------------------------------------------------------------------


@lower("nn.resize")
def resize(ctx: Context, node: Node, x: Lazy) -> Lazy:
    """Indices and weights of each axis are tables; axes that keep their extent have none."""
    x = ctx.pure(x)
    type, a = ctx.result_type(node), node.attr
    mode, roi = a("mode"), a("roi")
    indices: dict[int, Lazy] = {}
    weights: dict[int, Lazy] = {}
    outside: dict[int, Lazy] = {}
    taps: dict[int, int] = {}
    for axis, (before, after) in enumerate(zip(x.shape, type.shape, strict=True)):
        scale = a("scales")[axis]
        if before == after and scale == 1.0 and a("coordinates") != "tf_crop_and_resize":
            continue
        if not isinstance(before, int) or not isinstance(after, int):
            raise static_only(node, f"axis {axis} is resized from {before} to {after}")
        window = (0.0, 1.0) if roi is None else (roi[axis], roi[axis + x.rank])
        index, weight, beyond = axis_weights(
            before,
            after,
            scale,
            mode,
            a("coordinates"),
            a("nearest"),
            a("cubic"),
            a("antialias"),
            a("exclude_outside"),
            window,
        )
        indices[axis], weights[axis] = _table(ctx, index.astype(np.int32)), _table(ctx, weight.astype(np.float64))
        taps[axis] = index.shape[1]
        if beyond.any():
            outside[axis] = _table(ctx, beyond)

    def bounded(value: Expr, index: Index) -> Expr:
        for axis, mark in outside.items():
            value = select(ctx.read(mark, (index[axis],)), like(value, a("extrapolation")), value)
        return convert(ctx, value, type.elem)

    if mode == "nearest":
        source = x

        def read(index: Index) -> Expr:
            at = tuple(ctx.read(indices[i], (p, 0)) if i in indices else p for i, p in enumerate(index))
            value = ctx.read(source, at)
            return ctx.rounded(type.elem, bounded(value, index) if outside else value)

        return Lazy(type, read)

    # axis by axis, as the interpreter does: integer results are truncated, so the order of rounding shows
    for axis, count in taps.items():
        shape = (*x.shape[:axis], type.shape[axis], *x.shape[axis + 1 :])
        x = ctx.pure(_along_axis(ctx, x, Tensor(shape, Float("f64")), axis, count, indices[axis], weights[axis]))
    interpolated = x
    return Lazy(type, lambda index: ctx.rounded(type.elem, bounded(cast(ctx.read(interpolated, index), F64), index)))


def _along_axis(ctx: Context, x: Lazy, type: Tensor, axis: int, taps: int, indices: Lazy, weights: Lazy) -> Lazy:
    """Weighted sums of neighbours along one axis, in f64."""

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        at = (*index[:axis], ctx.read(indices, (index[axis], k[0])), *index[axis + 1 :])
        return [state[0] + cast(ctx.read(x, at), F64) * ctx.read(weights, (index[axis], k[0]))]

    return reduce(ctx, type, [taps], [Accumulator(0, F64)], step, lambda s, index: s[0])


# --- grid_sample ----------------------------------------------------------------------------------------------------


@lower("nn.grid_sample")
def grid_sample(ctx: Context, node: Node, x: Lazy, grid: Lazy) -> Lazy:
    x, grid = ctx.pure(x), ctx.pure(grid)
    type, rank = ctx.result_type(node), x.rank - 2
    mode, padding, corners = node.attr("mode"), node.attr("padding"), node.attr("align_corners")
    extents = [_f64(d) for d in ctx.extents(x.shape[2:])]
    one = const(1.0, F64)

    def axis_taps(index: Index, axis: int) -> Taps:
        g = cast(ctx.read(grid, (index[0], *index[2:], rank - 1 - axis)), F64)
        d = extents[axis]
        half = const(0.5, F64)
        p = ctx.let((g + one) * half * (d - one) if corners else ((g + one) * d - one) * half)
        if padding != "zeros" and mode != "cubic":  # the cubic kernel reads its taps where they fall, then folds each
            p = ctx.let(_settle(ctx, p, d, padding, corners)[0])
        if mode == "nearest":
            taps = [(round_half_even(p, ctx.let), one)]
        else:
            base = ctx.let(modules().tirx.floor(p))
            t = ctx.let(p - base)
            if mode == "linear":
                taps = [(base, one - t), (base + one, t)]
            else:
                taps = [(base + const(float(k), F64), _cubic(t - const(float(k), F64), ctx.let)) for k in range(-1, 3)]
        settled = []
        for q, weight in taps:
            inside, counts = _settle(ctx, ctx.let(q), d, padding, corners)
            whole = cast(round_half_even(inside, ctx.let), "int64")
            whole = clamp(whole, const(0, "int64"), cast(d, "int64") - const(1, "int64"))
            weight = weight if counts is None else select(counts, weight, const(0.0, F64))
            settled.append((ctx.let(whole), ctx.let(weight)))
        return settled

    def read(index: Index) -> Expr:
        total: Expr = const(0.0, F64)
        for combination in itertools.product(*[axis_taps(index, axis) for axis in range(rank)]):
            value = cast(ctx.read(x, (index[0], index[1], *[i for i, _ in combination])), F64)
            for _, weight in combination:
                value = value * weight
            total = total + value
        return ctx.rounded(type.elem, cast(total, compute_dtype(type.elem)))

    return Lazy(type, read)


def _f64(d: Any) -> Expr:
    return const(float(d), F64) if isinstance(d, int) else cast(d, F64)


def _settle(ctx: Context, p: Expr, d: Expr, padding: str, corners: bool) -> tuple[Expr, Expr | None]:
    """A position inside, and whether it counts (None: always)."""
    zero, top = like(p, 0.0), d - like(p, 1.0)
    if padding == "reflection":
        low = zero if corners else like(p, -0.5)
        span = ctx.let(top if corners else d)
        size = modules().tirx.abs(p - low)
        twice = span + span
        folded = ctx.let(size - modules().tirx.floor(size / twice) * twice)
        p = ctx.let(select(span == zero, zero, low + select(folded > span, twice - folded, folded)))
    counts = all_of(p >= zero, p <= top) if padding == "zeros" else None
    p = select(is_nan(p), zero, p)
    return select(p < zero, zero, select(p > top, top, p)), counts


def _cubic(t: Expr, let: Let, a: float = -0.75) -> Expr:
    """Keys' cubic convolution kernel."""
    t = let(modules().tirx.abs(t))
    near = (like(t, a + 2) * t - like(t, a + 3)) * t * t + like(t, 1.0)
    far = ((like(t, a) * t - like(t, 5 * a)) * t + like(t, 8 * a)) * t - like(t, 4 * a)
    return select(t <= like(t, 1.0), near, select(t < like(t, 2.0), far, like(t, 0.0)))


# --- regions --------------------------------------------------------------------------------------------------------


@lower("nn.roi_align")
def roi_align(ctx: Context, node: Node, x: Lazy, rois: Lazy, batch: Lazy) -> Lazy:
    """For each region, channel and cell: loops over its samples, whose number may depend on the region."""
    x, rois, batch = ctx.pure(x), ctx.pure(rois), ctx.pure(batch)
    type, a, emit, tirx = ctx.result_type(node), node.attr, ctx.emit, modules().tirx
    out = ctx.target(node)
    images, _, height, width = ctx.extents(x.shape)
    rows, columns = (ctx.extent(d) for d in type.shape[2:])
    shift = const(0.5 if a("half_pixel") else 0.0, F64)
    average = a("mode") == "avg"

    with outer_nest(ctx, type.shape, 1 << 20) as index:
        r, c, py, px = index
        corner = [
            ctx.bind(lambda i=i: cast(ctx.read(rois, (r, i)), F64) * const(a("scale"), F64) - shift)  # type: ignore[misc]
            for i in range(4)
        ]
        x1, y1, x2, y2 = corner
        h, w = y2 - y1, x2 - x1
        if not a("half_pixel"):
            h, w = tirx.max(h, const(1.0, F64)), tirx.max(w, const(1.0, F64))
        cell = [ctx.bind(lambda: h / _f64(rows)), ctx.bind(lambda: w / _f64(columns))]
        if a("sampling") > 0:
            counts = [const(a("sampling"), "int32")] * 2
        else:
            counts = [emit.bind(cast(tirx.ceil(size), "int32")) for size in cell]
        image = ctx.bind(lambda: clamp(cast(ctx.read(batch, (r,)), "int64"), 0, images - 1))
        acc = ctx.accumulators(1, F64)
        emit.store(acc, [0], const(0.0 if average else -np.inf, F64))
        with emit.serial(counts[0]) as i, emit.serial(counts[1]) as j:
            y = y1 + cell[0] * (
                _f64(0) + cast(_expr(py), F64) + (cast(i, F64) + const(0.5, F64)) / cast(counts[0], F64)
            )
            z = x1 + cell[1] * (
                _f64(0) + cast(_expr(px), F64) + (cast(j, F64) + const(0.5, F64)) / cast(counts[1], F64)
            )

            def sample(y: Expr = y, z: Expr = z) -> Expr:
                value: Expr = acc[0]
                for (iy, wy), (iz, wz) in itertools.product(_edge(ctx, y, height), _edge(ctx, z, width)):
                    part = cast(ctx.read(x, (image, c, iy, iz)), F64) * wy * wz
                    value = value + part if average else larger(value, ctx.let(part))
                return value

            emit.store(acc, [0], ctx.scoped(sample))
        total = acc[0] / cast(counts[0] * counts[1], F64) if average else acc[0]
        value = ctx.scoped(lambda: ctx.to_memory(type.elem, cast(total, compute_dtype(type.elem))))
        emit.store(out, index, value)
    return ctx.view(out, type)


def _expr(i: Expr) -> Expr:
    return const(i, "int32") if isinstance(i, int) else i


def _edge(ctx: Context, p: Expr, extent: Any) -> Taps:
    """Lower and upper neighbour with their weights; positions more than one pixel outside count 0."""
    tirx = modules().tirx
    top = _f64(extent) - const(1.0, F64)
    zero = const(0.0, F64)
    p = ctx.let(p)
    counts = all_of(p >= const(-1.0, F64), p <= _f64(extent))
    p = ctx.let(select(p > zero, p, zero))
    low = ctx.let(select(tirx.floor(p) < top, tirx.floor(p), top))
    high = select(low + const(1.0, F64) < top, low + const(1.0, F64), top)
    fraction = ctx.let(select(low >= top, top, p) - low)
    taps = [(low, const(1.0, F64) - fraction), (high, fraction)]
    return [(ctx.let(cast(i, "int64")), ctx.let(select(counts, w, zero))) for i, w in taps]


# --- deformable convolution -----------------------------------------------------------------------------------------


@lower("nn.deform_conv")
def deform_conv(
    ctx: Context, node: Node, x: Lazy, w: Lazy, offset: Lazy, b: Lazy | None = None, mask: Lazy | None = None
) -> Lazy:
    x, w, offset = ctx.pure(x), ctx.pure(w), ctx.pure(offset)
    b, mask = None if b is None else ctx.pure(b), None if mask is None else ctx.pure(mask)
    type, a, dtype, tirx = ctx.result_type(node), node.attr, compute_dtype(x.elem), modules().tirx
    strides, gaps = per_axis(a("strides"), 2), per_axis(a("dilations"), 2)
    pads = per_axis(a("pads"), 4, 0)
    kh, kw = (ctx.extent(d) for d in w.shape[2:])
    channels, height, width = ctx.extents(x.shape[1:])
    per_group, outputs = ctx.extent(w.shape[1]), ctx.extent(w.shape[0])
    per_offset = channels // a("offset_groups")

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        n, m, oy, ox = index
        channel = k[0] if a("g") == 1 else tirx.indexdiv(m, outputs // a("g")) * per_group + k[0]
        tap = k[1] * kw + k[2]
        group = tirx.indexdiv(_expr(channel), per_offset) * (kh * kw) + tap

        def place(i: int, position: Expr) -> Expr:
            start = cast(_expr(position * strides[i] + k[1 + i] * gaps[i] - pads[i]), F64)
            return ctx.let(start + cast(ctx.read(offset, (n, group * 2 + i, oy, ox)), F64))

        value: Expr = const(0.0, F64)
        for (iy, wy), (iz, wz) in itertools.product(
            _corners(ctx, place(0, oy), height), _corners(ctx, place(1, ox), width)
        ):
            value = value + cast(ctx.read(x, (n, channel, iy, iz)), F64) * wy * wz
        if mask is not None:
            value = value * cast(ctx.read(mask, (n, group, oy, ox)), F64)
        return [state[0] + cast(value, dtype) * ctx.read(w, (m, *k))]

    def finish(state: list[Expr], index: Index) -> Expr:
        return state[0] if b is None else state[0] + ctx.read(b, (index[1],))

    return reduce(ctx, type, w.shape[1:], [Accumulator(0, dtype)], step, finish)


def _corners(ctx: Context, p: Expr, extent: Any) -> Taps:
    """The two neighbours along an axis with bilinear weights; those outside count 0."""
    base = ctx.let(modules().tirx.floor(p))
    t = ctx.let(p - base)
    taps = []
    for q, weight in ((base, const(1.0, F64) - t), (base + const(1.0, F64), t)):
        whole = ctx.let(cast(q, "int64"))
        inside = all_of(
            whole >= const(0, "int64"), whole < const(extent, "int64") if isinstance(extent, int) else whole < extent
        )
        taps.append((ctx.let(clamp(whole, 0, extent - 1)), ctx.let(select(inside, weight, const(0.0, F64)))))
    return taps
