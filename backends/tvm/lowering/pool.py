"""Pooling over windows of any rank."""

from __future__ import annotations

from collections.abc import Callable

from ....ir.graph import Node
from ..api import modules
from .context import Context
from .contract import per_axis
from .elements import compute_dtype
from .expr import Expr, Index, all_of, any_of, cast, clamp, const, is_float, is_nan, larger, libm, like, negate, select
from .functions import Let
from .reduce import lowest
from .reduction import Accumulator, reduce
from .table import lower
from .tensor import Lazy


class _Windows:
    """Where the elements of each window lie."""

    def __init__(self, ctx: Context, node: Node, x: Lazy) -> None:
        self.rank = x.rank - 2
        self.kernel = node.attr("kernel")
        self.strides = per_axis(node.attr("strides"), self.rank)
        self.gaps = per_axis(node.attr("dilations"), self.rank)
        self.pads = per_axis(node.attr("pads"), 2 * self.rank, 0)
        self.spatial = ctx.extents(x.shape[2:])
        self.always_inside = not any(self.pads) and not node.attr("ceil")

    def at(self, index: Index, k: Index) -> tuple[Index, list[Expr]]:
        """The element's position, forced inside, and the conditions that it is inside as it was."""
        where, inside = [], []
        for i in range(self.rank):
            p = index[2 + i] * self.strides[i] + k[i] * self.gaps[i] - self.pads[i]
            if self.always_inside:
                where.append(p)
            else:
                where.append(clamp(p, 0, self.spatial[i] - 1))
                inside += [p >= 0, p < self.spatial[i]]
        return (index[0], index[1], *where), inside

    def on_padding(self, index: Index, k: Index) -> list[Expr]:
        """The conditions that it lies on the data or on the given padding around it."""
        out = []
        for i in range(self.rank):
            p = index[2 + i] * self.strides[i] + k[i] * self.gaps[i]
            out.append(p < self.spatial[i] + self.pads[i] + self.pads[self.rank + i])
        return out


def _element(ctx: Context, x: Lazy, windows: _Windows, index: Index, k: Index, outside: Expr) -> Expr:
    at, inside = windows.at(index, k)
    value = ctx.read(x, at)
    return select(all_of(*inside), ctx.fixed(value), outside) if inside else value


@lower("nn.max_pool")
def max_pool(ctx: Context, node: Node, x: Lazy) -> Lazy:
    x = ctx.pure(x)
    windows, dtype = _Windows(ctx, node, x), compute_dtype(x.elem)
    low = lowest(x.elem)

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        return [larger(state[0], ctx.let(_element(ctx, x, windows, index, k, const(low, dtype))))]

    return reduce(ctx, ctx.result_type(node), windows.kernel, [Accumulator(low, dtype)], step, lambda s, i: s[0])


@lower("nn.max_pool_indices")
def max_pool_indices(ctx: Context, node: Node, x: Lazy) -> Lazy:
    x = ctx.pure(x)
    windows, dtype = _Windows(ctx, node, x), compute_dtype(x.elem)
    column_major = node.attr("column_major")
    channels = ctx.extent(x.shape[1])

    def flat(at: Index) -> Expr:
        axes = list(range(windows.rank))
        total = cast(_expr(at[0]), "int64") * cast(_expr(channels), "int64") + cast(_expr(at[1]), "int64")
        for d in windows.spatial:
            total = total * cast(_expr(d), "int64")
        inner: Expr = const(0, "int64")
        for i in reversed(axes) if column_major else axes:
            inner = inner * cast(_expr(windows.spatial[i]), "int64") + cast(_expr(at[2 + i]), "int64")
        return total + inner

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        position, best = state
        at, inside = windows.at(index, k)
        value = ctx.fixed(ctx.read(x, at))
        wins = value > best
        if is_float(value):
            wins = any_of(wins, all_of(is_nan(value), negate(is_nan(best))))
        first = all_of(any_of(wins, position < const(0, "int64")), *inside)
        return [select(first, flat(at), position), select(all_of(wins, *inside), value, best)]

    start = [Accumulator(-1, "int64"), Accumulator(lowest(x.elem), dtype)]
    return reduce(ctx, ctx.result_type(node), windows.kernel, start, step, lambda s, i: s[0])


def _expr(i: Expr) -> Expr:
    return const(i, "int64") if isinstance(i, int) else i


@lower("nn.avg_pool")
def avg_pool(ctx: Context, node: Node, x: Lazy) -> Lazy:
    x = ctx.pure(x)
    windows, dtype = _Windows(ctx, node, x), compute_dtype(x.elem)
    count_pads = node.attr("count_pads")
    taps = 1
    for d in windows.kernel:
        taps *= d

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        return [state[0] + _element(ctx, x, windows, index, k, const(0, dtype))]

    def finish(state: list[Expr], index: Index) -> Expr:
        if windows.always_inside:
            return state[0] / const(taps, dtype)
        count: Expr = const(1, "int32")
        for i in range(windows.rank):
            count = count * cast(_taps(windows, index, i, count_pads), "int32")
        return state[0] / cast(count, dtype)

    return reduce(ctx, ctx.result_type(node), windows.kernel, [Accumulator(0, dtype)], step, finish)


def _taps(w: _Windows, index: Index, i: int, count_pads: bool) -> Expr:
    """How many taps of the window along an axis count."""
    tirx = modules().tirx
    start = index[2 + i] * w.strides[i] - (0 if count_pads else w.pads[i])
    extent = w.spatial[i] + (w.pads[i] + w.pads[w.rank + i] if count_pads else 0)
    gap, k = w.gaps[i], w.kernel[i]
    first = 0 if count_pads else tirx.floordiv(tirx.max(gap - 1 - start, 0), gap)  # ceil(-start / gap), at least 0
    last = tirx.min(tirx.floordiv(extent - 1 - start, gap), k - 1)
    return last - first + 1


@lower("nn.lp_pool")
def lp_pool(ctx: Context, node: Node, x: Lazy) -> Lazy:
    x = ctx.pure(x)
    windows, dtype = _Windows(ctx, node, x), compute_dtype(x.elem)
    power = node.attr("p")
    raise_to = _power(power)

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        value = modules().tirx.abs(_element(ctx, x, windows, index, k, const(0, dtype)))
        return [state[0] + raise_to(value, ctx.let)]

    def finish(state: list[Expr], index: Index) -> Expr:
        total = ctx.rounded(x.elem, state[0])
        return modules().tirx.sqrt(total) if power == 2 else libm("pow")(total, like(total, 1 / power))

    return reduce(ctx, ctx.result_type(node), windows.kernel, [Accumulator(0, dtype)], step, finish)


def _power(p: int) -> Callable[[Expr, Let], Expr]:
    def raised(x: Expr, let: Let) -> Expr:
        if not 1 <= p <= 8:
            return libm("pow")(x, like(x, p))
        x = let(x)
        value = x
        for _ in range(p - 1):
            value = value * x
        return value

    return raised
