"""Arithmetic, comparison and logic of two operands (and `where`), as scalars."""

from __future__ import annotations

from ....ir.graph import Node
from .context import Context
from .conversions import to_integer
from .expr import (
    Expr,
    all_of,
    any_of,
    cast,
    differ,
    dtype_of,
    is_float,
    is_nan,
    is_signed,
    larger,
    libm,
    like,
    negate,
    select,
    smaller,
    truncated_div,
    truncated_mod,
    width_of,
)
from .table import scalar


@scalar("math.add")
def add(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a + b


@scalar("math.sub")
def sub(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a - b


@scalar("math.mul")
def mul(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a * b


@scalar("math.div")
def div(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a / b if is_float(a) else truncated_div(a, b, ctx.let)


@scalar("math.mod")
def mod(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    a, b = ctx.let(a), ctx.let(b)
    if is_float(a):
        rest = libm("fmod")(a, b)
        if node.attr("truncated"):
            return rest
        rest = ctx.let(rest)
        adjust = all_of(rest != like(a, 0), differ(rest < like(a, 0), b < like(a, 0)))
        moved = select(adjust, rest + b, rest)
        # an exact multiple is a zero with the sign of b
        zero = select(b < like(a, 0), like(a, -0.0), like(a, 0.0))
        return select(rest == like(a, 0), zero, moved)
    rest = truncated_mod(a, b, ctx.let)
    if node.attr("truncated") or not is_signed(a):
        return rest
    rest = ctx.let(rest)
    return select(all_of(rest != like(a, 0), differ(rest < like(a, 0), b < like(a, 0))), rest + b, rest)


@scalar("math.pow")
def pow_(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    result = dtype_of(a)
    if not is_float(a) and not is_float(b):
        return _integer_power(ctx, a, b)
    wide = "float64" if result == "float64" or not is_float(a) else "float32"
    constant = node.inputs[1].node.constant if node.inputs[1] is not None and node.inputs[1].node is not None else None
    if constant is not None and constant.array.size == 1 and float(constant.array.reshape(())) == 2.0 and is_float(a):
        x = ctx.let(cast(a, wide))
        return cast(x * x, result)
    value = libm("pow")(cast(a, wide), cast(b, wide))
    return value if result == wide else to_integer(ctx, value, result)


def _integer_power(ctx: Context, a: Expr, b: Expr) -> Expr:
    """Square and multiply over the bits of the exponent, in i64 with wrap-around; 1 / a rounded to zero for b < 0."""
    base = ctx.let(cast(a, "int64"))
    exponent = ctx.let(cast(b, "int64"))
    one, zero = like(base, 1), like(base, 0)
    positive = ctx.let(select(exponent < zero, zero, exponent))
    value, square = one, base
    for bit in range(min(width_of(dtype_of(b)), 63)):
        taken = ((positive >> like(base, bit)) & one) != zero
        value = ctx.let(value * select(taken, square, one))
        square = ctx.let(square * square)
    odd = (exponent & one) != zero
    inverse = select(base == one, one, zero)
    if is_signed(a):
        inverse = select(base == like(base, -1), select(odd, like(base, -1), one), inverse)
    return cast(select(exponent < zero, inverse, value), dtype_of(a))


@scalar("math.minimum")
def minimum(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return smaller(a, b)


@scalar("math.maximum")
def maximum(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return larger(a, b)


@scalar("math.and")
def and_(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return all_of(a, b)


@scalar("math.or")
def or_(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return any_of(a, b)


@scalar("math.xor")
def xor(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return differ(a, b)


@scalar("math.bit_and")
def bit_and(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a & b


@scalar("math.bit_or")
def bit_or(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a | b


@scalar("math.bit_xor")
def bit_xor(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a ^ b


def _beyond(a: Expr, b: Expr) -> Expr:
    """Whether a shift moves everything out: by the width or more (negative amounts included, as NumPy has it)."""
    wide = b >= like(b, width_of(dtype_of(a)))
    return any_of(wide, b < like(b, 0)) if is_signed(b) else wide


@scalar("math.shift_left")
def shift_left(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    beyond = _beyond(a, b)
    return select(beyond, like(a, 0), a << select(beyond, like(b, 0), b))


@scalar("math.shift_right")
def shift_right(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    beyond = _beyond(a, b)
    empty = select(a < like(a, 0), like(a, -1), like(a, 0)) if is_signed(a) else like(a, 0)
    return select(beyond, empty, a >> select(beyond, like(b, 0), b))


def _ordered(a: Expr, compared: Expr) -> Expr:
    """Keeps the simplifier from taking a comparison of a value with itself for true."""
    return all_of(compared, negate(is_nan(a))) if is_float(a) else compared


@scalar("math.equal")
def equal(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return negate(differ(a, b)) if dtype_of(a) == "bool" else _ordered(a, a == b)


@scalar("math.not_equal")
def not_equal(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return any_of(a != b, is_nan(a)) if is_float(a) else differ(a, b)


@scalar("math.less")
def less(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a < b


@scalar("math.less_equal")
def less_equal(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return _ordered(a, a <= b)


@scalar("math.greater")
def greater(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return a > b


@scalar("math.greater_equal")
def greater_equal(ctx: Context, node: Node, a: Expr, b: Expr) -> Expr:
    return _ordered(a, a >= b)


@scalar("math.where")
def where(ctx: Context, node: Node, c: Expr, a: Expr, b: Expr) -> Expr:
    return select(c, a, b)
