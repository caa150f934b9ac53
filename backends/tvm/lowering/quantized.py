"""`quant` on raw integers, in loops of any rank and dtype; the fast cases have templates (quantized_images.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ....ir.types import Int, Tensor, elem_of
from ..api import modules
from ..kernels.lowbit.fixed import clamp_cast, rescale, rescale_high
from . import contract
from .context import Context
from .elements import compute_dtype
from .expr import Expr, Index, all_of, cast, clamp, const, dtype_of, select
from .pool import _Windows
from .reduction import Accumulator, reduce
from .table import lower, scalar
from .tensor import Lazy, project

I32 = Int("i32")


def _centred(ctx: Context, x: Lazy, zero: int) -> Lazy:
    """x - zero in i32."""
    x = ctx.pure(x)

    def read(index: Index) -> Expr:
        value = cast(ctx.read(x, index), "int32")
        return value - const(zero, "int32") if zero else value

    return Lazy(Tensor(x.shape, I32), read)


@lower("quant.conv")
def conv(ctx: Context, node: Node, x: Lazy, w: Lazy, b: Lazy | None = None) -> Lazy:
    return contract.conv.tensors(ctx, node, _centred(ctx, x, node.attr("zero")), _centred(ctx, w, 0), b)  # type: ignore[return-value]


@lower("quant.matmul")
def matmul(ctx: Context, node: Node, a: Lazy, b: Lazy, c: Lazy | None = None) -> Lazy:
    left, right = _centred(ctx, a, node.attr("a_zero")), _centred(ctx, b, node.attr("b_zero"))
    made = contract.matmul.tensors(ctx, node, left, right)
    assert isinstance(made, Lazy)
    if c is None:
        return made
    bias = ctx.pure(c)
    return Lazy(made.type, lambda index: ctx.read(made, index) + ctx.read(bias, index[-1:]), made.source)


@lower("quant.sum_pool")
def sum_pool(ctx: Context, node: Node, x: Lazy) -> Lazy:
    x = _centred(ctx, x, node.attr("zero"))
    windows = _Windows(ctx, node, x)

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        at, inside = windows.at(index, k)
        value = ctx.read(x, at)
        return [state[0] + (select(all_of(*inside), ctx.fixed(value), const(0, "int32")) if inside else value)]

    return reduce(ctx, ctx.result_type(node), windows.kernel, [Accumulator(0, "int32")], step, lambda s, i: s[0])


@lower("quant.table")
def table(ctx: Context, node: Node, x: Lazy, table: Lazy) -> Lazy:
    elem = x.elem
    assert isinstance(elem, Int)
    first, values = node.attr("first"), ctx.pure(table)
    first = elem.range[0] if first is None else first
    last = ctx.extent(table.shape[0]) - 1
    inside = (first, last) == (elem.range[0], elem.range[1] - elem.range[0])

    def read(index: Index) -> Expr:
        at = cast(ctx.read(x, index), "int32") - const(first, "int32")
        return ctx.read(values, (at if inside else clamp(at, 0, last),))

    return Lazy(ctx.result_type(node), read, x.source)


@scalar("quant.isqrt")
def isqrt(ctx: Context, node: Node, x: Expr) -> Expr:
    tirx = modules().tirx
    wide = ctx.let(tirx.max(cast(x, "int64"), const(0, "int64")))
    root = ctx.let(cast(tirx.sqrt(cast(wide, "float64")), "int64"))
    return cast(root - cast(root * root > wide, "int64"), dtype_of(x))


@lower("quant.pack_bits", static="words are packed from numbers that are counted")
def pack_bits(ctx: Context, node: Node, x: Lazy) -> Lazy:
    elem, source = x.elem, ctx.pure(x)
    assert isinstance(elem, Int)
    first, bit, extent = elem.range[0], node.attr("bit"), ctx.extent(x.shape[-1])

    def read(index: Index) -> Expr:
        word = const(0, "int32")
        for j in range(32):
            at = index[-1] * 32 + j
            inside = extent % 32 == 0
            value = cast(ctx.read(source, (*index[:-1], at if inside else clamp(at, 0, extent - 1))), "int32")
            one = ((value - const(first, "int32")) >> const(bit, "int32")) & const(1, "int32")
            one = one if inside else select(at < extent, one, const(0, "int32"))
            word = word | (one << const(j, "int32"))
        return word

    return Lazy(ctx.result_type(node), read)


@lower("quant.sign_matmul")
def sign_matmul(ctx: Context, node: Node, a: Lazy, b: Lazy) -> Lazy:
    a, b = ctx.pure(a), ctx.pure(b)
    depth = node.attr("depth")

    def step(state: list[Expr], index: Index, k: Index) -> list[Expr]:
        differ = ctx.read(a, (*index[:-1], *k)) ^ ctx.read(b, (index[-1], *k))
        return [state[0] + modules().tirx.popcount(differ)]

    def finish(state: list[Expr], index: Index) -> Expr:
        return const(depth, "int32") - state[0] * const(2, "int32")

    return reduce(ctx, ctx.result_type(node), [a.shape[-1]], [Accumulator(0, "int32")], step, finish)


# --- rounding -------------------------------------------------------------------------------------------------------


@lower("quant.requantize")
def requantize(ctx: Context, node: Node, x: Lazy, multiplier: Lazy, shift: Lazy) -> Lazy:
    type = ctx.result_type(node)
    dtype, low, high = bounds(node)
    axis = node.attr("axis") % max(len(type.shape), 1)
    zero = node.attr("zero")
    known = (multiplier.constant, shift.constant)
    shifts = None if known[1] is None else known[1].array
    narrow = isinstance(x.elem, Int) and x.elem.bits <= 32 and x.elem.name != "u32"
    if known[0] is not None and shifts is not None and narrow and shifts.min(initial=62) >= 32:
        factors = _Channels(ctx, known[0].array, axis)
        halves = _Channels(ctx, np.left_shift(np.int64(1), shifts.astype(np.int64) - 1), axis)
        rests = _Channels(ctx, (shifts - 32).astype(np.int32), axis)

        def fast(index: Index) -> Expr:
            acc = cast(ctx.read(x, index), "int32")
            return clamp_cast(rescale_high(acc, factors(index), halves(index), rests(index)), zero, low, high, dtype)

        return Lazy(type, fast, x.source)
    scales = [ctx.pure(multiplier), ctx.pure(shift)]
    per = multiplier.rank > 0

    def read(index: Index) -> Expr:
        m, s = (ctx.read(v, (index[axis],) if per else ()) for v in scales)
        return clamp_cast(rescale(ctx.read(x, index), m, s), zero, low, high, dtype)

    return Lazy(type, read, x.source)


class _Channels:
    """Numbers along an axis, or one for all."""

    def __init__(self, ctx: Context, array: Any, axis: int) -> None:
        self.ctx, self.axis = ctx, axis
        self.one = np.unique(array).reshape(-1)[0].item() if np.unique(array).size == 1 else None
        self.dtype = str(array.dtype)
        self.table = None if self.one is not None else ctx.table(array, Tensor(array.shape, elem_of(array.dtype)))

    def __call__(self, index: Index) -> Expr:
        if self.table is None:
            return const(self.one, self.dtype)
        return self.ctx.read(self.table, (index[self.axis],))


@lower("quant.add")
def add(ctx: Context, node: Node, a: Lazy, b: Lazy) -> Lazy:
    """In int32 where that is enough, as it is for bytes: the zero points and the half are one constant then."""
    type = ctx.result_type(node)
    dtype, low, high = bounds(node)
    attr = node.attr
    multipliers = attr("a_multiplier"), attr("b_multiplier")
    shift, zero = attr("shift"), attr("zero")
    offset = (1 << (shift - 1)) - attr("a_zero") * multipliers[0] - attr("b_zero") * multipliers[1]
    spans = [_magnitude(v) for v in node.inputs]
    folded = offset + (zero << shift)
    products = sum(s * abs(m) for s, m in zip(spans, multipliers, strict=True))
    wide = "int32" if products + max(abs(offset), abs(folded)) < 1 << 31 else "int64"
    operands = (a, b)
    if len({o.source for o in operands if o.source is not None}) > 1 or any(
        o.source is not None and o.shape != type.shape for o in operands
    ):
        operands = (ctx.pure(a), ctx.pure(b))
    source = next((o.source for o in operands if o.source is not None), None)

    def read(index: Index) -> Expr:
        left, right = (
            cast(ctx.read(o, project(index, o.shape, type.shape)), wide) * const(m, wide)
            for o, m in zip(operands, multipliers, strict=True)
        )
        total = (left + right + const(folded, wide)) >> const(shift, wide)
        return clamp_cast(total, 0, low, high, dtype)

    return Lazy(type, read, source)


def bounds(node: Node) -> tuple[str, int, int]:
    """The dtype of a result, and what it is clamped to."""
    to = node.attr("to")
    least, most = to.range
    low, high = node.attr("low"), node.attr("high")
    return compute_dtype(to), least if low is None else low, most if high is None else high


def _magnitude(value: Value | None) -> int:
    """What the elements of an operand may be."""
    assert value is not None
    assert isinstance(value.type, Tensor)
    assert isinstance(value.type.elem, Int)
    low, high = value.type.elem.range
    maker = value.node
    if maker is not None and maker.op.name in ("quant.requantize", "quant.add"):
        _, low, high = bounds(maker)
    return max(abs(low), abs(high))


__all__ = ["add", "bounds", "conv", "isqrt", "matmul", "pack_bits", "requantize", "sign_matmul", "sum_pool", "table"]
