"""Reductions, index searches, running sums and orderings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....ir.dims import Extent
from ....ir.graph import Node
from ....ir.shapes import einsum_terms, normal_axes, normal_axis
from ....ir.types import Elem
from ..api import modules
from .context import Context
from .elements import compute_dtype
from .expr import Expr, Index, all_of, any_of, cast, const, is_float, is_nan, larger, negate, select, smaller
from .loops import lanes_for, outer_nest, vector_blocks
from .reduction import Accumulator, reduce
from .table import Lowering, lower
from .tensor import Lazy


def _sum(a: Expr, b: Expr) -> Expr:
    return a + b


def _product(a: Expr, b: Expr) -> Expr:
    return a * b


def lowest(elem: Elem) -> Any:
    """What every element is at least."""
    dtype = np.dtype(compute_dtype(elem))
    return False if dtype.kind == "b" else -np.inf if dtype.kind == "f" else int(np.iinfo(dtype.name).min)


def highest(elem: Elem) -> Any:
    """What every element is at most."""
    dtype = np.dtype(compute_dtype(elem))
    return True if dtype.kind == "b" else np.inf if dtype.kind == "f" else int(np.iinfo(dtype.name).max)


def _over_axes(
    ctx: Context,
    node: Node,
    x: Lazy,
    start: Any,
    combine: Callable[[Expr, Expr], Expr],
    dtype: str = "",
    finish: Callable[[Expr], Expr] = lambda v: v,
) -> Lazy:
    """`combine` over the axes in the node's attribute."""
    x = ctx.pure(x)
    rank = x.rank
    axes = normal_axes(node.attr("axes"), rank)
    keep = node.attr("keepdims")
    dtype = dtype or compute_dtype(x.elem)
    if dtype == "bool":  # TVM has no registers of truth values
        dtype = "int8"
    domain = [x.shape[a] for a in axes]
    kept = [i for i in range(rank) if i not in axes]

    def source(index: Index, k: Index) -> Index:
        at = list(index) if keep else [0] * rank
        if not keep:
            for i, position in zip(kept, index, strict=True):
                at[i] = position
        for a, position in zip(axes, k, strict=True):
            at[a] = position
        return tuple(at)

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        return [combine(state[0], cast(ctx.read(x, source(index, k)), dtype))]

    type = ctx.result_type(node)
    return reduce(
        ctx,
        type,
        domain,
        [Accumulator(start, dtype)],
        step,
        lambda state, index: cast(finish(state[0]), compute_dtype(x.elem)),
        merge=combine,
        along_domain=bool(axes) and axes[-1] == rank - 1,
    )


@lower("math.reduce_sum")
def reduce_sum(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return _over_axes(ctx, node, x, 0, _sum)


@lower("math.reduce_prod")
def reduce_prod(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return _over_axes(ctx, node, x, 1, _product)


@lower("math.reduce_max")
def reduce_max(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return _over_axes(ctx, node, x, lowest(x.elem), larger)


@lower("math.reduce_min")
def reduce_min(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return _over_axes(ctx, node, x, highest(x.elem), smaller)


@lower("math.reduce_mean")
def reduce_mean(ctx: Context, node: Node, x: Lazy) -> Lazy:
    integer = not compute_dtype(x.elem).startswith("float")
    dtype = "float64" if integer else compute_dtype(x.elem)
    count: Any = 1
    for a in normal_axes(node.attr("axes"), x.rank):
        count = ctx.extent(x.shape[a]) * count
    total = const(count, dtype) if isinstance(count, int) else cast(count, dtype)

    def finish(value: Expr) -> Expr:
        return modules().tirx.trunc(value / total) if integer else value / total

    return _over_axes(ctx, node, x, 0, _sum, dtype, finish)


def _arg(op: str, better: Callable[[Expr, Expr], Expr], worst: Callable[[Elem], Any]) -> Lowering:
    """The index of the best element; nan is the best of all, as in NumPy."""

    @lower(op)
    def lowering(ctx: Context, node: Node, x: Lazy) -> Lazy:
        x = ctx.pure(x)
        axis = normal_axis(node.attr("axis"), x.rank)
        keep, last = node.attr("keepdims"), node.attr("last")
        dtype = compute_dtype(x.elem)

        def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
            at = (*index[:axis], k[0], *index[axis + 1 :]) if keep else (*index[:axis], k[0], *index[axis:])
            position, best = state
            value = ctx.read(x, at)
            wins = better(value, best)
            if last:
                wins = any_of(wins, value == best)
            if is_float(value):
                wins = any_of(is_nan(value), all_of(wins, negate(is_nan(best))))
                if not last:
                    wins = all_of(wins, negate(is_nan(best)))
            first = any_of(wins, position < const(0, "int64"))
            return [select(first, cast(k[0], "int64"), position), select(wins, value, best)]

        start = [Accumulator(-1, "int64"), Accumulator(worst(x.elem), dtype)]
        return reduce(ctx, ctx.result_type(node), [x.shape[axis]], start, step, lambda state, index: state[0])

    return lowering


argmax = _arg("math.argmax", lambda a, b: a > b, lowest)
argmin = _arg("math.argmin", lambda a, b: a < b, highest)


def _scan(op: str, start: int, combine: Callable[[Expr, Expr], Expr]) -> Lowering:
    """Running totals: one loop along the axis, vectors along the last one where that is another."""

    @lower(op)
    def lowering(ctx: Context, node: Node, x: Lazy) -> Lazy:
        x = ctx.pure(x)
        axis = normal_axis(node.attr("axis"), x.rank)
        exclusive, reverse = node.attr("exclusive"), node.attr("reverse")
        out, dtype, emit = ctx.target(node), compute_dtype(x.elem), ctx.emit
        length = ctx.extent(x.shape[axis])
        vector = axis != x.rank - 1

        def strip(prefix: Index, first: Expr, width: int) -> None:
            total = ctx.accumulators(width, dtype)
            with emit.lanes(width) as lane:
                emit.store(total, [lane], const(start, dtype))
            with emit.serial(length) as step:
                k = length - 1 - step if reverse else step
                with emit.lanes(width) as lane:
                    at = list(prefix)
                    at[axis] = k
                    if vector:
                        at[-1] = first if width == 1 else first + lane

                    def add(at: list[Expr] = at, lane: Expr = lane) -> Expr:
                        return ctx.rounded(x.elem, combine(total[lane], ctx.read(x, tuple(at))))

                    def write(at: list[Expr] = at, lane: Expr = lane) -> None:
                        emit.store(out, at, ctx.scoped(lambda: ctx.to_memory(x.elem, total[lane])))

                    if exclusive:
                        write()
                    emit.store(total, [lane], ctx.scoped(add))
                    if not exclusive:
                        write()

        shape: list[Extent] = [1 if i == axis else d for i, d in enumerate(x.shape)]
        if not vector:
            with outer_nest(ctx, shape, 1 << 20) as prefix:
                strip(prefix, 0, 1)
        else:
            with outer_nest(ctx, shape[:-1], 1 << 20) as prefix:
                vector_blocks(
                    ctx, ctx.extent(shape[-1]), lanes_for(ctx, x.elem), lambda s, w: strip((*prefix, 0), s, w)
                )
        return ctx.view(out, ctx.result_type(node))

    return lowering


cumsum = _scan("math.cumsum", 0, _sum)
cumprod = _scan("math.cumprod", 1, _product)


@lower("math.top_k")
def top_k(ctx: Context, node: Node, x: Lazy) -> tuple[Lazy, Lazy]:
    """k times the best element that comes after the one found before, in the order (value, index)."""
    x = ctx.in_memory(x)
    axis = normal_axis(node.attr("axis"), x.rank)
    largest, k = node.attr("largest"), node.attr("k")
    values, indices = ctx.target(node, 0), ctx.target(node, 1)
    emit, dtype = ctx.emit, compute_dtype(x.elem)
    length = ctx.extent(x.shape[axis])

    def before(a: Expr, i: Expr, b: Expr, j: Expr) -> Expr:
        """Whether (a, i) comes before (b, j); nan counts as larger than everything."""
        ahead = a > b if largest else a < b
        tie = a == b
        if is_float(a):
            one, other = (a, b) if largest else (b, a)
            ahead = any_of(ahead, all_of(is_nan(one), negate(is_nan(other))))
            tie = any_of(tie, all_of(is_nan(a), is_nan(b)))
        return any_of(ahead, all_of(tie, i < j))

    with outer_nest(ctx, [1 if i == axis else d for i, d in enumerate(x.shape)], 1 << 20) as index:
        last, best = ctx.accumulators(1, dtype), ctx.accumulators(1, dtype)
        where, found = ctx.accumulators(1, "int64"), ctx.accumulators(1, "int64")
        emit.store(where, [0], const(-1, "int64"))
        emit.store(last, [0], const(0, dtype))
        with emit.serial(k) as rank:
            emit.store(found, [0], const(-1, "int64"))
            emit.store(best, [0], const(0, dtype))
            with emit.serial(length) as i:
                at = (*index[:axis], i, *index[axis + 1 :])
                position = cast(i, "int64")

                def better(at: Index = at, position: Expr = position) -> Expr:
                    value = ctx.read(x, at)
                    fresh = any_of(where[0] < const(0, "int64"), before(last[0], where[0], value, position))
                    return all_of(
                        fresh, any_of(found[0] < const(0, "int64"), before(value, position, best[0], found[0]))
                    )

                with emit.when(ctx.scoped(better)):
                    emit.store(best, [0], ctx.scoped(lambda at=at: ctx.read(x, at)))  # type: ignore[misc]
                    emit.store(found, [0], position)
            emit.store(last, [0], best[0])
            emit.store(where, [0], found[0])
            at = (*index[:axis], rank, *index[axis + 1 :])
            emit.store(values, at, ctx.scoped(lambda: ctx.to_memory(x.elem, best[0])))
            emit.store(indices, at, found[0])
    types = ctx.result_types(node)
    return ctx.view(values, types[0]), ctx.view(indices, types[1])


@lower("math.einsum")
def einsum(ctx: Context, node: Node, *operands: Lazy) -> Lazy:
    """One reduction over all letters that the output does not have."""
    operands = tuple(ctx.pure(x) for x in operands)
    terms, output = einsum_terms(node.attr("equation"), [x.rank for x in operands])
    extents: dict[str, Extent] = {}
    for term, x in zip(terms, operands, strict=True):
        for letter, d in zip(term, x.shape, strict=True):
            if extents.get(letter, 1) == 1:
                extents[letter] = d
    summed = [letter for letter in extents if letter not in output]
    dtype = compute_dtype(operands[0].elem)
    type = ctx.result_type(node)

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        at = {**dict(zip(output, index, strict=True)), **dict(zip(summed, k, strict=True))}
        value: Expr | None = None
        for term, x in zip(terms, operands, strict=True):
            own = tuple(0 if d == 1 else at[letter] for letter, d in zip(term, x.shape, strict=True))
            element = ctx.read(x, own)
            value = element if value is None else value * element
        assert value is not None
        return [state[0] + value]

    row = bool(summed) and all(not t or t[-1] == summed[-1] for t in terms if summed[-1] in t)
    return reduce(
        ctx,
        type,
        [extents[s] for s in summed],
        [Accumulator(0, dtype)],
        step,
        lambda s, index: s[0],
        merge=_sum,
        along_domain=row,
    )
