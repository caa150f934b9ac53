"""Arithmetic and elementary functions of one operand, as scalars."""

from __future__ import annotations

import math

from ....ir.graph import Node
from ..api import modules
from . import functions
from .context import Context
from .expr import (
    Expr,
    all_of,
    any_of,
    is_float,
    is_nan,
    is_signed,
    libm,
    like,
    negate,
    select,
)
from .table import Lowering, scalar

# --- one operand ----------------------------------------------------------------------------------------------------


@scalar("math.neg")
def neg(ctx: Context, node: Node, x: Expr) -> Expr:
    if is_float(x):
        return like(x, -0.0) - x
    return like(x, 0) - x if is_signed(x) else ~x + like(x, 1)  # TVM takes 0 - x of an unsigned x for 0


@scalar("math.abs")
def abs_(ctx: Context, node: Node, x: Expr) -> Expr:
    if is_float(x):
        return modules().tirx.abs(x)
    return select(x < like(x, 0), like(x, 0) - x, x) if is_signed(x) else x


@scalar("math.sign")
def sign(ctx: Context, node: Node, x: Expr) -> Expr:
    above = select(x > like(x, 0), like(x, 1), like(x, 0))
    if not is_float(x):
        return select(x < like(x, 0), like(x, -1), above) if is_signed(x) else above
    return select(is_nan(x), x, select(x < like(x, 0), like(x, -1), above))


@scalar("math.relu")
def relu(ctx: Context, node: Node, x: Expr) -> Expr:
    return select(x < like(x, 0), like(x, 0), x) if is_float(x) or is_signed(x) else x


@scalar("math.leaky_relu")
def leaky_relu(ctx: Context, node: Node, x: Expr) -> Expr:
    return select(x >= like(x, 0), x, x * like(x, node.attr("alpha")))


@scalar("math.exp")
def exp(ctx: Context, node: Node, x: Expr) -> Expr:
    return functions.exp(x, ctx.let)


@scalar("math.log")
def log(ctx: Context, node: Node, x: Expr) -> Expr:
    return functions.log(x, ctx.let)


@scalar("math.sqrt")
def sqrt(ctx: Context, node: Node, x: Expr) -> Expr:
    return modules().tirx.sqrt(x)


@scalar("math.reciprocal")
def reciprocal(ctx: Context, node: Node, x: Expr) -> Expr:
    return like(x, 1) / x


@scalar("math.sigmoid")
def sigmoid(ctx: Context, node: Node, x: Expr) -> Expr:
    return functions.sigmoid(x, ctx.let)


@scalar("math.softplus")
def softplus(ctx: Context, node: Node, x: Expr) -> Expr:
    return functions.softplus(x, ctx.let)


@scalar("math.erf")
def erf(ctx: Context, node: Node, x: Expr) -> Expr:
    return functions.erf(x, ctx.let)


@scalar("math.tanh")
def tanh(ctx: Context, node: Node, x: Expr) -> Expr:
    return functions.tanh(x, ctx.let)


@scalar("nn.gelu")
def gelu(ctx: Context, node: Node, x: Expr) -> Expr:
    x = ctx.let(x)
    half = x * like(x, 0.5)
    if node.attr("approximate"):
        inner = like(x, math.sqrt(2 / math.pi)) * (x + like(x, 0.044715) * x * x * x)
        return half * (like(x, 1) + functions.tanh(inner, ctx.let))
    return half * (like(x, 1) + functions.erf(x * like(x, math.sqrt(0.5)), ctx.let))


def _libm(op: str, name: str) -> Lowering:
    """By libm, one call a lane. TVM's own forms are as exact in f32 except `atanh`, which is off by 8e-6."""
    return scalar(op)(lambda ctx, node, x: libm(name)(x))


sin, cos, tan = _libm("math.sin", "sin"), _libm("math.cos", "cos"), _libm("math.tan", "tan")
asin, acos, atan = _libm("math.asin", "asin"), _libm("math.acos", "acos"), _libm("math.atan", "atan")
sinh, cosh = _libm("math.sinh", "sinh"), _libm("math.cosh", "cosh")
asinh, acosh, atanh = _libm("math.asinh", "asinh"), _libm("math.acosh", "acosh"), _libm("math.atanh", "atanh")


@scalar("math.floor")
def floor(ctx: Context, node: Node, x: Expr) -> Expr:
    return modules().tirx.floor(x)


@scalar("math.ceil")
def ceil(ctx: Context, node: Node, x: Expr) -> Expr:
    return modules().tirx.ceil(x)


@scalar("math.round")
def round_(ctx: Context, node: Node, x: Expr) -> Expr:
    return functions.round_half_even(x, ctx.let)


@scalar("math.is_nan")
def is_nan_(ctx: Context, node: Node, x: Expr) -> Expr:
    return is_nan(x)


@scalar("math.is_inf")
def is_inf(ctx: Context, node: Node, x: Expr) -> Expr:
    wanted = []
    if node.attr("negative"):
        wanted.append(x == like(x, -math.inf))
    if node.attr("positive"):
        wanted.append(x == like(x, math.inf))
    return any_of(*wanted) if wanted else all_of(x == like(x, math.inf), x == like(x, -math.inf))


@scalar("math.not")
def not_(ctx: Context, node: Node, x: Expr) -> Expr:
    return negate(x)


@scalar("math.bit_not")
def bit_not(ctx: Context, node: Node, x: Expr) -> Expr:
    return ~x


@scalar("approx.poly")
def poly(ctx: Context, node: Node, x: Expr) -> Expr:
    return functions.polynomial(node.attr("coeffs"), ctx.let(x))
