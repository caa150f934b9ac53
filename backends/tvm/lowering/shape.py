"""Structural ops: each reads its operand at another index, so none of them moves data on its own."""

from __future__ import annotations

import numpy as np

from ....ir.dims import Extent, size
from ....ir.graph import Node
from ....ir.shapes import normal_axes, normal_axis, slice_bounds
from ....ir.types import Tensor, elem_of
from ..api import modules
from .context import Context
from .elements import compute_dtype, storage_dtype
from .expr import Expr, Index, all_of, cast, clamp, const, select
from .loops import elementwise_nest, unravel
from .problems import static_only
from .table import lower
from .tensor import Lazy, Sink


def _reindexed(ctx: Context, node: Node, x: Lazy, where: object) -> Lazy:
    """x read at where(index)."""
    x = ctx.pure(x)
    return Lazy(ctx.result_type(node), lambda index: ctx.read(x, where(index)))  # type: ignore[operator]


# --- the same elements ----------------------------------------------------------------------------------------------


@lower("shape.reshape")
def reshape(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return reshaped(ctx, x, ctx.result_type(node))


@lower("shape.squeeze")
def squeeze(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return reshaped(ctx, x, ctx.result_type(node))


@lower("shape.unsqueeze")
def unsqueeze(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return reshaped(ctx, x, ctx.result_type(node))


def reshaped(ctx: Context, x: Lazy, type: Tensor) -> Lazy:
    """The same elements in row-major order: another view of the memory, or index arithmetic."""
    x = ctx.pure(x)
    if x.buffer is not None and size(x.shape) == size(type.shape):
        shape = ctx.extents(type.shape) or (1,)
        dtype = storage_dtype(x.elem)
        return ctx.view(modules().script.decl_buffer(shape, dtype, data=x.buffer.data, layout=None), type)
    kept = [d for d in x.shape if d != 1]
    if kept == [d for d in type.shape if d != 1]:  # only axes of extent 1 come or go

        def moved(index: Index) -> Expr:
            own = iter([i for i, d in zip(index, type.shape, strict=True) if d != 1])
            return ctx.read(x, tuple(0 if d == 1 else next(own) for d in x.shape))

        return Lazy(type, moved)

    same = 0  # leading axes that both have: no arithmetic with extents that may be symbolic
    while same < min(len(x.shape), len(type.shape)) and x.shape[same] == type.shape[same]:
        same += 1

    def read(index: Index) -> Expr:
        flat: Expr = 0
        for i, d in zip(index[same:], type.shape[same:], strict=True):
            flat = flat * ctx.extent(d) + i
        return ctx.read(x, (*index[:same], *unravel(flat, ctx.extents(x.shape[same:]))))

    return Lazy(type, read)


@lower("shape.transpose")
def transpose(ctx: Context, node: Node, x: Lazy) -> Lazy:
    perm = node.attr("perm")
    return _reindexed(ctx, node, x, lambda index: tuple(index[perm.index(i)] for i in range(len(perm))))


@lower("shape.expand")
def expand(ctx: Context, node: Node, x: Lazy) -> Lazy:
    rank = len(ctx.result_type(node).shape)
    return _reindexed(
        ctx,
        node,
        x,
        lambda index: tuple(0 if d == 1 else i for i, d in zip(index[rank - x.rank :], x.shape, strict=True)),
    )


@lower("shape.tile")
def tile(ctx: Context, node: Node, x: Lazy) -> Lazy:
    extents = ctx.extents(x.shape)
    return _reindexed(
        ctx,
        node,
        x,
        lambda index: tuple(
            i if r == 1 else 0 if isinstance(d, int) and d == 1 else i % d
            for i, d, r in zip(index, extents, node.attr("repeats"), strict=True)
        ),
    )


@lower("shape.reverse")
def reverse(ctx: Context, node: Node, x: Lazy) -> Lazy:
    axes = normal_axes(node.attr("axes"), x.rank)
    extents = ctx.extents(x.shape)
    return _reindexed(
        ctx, node, x, lambda index: tuple(extents[a] - 1 - i if a in axes else i for a, i in enumerate(index))
    )


@lower("shape.slice")
def slice_(ctx: Context, node: Node, x: Lazy) -> Lazy:
    starts, stops = node.attr("starts"), node.attr("stops")
    axes = normal_axes(node.attr("axes") if node.attr("axes") is not None else range(len(starts)), x.rank)
    steps = node.attr("steps") or (1,) * len(starts)
    first: list[Expr] = [0] * x.rank
    by = [1] * x.rank
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        d = x.shape[axis]
        if isinstance(d, int):
            first[axis] = slice_bounds(start, stop, step, d)[0]
        elif step == 1:  # the other forms have results of unknown extent
            first[axis] = ctx.extent(d) + start if start < 0 else start
        else:
            raise static_only(node, f"a slice with step {step} over {d} elements")
        by[axis] = step
    return _reindexed(
        ctx,
        node,
        x,
        lambda index: tuple(
            i if isinstance(f, int) and f == 0 and b == 1 else f + i * b
            for i, f, b in zip(index, first, by, strict=True)
        ),
    )


@lower("shape.split")
def split(ctx: Context, node: Node, x: Lazy) -> tuple[Lazy, ...]:
    axis = normal_axis(node.attr("axis"), x.rank)
    x = ctx.pure(x)
    offset: Extent = 0
    out = []
    for type in ctx.result_types(node):
        start = ctx.extent(offset)

        def read(index: Index, start: Expr = start) -> Expr:
            return ctx.read(x, (*index[:axis], index[axis] + start, *index[axis + 1 :]))

        out.append(Lazy(type, read))
        offset = offset + type.shape[axis]
    return tuple(out)


@lower("shape.concat")
def concat(ctx: Context, node: Node, *operands: Lazy) -> Lazy:
    """Loops over each operand, into its place."""
    type = ctx.result_type(node)
    axis = normal_axis(node.attr("axis"), len(type.shape))
    parts = [ctx.pure(x) for x in operands]

    def run(sink: Sink) -> None:
        offset: Extent = 0
        for x in parts:
            start = ctx.extent(offset)

            def body(index: Index, x: Lazy = x, start: Expr = start) -> None:
                at = (*index[:axis], index[axis] + start, *index[axis + 1 :])
                sink(at, ctx.scoped(lambda: ctx.read(x, index)))

            elementwise_nest(ctx, x.shape, x.elem, body)
            offset = offset + x.shape[axis]

    return ctx.derived(type, run)


# --- borders --------------------------------------------------------------------------------------------------------


@lower("shape.pad")
def pad(ctx: Context, node: Node, x: Lazy, value: Lazy | None = None) -> Lazy:
    pads, mode, rank = node.attr("pads"), node.attr("mode"), x.rank
    x = ctx.pure(x)
    type = ctx.result_type(node)
    # negative pads crop first: the element at 0 is then x's at `crop`, and `extents` are left
    crop = [max(-pads[i], 0) for i in range(rank)]
    extents = [ctx.extent(d - c - max(-pads[rank + i], 0)) for i, (d, c) in enumerate(zip(x.shape, crop, strict=True))]
    if mode != "constant":

        def folded(index: Index) -> Expr:
            return ctx.read(
                x,
                tuple(
                    i + c if pads[a] <= 0 and pads[rank + a] <= 0 else _fold(i - max(pads[a], 0), extents[a], mode) + c
                    for a, (i, c) in enumerate(zip(index, crop, strict=True))
                ),
            )

        return Lazy(type, folded)

    empty = any(isinstance(d, int) and d <= 0 for d in extents)

    def read(index: Index) -> Expr:
        border = ctx.zero(type.elem) if value is None else ctx.read(value, ())
        if empty:
            return border
        inside, at = [], []
        for a, i in enumerate(index):
            k = i - max(pads[a], 0) if pads[a] > 0 else i
            if pads[a] > 0:
                inside.append(k >= 0)
            if pads[rank + a] > 0:
                inside.append(k < extents[a])
            bounded = clamp(k, 0, extents[a] - 1) if pads[a] > 0 or pads[rank + a] > 0 else k
            at.append(bounded + crop[a] if crop[a] else bounded)
        if not inside:
            return ctx.read(x, tuple(at))
        return select(all_of(*inside), ctx.fixed(ctx.read(x, tuple(at))), border)

    return Lazy(type, read)


def _fold(i: Expr, extent: Expr, mode: str) -> Expr:
    """The index inside that a border position repeats."""
    if mode == "edge":
        return clamp(i, 0, extent - 1)
    tirx = modules().tirx
    if mode == "wrap":
        return tirx.floormod(i, extent)
    if isinstance(extent, int) and extent == 1:
        return i * 0
    period = 2 * (extent - 1)
    back = tirx.floormod(i, period)
    return tirx.min(back, period - back)


# --- made up --------------------------------------------------------------------------------------------------------


@lower("shape.iota")
def iota(ctx: Context, node: Node) -> Lazy:
    type = ctx.result_type(node)
    axis = normal_axis(node.attr("axis"), len(type.shape))
    dtype = compute_dtype(type.elem)
    return Lazy(type, lambda index: ctx.rounded(type.elem, cast(_as_expr(index[axis]), dtype)))


def _as_expr(i: Expr) -> Expr:
    return const(i, "int32") if isinstance(i, int) else i


@lower("shape.full")
def full(ctx: Context, node: Node, value: Lazy) -> Lazy:
    value = ctx.pure(value)
    return Lazy(ctx.result_type(node), lambda index: ctx.read(value, ()))


@lower("shape.extents")
def extents(ctx: Context, node: Node, x: Lazy) -> Lazy:
    """Each extent in its place; x itself is not read."""
    type = ctx.result_type(node)
    if all(isinstance(d, int) for d in x.shape):
        array = np.array(x.shape, dtype=np.int64)
        table = ctx.table(array, Tensor(array.shape, elem_of(array.dtype)))
        return Lazy(type, lambda index: ctx.read(table, index))

    def read(index: Index) -> Expr:
        value: Expr = const(0, "int64")
        for axis, d in enumerate(x.shape):
            here = ctx.extent(d)
            here = const(here, "int64") if isinstance(here, int) else cast(here, "int64")
            value = (
                select(index[0] == axis, here, value)
                if not isinstance(index[0], int)
                else here
                if axis == index[0]
                else value
            )
        return value

    return Lazy(type, read)


@lower("shape.trilu")
def trilu(ctx: Context, node: Node, x: Lazy, k: Lazy | None = None) -> Lazy:
    x = ctx.pure(x)
    upper = node.attr("upper")

    def read(index: Index) -> Expr:
        diagonal = const(0, "int64") if k is None else ctx.read(k, ())
        distance = cast(_as_expr(index[-1]), "int64") - cast(_as_expr(index[-2]), "int64")
        inside = distance >= diagonal if upper else distance <= diagonal
        return select(inside, ctx.read(x, index), ctx.zero(x.elem))

    return Lazy(ctx.result_type(node), read)
