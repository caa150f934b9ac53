"""Gathers, scatters and what else goes through indices. Indices out of range are clamped: nothing is read outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.graph import Node
from ....ir.shapes import normal_axis
from .context import Context
from .expr import Expr, Index, all_of, any_of, cast, clamp, const, dtype_of, larger, select, smaller
from .loops import serial_nest
from .table import lower
from .tensor import Lazy


def _position(ctx: Context, i: Expr, extent: Any) -> Expr:
    """An index as it counts from the front, inside."""
    i = ctx.let(cast(i, "int64"))
    extent = const(extent, "int64") if isinstance(extent, int) else cast(extent, "int64")
    return ctx.let(clamp(select(i < const(0, "int64"), i + extent, i), const(0, "int64"), extent - const(1, "int64")))


@lower("shape.gather")
def gather(ctx: Context, node: Node, x: Lazy, indices: Lazy) -> Lazy:
    x, indices = ctx.pure(x), ctx.pure(indices)
    axis, rank = normal_axis(node.attr("axis"), x.rank), indices.rank
    extent = ctx.extent(x.shape[axis])

    def read(index: Index) -> Expr:
        at = _position(ctx, ctx.read(indices, index[axis : axis + rank]), extent)
        return ctx.read(x, (*index[:axis], at, *index[axis + rank :]))

    return Lazy(ctx.result_type(node), read)


@lower("shape.gather_elements")
def gather_elements(ctx: Context, node: Node, x: Lazy, indices: Lazy) -> Lazy:
    x, indices = ctx.pure(x), ctx.pure(indices)
    axis = normal_axis(node.attr("axis"), x.rank)
    extent = ctx.extent(x.shape[axis])

    def read(index: Index) -> Expr:
        at = _position(ctx, ctx.read(indices, index), extent)
        return ctx.read(x, (*index[:axis], at, *index[axis + 1 :]))

    return Lazy(ctx.result_type(node), read)


@lower("shape.gather_nd")
def gather_nd(ctx: Context, node: Node, x: Lazy, indices: Lazy) -> Lazy:
    x, indices = ctx.pure(x), ctx.pure(indices)
    batch, depth, lead = node.attr("batch"), indices.shape[-1], indices.rank - 1
    assert isinstance(depth, int)
    extents = ctx.extents(x.shape)

    def read(index: Index) -> Expr:
        at = [_position(ctx, ctx.read(indices, (*index[:lead], i)), extents[batch + i]) for i in range(depth)]
        return ctx.read(x, (*index[:batch], *at, *index[lead:]))

    return Lazy(ctx.result_type(node), read)


@lower("shape.reverse_sequence")
def reverse_sequence(ctx: Context, node: Node, x: Lazy, lengths: Lazy) -> Lazy:
    x, lengths = ctx.pure(x), ctx.pure(lengths)
    time, batch = normal_axis(node.attr("time_axis"), x.rank), normal_axis(node.attr("batch_axis"), x.rank)

    def read(index: Index) -> Expr:
        step = cast(_expr(index[time]), "int64")
        length = ctx.read(lengths, (index[batch],))
        at = ctx.let(select(step < length, length - const(1, "int64") - step, step))
        return ctx.read(x, (*index[:time], at, *index[time + 1 :]))

    return Lazy(ctx.result_type(node), read)


def _expr(i: Expr) -> Expr:
    return const(i, "int32") if isinstance(i, int) else i


@lower("shape.one_hot")
def one_hot(ctx: Context, node: Node, indices: Lazy, values: Lazy) -> Lazy:
    indices, values = ctx.pure(indices), ctx.pure(values)
    type = ctx.result_type(node)
    axis, depth = normal_axis(node.attr("axis"), len(type.shape)), node.attr("depth")

    def read(index: Index) -> Expr:
        wanted = ctx.let(cast(ctx.read(indices, (*index[:axis], *index[axis + 1 :])), "int64"))
        negative = all_of(wanted < const(0, "int64"), wanted >= const(-depth, "int64"))
        wanted = select(negative, wanted + const(depth, "int64"), wanted)
        hit = wanted == cast(_expr(index[axis]), "int64")
        return select(hit, ctx.read(values, (1,)), ctx.read(values, (0,)))

    return Lazy(type, read)


# --- scatter --------------------------------------------------------------------------------------------------------

_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: any_of(old, new) if dtype_of(old) == "bool" else old + new,
    "mul": lambda old, new: all_of(old, new) if dtype_of(old) == "bool" else old * new,
    "max": larger,
    "min": smaller,
}


def _update(ctx: Context, node: Node, x: Lazy, out: Any, at: Callable[[], Index], update: Callable[[], Expr]) -> None:
    """out[at] = combine(out[at], update), one after the other: later updates win."""
    current = ctx.view(out, ctx.result_type(node))
    combine = _COMBINE[node.attr("reduction")]
    indices = [ctx.bind(lambda i=i: at()[i]) for i in range(x.rank)]  # type: ignore[misc]
    where = tuple(indices)

    def value() -> Expr:
        old = ctx.zero(x.elem) if node.attr("reduction") == "none" else ctx.read(current, where)
        return ctx.rounded(x.elem, combine(old, update()))

    ctx.store(out, where, x.elem, value)


@lower("shape.scatter_elements")
def scatter_elements(ctx: Context, node: Node, x: Lazy, indices: Lazy, updates: Lazy) -> Lazy:
    x, indices, updates = ctx.pure(x), ctx.pure(indices), ctx.pure(updates)
    axis = normal_axis(node.attr("axis"), x.rank)
    extent = ctx.extent(x.shape[axis])
    out = ctx.target(node)
    ctx.store_all(x, out)
    with serial_nest(ctx, ctx.extents(indices.shape)) as index:

        def at() -> Index:
            return (*index[:axis], _position(ctx, ctx.read(indices, index), extent), *index[axis + 1 :])

        _update(ctx, node, x, out, at, lambda: ctx.read(updates, index))
    return ctx.view(out, ctx.result_type(node))


@lower("shape.scatter_nd")
def scatter_nd(ctx: Context, node: Node, x: Lazy, indices: Lazy, updates: Lazy) -> Lazy:
    x, indices, updates = ctx.pure(x), ctx.pure(indices), ctx.pure(updates)
    depth, lead = indices.shape[-1], indices.rank - 1
    assert isinstance(depth, int)
    extents = ctx.extents(x.shape)
    out = ctx.target(node)
    ctx.store_all(x, out)
    with serial_nest(ctx, ctx.extents(updates.shape)) as index:

        def at() -> Index:
            first = [_position(ctx, ctx.read(indices, (*index[:lead], i)), extents[i]) for i in range(depth)]
            return (*first, *index[lead:])

        _update(ctx, node, x, out, at, lambda: ctx.read(updates, index))
    return ctx.view(out, ctx.result_type(node))


@lower("nn.max_unpool")
def max_unpool(ctx: Context, node: Node, x: Lazy, indices: Lazy) -> Lazy:
    x, indices = ctx.pure(x), ctx.pure(indices)
    type = ctx.result_type(node)
    extents = ctx.extents(type.shape)
    out = ctx.target(node)
    zero = Lazy(type, lambda index: ctx.zero(type.elem))
    ctx.store_all(zero, out)
    total: Any = 1
    for d in extents:
        total = d * total
    with serial_nest(ctx, ctx.extents(x.shape)) as index:
        flat = ctx.bind(lambda: _position(ctx, ctx.read(indices, index), total))
        at: list[Expr] = []
        for d in reversed(extents[1:]):
            at.append(flat % d)
            flat = flat // d
        where = (flat, *reversed(at))
        ctx.store(out, where, x.elem, lambda: ctx.read(x, index))
    return ctx.view(out, type)
