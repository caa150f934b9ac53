"""Normalisation over axes: several passes over a row while it is in cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ....ir.dims import Extent
from ....ir.graph import Node
from ....ir.shapes import normal_axis
from ....ir.types import Float, Tensor, elem_of
from ..api import modules
from ..kernels.kernel import ceil_div
from ..kernels.rows import exponentials
from . import functions
from .context import Context
from .contract import add
from .elements import compute_dtype
from .expr import Expr, Index, all_of, cast, clamp, const, larger, libm, like, negate, select
from .expr import is_nan as nan
from .loops import lanes_for, outer_nest, serial_nest, vector_blocks
from .reduce import lowest
from .reduction import Accumulator, along, horizontal, reduce
from .table import Lowering, lower
from .tensor import Lazy, Sink

F32 = Float("f32")

# --- per channel ----------------------------------------------------------------------------------------------------


@lower("nn.batch_norm")
def batch_norm(ctx: Context, node: Node, x: Lazy, scale: Lazy, bias: Lazy, mean: Lazy, var: Lazy) -> Lazy:
    """x * a + b per channel, with a and b computed now where the statistics are constants."""
    type = ctx.result_type(node)
    dtype, eps = compute_dtype(x.elem), node.attr("eps")
    known = [p.constant for p in (scale, bias, mean, var)]
    if all(c is not None for c in known):
        s, b, m, v = (c.array.astype(np.float64).reshape(-1) for c in known if c is not None)
        factor = s / np.sqrt(v + eps)
        tables = [ctx.table(a.astype(dtype), Tensor(a.shape, elem_of(dtype))) for a in (factor, b - m * factor)]

        def folded(value: Expr, channel: Index) -> Expr:
            return value * ctx.read(tables[0], channel) + ctx.read(tables[1], channel)

        return _per_channel(ctx, type, x, folded)

    def full(value: Expr, channel: Index) -> Expr:
        s, b, m, v = (cast(ctx.read(p, channel), dtype) for p in (scale, bias, mean, var))
        return (value - m) / modules().tirx.sqrt(v + like(v, eps)) * s + b

    return _per_channel(ctx, type, x, full)


def _per_channel(ctx: Context, type: Tensor, x: Lazy, fn: Callable[[Expr, Index], Expr]) -> Lazy:
    def read(index: Index) -> Expr:
        return ctx.rounded(type.elem, fn(ctx.read(x, index), (index[1],)))

    return Lazy(type, read, x.source)


@lower("nn.lrn")
def lrn(ctx: Context, node: Node, x: Lazy) -> Lazy:
    x = ctx.pure(x)
    type, dtype = ctx.result_type(node), compute_dtype(x.elem)
    window, channels = node.attr("size"), ctx.extent(x.shape[1])
    before = (window - 1) // 2

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        c = index[1] + k[0] - before
        value = ctx.fixed(ctx.read(x, (index[0], clamp(c, 0, channels - 1), *index[2:])))
        return [state[0] + select(all_of(c >= 0, c < channels), value * value, const(0, dtype))]

    def finish(state: list[Expr], index: Index) -> Expr:
        base = like(state[0], node.attr("bias")) + like(state[0], node.attr("alpha") / window) * state[0]
        return ctx.read(x, index) / libm("pow")(base, like(base, node.attr("beta")))

    return reduce(ctx, type, [window], [Accumulator(0, dtype)], step, finish)


# --- over axes ------------------------------------------------------------------------------------------------------


class Rows:
    """The rows of a tensor along its axes [first, last]: reduced one by one, or side by side if other axes follow."""

    def __init__(self, ctx: Context, type: Tensor, first: int, last: int) -> None:
        self.ctx, self.type = ctx, type
        self.before, self.row, self.after = type.shape[:first], type.shape[first : last + 1], type.shape[last + 1 :]
        self.dtype = compute_dtype(type.elem)

    def run(self, passes: Callable[[Any], None]) -> None:
        """passes(strip) for all strips of rows, in parallel."""
        ctx = self.ctx
        work = math.prod(d for d in self.type.shape if isinstance(d, int))
        if any(isinstance(d, int) and d == 0 for d in self.type.shape):
            return
        if not self.after:
            with outer_nest(ctx, self.before, work) as prefix:
                passes(Strip(self, prefix, (), 0, 1))
            return
        *middle, inner = self.after
        outer: list[Extent] = [*self.before, *middle]
        with outer_nest(ctx, outer, work) as index:
            prefix, rest = index[: len(self.before)], index[len(self.before) :]
            vector_blocks(
                ctx,
                ctx.extent(inner),
                lanes_for(ctx, self.type.elem),
                lambda start, width: passes(Strip(self, prefix, rest, start, width)),
            )


class Strip:
    """One row (vectors along it), or `width` rows side by side (vectors across them)."""

    def __init__(self, rows: Rows, prefix: Index, middle: Index, start: Expr, width: int) -> None:
        self.rows, self.ctx = rows, rows.ctx
        self.prefix, self.middle, self.start, self.width = prefix, middle, start, width

    def _at(self, k: Index, lane: Expr) -> Index:
        tail = (self.start if self.width == 1 else self.start + lane,) if self.rows.after else ()
        return (*self.prefix, *k, *self.middle, *tail)

    def reduce(
        self, start: Any, merge: Callable[[Expr, Expr], Expr], element: Callable[[Index, Expr], Expr]
    ) -> Callable[[Expr], Expr]:
        """The row's elements merged; the result as a function of the lane."""
        accumulator = Accumulator(start, self.rows.dtype)
        if self.rows.after:
            (state,) = along(
                self.ctx,
                self.width,
                self.rows.row,
                [accumulator],
                lambda a, k, lane: [merge(a[0], self.ctx.let(element(self._at(k, lane), lane)))],
            )
            return lambda lane: state[lane]
        total = horizontal(
            self.ctx,
            self.rows.type,
            self.rows.row,
            accumulator,
            lambda a, k: merge(a, self.ctx.let(element(self._at(k, 0), 0))),
            merge,
        )
        kept = self.ctx.accumulators(1, self.rows.dtype)
        self.ctx.emit.store(kept, [0], total)
        return lambda lane: kept[0]

    def each(self, body: Callable[[Index, Expr], None]) -> None:
        """body(index, lane) for all elements of the strip."""
        ctx = self.ctx
        if self.rows.after:
            with serial_nest(ctx, ctx.extents(self.rows.row)) as k, ctx.emit.lanes(self.width) as lane:
                body(self._at(k, lane), lane)
            return
        *outer, last = self.rows.row
        with serial_nest(ctx, ctx.extents(outer)) as k:

            def block(start: Expr, width: int) -> None:
                with ctx.emit.lanes(width) as lane:
                    body(self._at((*k, start if width == 1 else start + lane), 0), 0)

            vector_blocks(ctx, ctx.extent(last), lanes_for(ctx, self.rows.type.elem), block)


def _softmax(op: str, logarithm: bool) -> Lowering:
    @lower(op)
    def lowering(ctx: Context, node: Node, x: Lazy) -> Lazy:
        x = ctx.in_memory(x) if x.source is not None else x
        type = ctx.result_type(node)
        axis = normal_axis(node.attr("axis"), x.rank)
        rows = Rows(ctx, type, axis, axis)

        def run(sink: Sink) -> None:
            def kept(strip: Strip) -> None:
                """A row of f32: its exponentials are computed once, into memory."""
                total = ctx.accumulators(1, "float32")
                exponential = _exponentials(ctx, x, strip, total)
                strip.each(lambda at, lane: sink(at, ctx.scoped(lambda: exponential(at) * total[0])))

            def passes(strip: Strip) -> None:
                peak = strip.reduce(lowest(type.elem), larger, lambda at, lane: ctx.read(x, at))

                def shifted(at: Index, lane: Expr) -> Expr:
                    return ctx.read(x, at) - peak(lane)

                total = strip.reduce(0, add, lambda at, lane: functions.exp(shifted(at, lane), ctx.let))

                once = ctx.accumulators(strip.width, rows.dtype)  # what all elements of a row need of its sum
                with ctx.emit.lanes(strip.width) as lane:
                    value = functions.log(total(lane), ctx.let) if logarithm else const(1, rows.dtype) / total(lane)
                    ctx.emit.store(once, [lane], value)

                def write(at: Index, lane: Expr) -> None:
                    def value() -> Expr:
                        y = shifted(at, lane)
                        made = y - once[lane] if logarithm else functions.exp(y, ctx.let) * once[lane]
                        return ctx.rounded(type.elem, made)

                    sink(at, ctx.scoped(value))

                strip.each(write)

            fast = not (logarithm or rows.after or ctx.unit.simt) and type.elem is F32
            rows.run(kept if fast else passes)

        return ctx.derived(type, run)

    return lowering


def _exponentials(ctx: Context, x: Lazy, strip: Strip, scale: Any) -> Callable[[Index], Expr]:
    """exp(x - max(x)) of a row in scratch memory, and one over the sum in scale[0]; gives the element at an index."""
    emit, lanes = ctx.emit, ctx.unit.lanes
    length = ctx.extent(x.shape[-1])
    vectors = ceil_div(length, lanes) if isinstance(length, int) else (length + lanes - 1) // lanes
    row = emit.scratch(vectors * lanes)
    emit.store(row, [emit.ramp((vectors - 1) * lanes, lanes)], emit.splat(emit.const(-math.inf), lanes))
    strip.each(lambda at, lane: emit.store(row, [at[-1]], ctx.scoped(lambda: ctx.read(x, at))))
    total = exponentials(emit, lambda column: (column,), row, vectors, lanes)
    emit.store(scale, [0], const(1, "float32") / total)
    return lambda at: row[at[-1]]


softmax = _softmax("nn.softmax", logarithm=False)
log_softmax = _softmax("nn.log_softmax", logarithm=True)


@lower("nn.hardmax")
def hardmax(ctx: Context, node: Node, x: Lazy) -> Lazy:
    x = ctx.pure(x)
    type, axis = ctx.result_type(node), normal_axis(node.attr("axis"), x.rank)
    dtype = compute_dtype(x.elem)
    rows = Rows(ctx, type, axis, axis)
    out = ctx.target(node)

    def passes(strip: Strip) -> None:
        state = along(
            ctx,
            strip.width,
            rows.row,
            [Accumulator(-1, "int32"), Accumulator(lowest(type.elem), dtype)],
            lambda a, k, lane: _first_best(ctx, a, k[0], ctx.read(x, strip._at(k, lane))),
        )

        def write(at: Index, lane: Expr) -> None:
            hit = cast(_int(at[axis]), "int32") == state[0][lane]
            value = ctx.scoped(lambda: ctx.to_memory(type.elem, select(hit, const(1, dtype), const(0, dtype))))
            ctx.emit.store(out, at, value)

        strip.each(write)

    rows.run(passes)
    return ctx.view(out, type)


def _int(i: Expr) -> Expr:
    return const(i, "int32") if isinstance(i, int) else i


def _first_best(ctx: Context, state: list[Expr], k: Expr, value: Expr) -> list[Expr]:
    position, best = state
    wins = value > best
    wins = all_of(modules().tirx.any(wins, nan(value)), negate(nan(best)))
    first = modules().tirx.any(wins, position < const(0, "int32"))
    return [select(first, cast(_int(k), "int32"), position), select(wins, value, best)]


@lower("nn.layer_norm")
def layer_norm(ctx: Context, node: Node, x: Lazy, scale: Lazy, bias: Lazy | None = None) -> Lazy:
    x = ctx.in_memory(x) if x.source is not None else x
    scale, bias = ctx.pure(scale), None if bias is None else ctx.pure(bias)
    type = ctx.result_type(node)
    axis, dtype, elem = normal_axis(node.attr("axis"), x.rank), compute_dtype(x.elem), type.elem
    rows = Rows(ctx, type, axis, x.rank - 1)
    count: Any = 1
    for d in rows.row:
        count = ctx.extent(d) * count
    inverse = const(1.0 / count, dtype) if isinstance(count, int) else const(1, dtype) / cast(count, dtype)

    def own(p: Lazy, at: Index) -> Expr:
        index = at[len(at) - p.rank :]
        return ctx.read(p, tuple(0 if d == 1 else i for i, d in zip(index, p.shape, strict=True)))

    def run(sink: Sink) -> None:
        def passes(strip: Strip) -> None:
            total = strip.reduce(0, add, lambda at, lane: ctx.read(x, at))

            def centred(at: Index) -> Expr:
                return ctx.let(ctx.read(x, at) - total(0) * inverse)

            def square(at: Index, lane: Expr) -> Expr:
                value = centred(at)
                return value * value

            spread = strip.reduce(0, add, square)
            factor = ctx.accumulators(1, dtype)
            deviation = modules().tirx.sqrt(spread(0) * inverse + const(node.attr("eps"), dtype))
            ctx.emit.store(factor, [0], const(1, dtype) / deviation)

            def write(at: Index, lane: Expr) -> None:
                def value() -> Expr:
                    y = ctx.rounded(elem, ctx.rounded(elem, centred(at) * factor[0]) * own(scale, at))
                    return y if bias is None else ctx.rounded(elem, y + own(bias, at))

                sink(at, ctx.scoped(value))

            strip.each(write)

        rows.run(passes)

    return ctx.derived(type, run)
