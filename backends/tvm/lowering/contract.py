"""Products and convolutions of any rank and dtype, as plain reductions; the fast cases have templates."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Node
from ..api import modules
from .context import Context
from .elements import compute_dtype
from .expr import Expr, Index, all_of, clamp, const, select
from .loops import outer_nest
from .reduction import Accumulator, reduce
from .table import lower
from .tensor import Lazy


def add(a: Expr, b: Expr) -> Expr:
    return a + b


@lower("nn.matmul")
def matmul(ctx: Context, node: Node, a: Lazy, b: Lazy) -> Lazy:
    a, b = ctx.pure(a), ctx.pure(b)
    type = ctx.result_type(node)
    rows, columns = a.rank > 1, b.rank > 1
    lead = len(type.shape) - rows - columns

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        batch = index[:lead]
        row = index[lead : lead + 1] if rows else ()
        column = index[-1:] if columns else ()
        left = (*_own(batch, a.shape[: max(a.rank - 2, 0)]), *row, k[0])
        right = (*_own(batch, b.shape[: max(b.rank - 2, 0)]), k[0], *column)
        return [state[0] + ctx.read(a, left) * ctx.read(b, right)]

    start = [Accumulator(0, compute_dtype(a.elem))]
    return reduce(ctx, type, [a.shape[-1]], start, step, lambda s, i: s[0], merge=add, along_domain=not columns)


def _own(batch: Index, shape: tuple[Any, ...]) -> Index:
    own = batch[len(batch) - len(shape) :]
    return tuple(0 if d == 1 else i for i, d in zip(own, shape, strict=True))


def per_axis(value: Any, rank: int, default: int = 1) -> tuple[int, ...]:
    return (default,) * rank if value is None else tuple(value)


@lower("nn.conv")
def conv(ctx: Context, node: Node, x: Lazy, w: Lazy, b: Lazy | None = None) -> Lazy:
    x, w = ctx.pure(x), ctx.pure(w)
    b = None if b is None else ctx.pure(b)
    type = ctx.result_type(node)
    rank, groups = x.rank - 2, node.attr("g")
    strides, gaps = per_axis(node.attr("strides"), rank), per_axis(node.attr("dilations"), rank)
    pads = per_axis(node.attr("pads"), 2 * rank, 0)
    per_group, outputs = ctx.extent(w.shape[1]), ctx.extent(w.shape[0])
    spatial = ctx.extents(x.shape[2:])
    padded = any(pads)

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        n, m, *at = index
        channel = k[0] if groups == 1 else modules().tirx.indexdiv(m, outputs // groups) * per_group + k[0]
        inside, where = [], []
        for i in range(rank):
            p = at[i] * strides[i] + k[1 + i] * gaps[i] - pads[i]
            where.append(clamp(p, 0, spatial[i] - 1) if padded else p)
            inside += [p >= 0, p < spatial[i]] if padded else []
        value = ctx.read(x, (n, channel, *where))
        if padded:
            value = select(all_of(*inside), ctx.fixed(value), ctx.zero(x.elem))
        return [state[0] + value * ctx.read(w, (m, *k))]

    def finish(state: list[Expr], index: Index) -> Expr:
        return state[0] if b is None else state[0] + ctx.read(b, (index[1],))

    return reduce(ctx, type, w.shape[1:], [Accumulator(0, compute_dtype(x.elem))], step, finish)


@lower("nn.conv_transpose")
def conv_transpose(ctx: Context, node: Node, x: Lazy, w: Lazy, b: Lazy | None = None) -> Lazy:
    """Each result gathers the inputs whose windows cover it."""
    x, w = ctx.pure(x), ctx.pure(w)
    b = None if b is None else ctx.pure(b)
    type = ctx.result_type(node)
    rank, groups = x.rank - 2, node.attr("g")
    strides, gaps = per_axis(node.attr("strides"), rank), per_axis(node.attr("dilations"), rank)
    pads = per_axis(node.attr("pads"), 2 * rank, 0)
    per_group = ctx.extent(x.shape[1]) // groups
    outputs = ctx.extent(w.shape[1])
    spatial = ctx.extents(x.shape[2:])
    tirx = modules().tirx

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        n, m, *at = index
        channel = k[0] if groups == 1 else tirx.indexdiv(m, outputs) * per_group + k[0]
        inside, where = [], []
        for i in range(rank):
            p = at[i] + pads[i] - k[1 + i] * gaps[i]
            q = p if strides[i] == 1 else tirx.floordiv(p, strides[i])
            inside += [q >= 0, q < spatial[i]] + ([] if strides[i] == 1 else [tirx.floormod(p, strides[i]) == 0])
            where.append(clamp(q, 0, spatial[i] - 1))
        value = select(all_of(*inside), ctx.fixed(ctx.read(x, (n, channel, *where))), ctx.zero(x.elem))
        return [state[0] + value * ctx.read(w, (channel, m if groups == 1 else tirx.indexmod(m, outputs), *k[1:]))]

    def finish(state: list[Expr], index: Index) -> Expr:
        return state[0] if b is None else state[0] + ctx.read(b, (index[1],))

    domain = (per_group, *w.shape[2:])
    return reduce(ctx, type, domain, [Accumulator(0, compute_dtype(x.elem))], step, finish)


@lower("nn.col2im")
def col2im(ctx: Context, node: Node, x: Lazy) -> Lazy:
    """Each pixel gathers the columns that cover it."""
    x = ctx.pure(x)
    type = ctx.result_type(node)
    block, rank = node.attr("block"), len(node.attr("image"))
    strides, gaps = per_axis(node.attr("strides"), rank), per_axis(node.attr("dilations"), rank)
    pads = per_axis(node.attr("pads"), 2 * rank, 0)
    image = node.attr("image")
    counts = [
        (image[i] + pads[i] + pads[i + rank] - gaps[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(rank)
    ]
    tirx = modules().tirx
    taps = 1
    for d in block:
        taps *= d

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        n, c, *at = index
        inside, column, tap = [], 0, 0
        for i in range(rank):
            p = at[i] + pads[i] - k[i] * gaps[i]
            q = p if strides[i] == 1 else tirx.floordiv(p, strides[i])
            inside += [q >= 0, q < counts[i]] + ([] if strides[i] == 1 else [tirx.floormod(p, strides[i]) == 0])
            column = column * counts[i] + clamp(q, 0, counts[i] - 1)
            tap = tap * block[i] + k[i]
        value = ctx.read(x, (n, c * taps + tap, column))
        return [state[0] + select(all_of(*inside), ctx.fixed(value), ctx.zero(x.elem))]

    return reduce(ctx, type, block, [Accumulator(0, compute_dtype(x.elem))], step, lambda s, i: s[0])


@lower("nn.det", static="the elimination is unrolled")
def det(ctx: Context, node: Node, x: Lazy) -> Lazy:
    """Elimination with partial pivoting in scratch memory, one matrix after the other."""
    x = ctx.pure(x)
    type = ctx.result_type(node)
    n = ctx.extent(x.shape[-1])
    out, emit = ctx.target(node), ctx.emit
    dtype = compute_dtype(x.elem)
    script = modules().script

    with outer_nest(ctx, type.shape, 1 << 20) as index:
        m = script.alloc_buffer((n, n), dtype, layout=None)
        total = ctx.accumulators(1, dtype)
        pivot = ctx.accumulators(1, "int32")
        spare = ctx.accumulators(1, dtype)
        with emit.serial(n) as i, emit.serial(n) as j:
            emit.store(m, [i, j], ctx.scoped(lambda: ctx.read(x, (*index, i, j))))
        emit.store(total, [0], const(1, dtype))
        with emit.serial(n) as c:
            emit.store(pivot, [0], c)
            with emit.serial(n - c - 1) as r:
                here = m[c + 1 + r, c]
                with emit.when(modules().tirx.abs(here) > modules().tirx.abs(m[pivot[0], c])):
                    emit.store(pivot, [0], c + 1 + r)
            with emit.when(pivot[0] != c):
                emit.store(total, [0], const(0, dtype) - total[0])
                with emit.serial(n) as j:
                    emit.store(spare, [0], m[c, j])
                    emit.store(m, [c, j], m[pivot[0], j])
                    emit.store(m, [pivot[0], j], spare[0])
            emit.store(total, [0], total[0] * m[c, c])
            with emit.when(m[c, c] != const(0, dtype)), emit.serial(n - c - 1) as r:
                emit.store(spare, [0], m[c + 1 + r, c] / m[c, c])
                with emit.serial(n - c) as j:
                    emit.store(m, [c + 1 + r, c + j], m[c + 1 + r, c + j] - spare[0] * m[c, c + j])
        ctx.store(out, index, x.elem, lambda: total[0])
    return ctx.view(out, type)


__all__ = ["col2im", "conv", "conv_transpose", "det", "matmul", "per_axis"]
