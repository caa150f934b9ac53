"""Elementary functions in f32, as polynomials that vectorise: TVM's own become one call of libm a lane.

Relative error below 4e-7 (measured: 2.7e-7, three units in the last place, `tanh` being the worst); infinities, nan and
denormal results come out right. The coefficients are weighted minimax fits (Lawson's iteration on Chebyshev nodes).
f64 goes to libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..api import modules
from .expr import Expr, all_of, any_of, bits, cast, const, dtype_of, is_nan, libm, like, select

__all__ = ["Let", "erf", "exp", "log", "nearest_int", "round_half_even", "sigmoid", "softplus", "tanh"]

Let = Callable[[Expr], Expr]
"""Names a value, so that an expression used twice is computed once."""

_EXP = (0.5, 0.16666512957593232, 0.04166618749924772, 0.008369590245513805, 0.0013951703105825226)
_LOG = (
    0.3333331043985781, -0.2499998659982841, 0.20002226613994895, -0.16669250816145884, 0.14218658090326167,
    -0.12384348470209959, 0.1187297629282464, -0.11789807695748243, 0.06915368070433307,
)  # fmt: skip
_TANH = (-0.3333328021943211, 0.13331383642127986, -0.0537339996915406, 0.020618121830882602, -0.005679303853880578)
_ERF = (
    1.1283791657266893, -0.3761262582409337, 0.11283585147029279, -0.02685381186897129, 0.005188327559664474,
    -0.0008010192517163978, 7.853857692936839e-05,
)  # fmt: skip
_ERFCX = (
    0.0003329315788020307, 0.5579792355543945, 0.04961269924373796, -0.5015524796442525, 0.5678301618988244,
    -0.34574363123032703, 0.11580349461534273, -0.01667877439546654,
)  # fmt: skip

_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves no bits for a fraction, and rounds half to even
_ROUND_BITS = 0x4B400000


def polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """Lowest power first, by Horner's rule."""
    y = like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y = y * x + like(x, c)
    return y


def nearest_int(x: Expr) -> Expr:
    """The nearest integer of an f32 below 2**22 in size, as an int32, halves to the even one.

    Through the bits, because TVM's simplifier takes `(x + c) - c` for x.
    """
    return bits(x + like(x, _ROUND), "int32") - const(_ROUND_BITS, "int32")


def round_half_even(x: Expr, let: Let) -> Expr:
    """The nearest integer, halves to the even one; TVM's own would be a call a lane."""
    tirx = modules().tirx
    if dtype_of(x) != "float32":
        return tirx.nearbyint(x)
    x = let(x)
    return select(tirx.abs(x) < like(x, 4194304.0), cast(nearest_int(x), "float32"), x)


def exp(x: Expr, let: Let) -> Expr:
    """e**x = 2**n * e**r with |r| <= ln(2)/2; 2**n in two factors, so that denormal results come out right."""
    if dtype_of(x) != "float32":
        return libm("exp")(x)
    x = let(x)
    inside = let(select(x > like(x, 89.0), like(x, 89.0), select(x < like(x, -104.0), like(x, -104.0), x)))
    whole = let(nearest_int(select(is_nan(x), like(x, 0.0), inside) * like(x, 1.4426950408889634)))
    n = let(cast(whole, "float32"))
    r = let((inside - n * like(x, 0.693359375)) - n * like(x, -2.12194440e-4))
    value = polynomial(_EXP, r) * r * r + r + like(x, 1.0)
    half = let(whole >> const(1, "int32"))
    return value * _power_of_two(half) * _power_of_two(whole - half)


def _power_of_two(n: Expr) -> Expr:
    return bits((n + const(127, "int32")) << const(23, "int32"), "float32")


def log(x: Expr, let: Let) -> Expr:
    """log(2**n * m) with m in [sqrt(1/2), sqrt(2)]."""
    if dtype_of(x) != "float32":
        return libm("log")(x)
    x = let(x)
    small = x < like(x, 1.1754943508222875e-38)  # denormals are scaled up first
    scaled = let(select(small, x * like(x, 8388608.0), x))
    raw = let(bits(scaled, "int32"))
    # subtracting the bits of sqrt(1/2) makes the exponent field round at sqrt(2)
    offset = let(raw - const(0x3F3504F3, "int32"))
    n = cast(offset >> const(23, "int32"), "float32") - select(small, like(x, 23.0), like(x, 0.0))
    mantissa = (offset & const(0x7FFFFF, "int32")) + const(0x3F3504F3, "int32")
    r = let(bits(mantissa, "float32") - like(x, 1.0))
    n = let(n)
    value = polynomial(_LOG, r) * r * r * r + n * like(x, -2.12194440e-4) - like(x, 0.5) * r * r + r
    value = value + n * like(x, 0.693359375)
    special = any_of(x <= like(x, 0.0), x == like(x, math.inf), is_nan(x))
    edge = select(x == like(x, 0.0), like(x, -math.inf), select(x < like(x, 0.0), like(x, math.nan), x))
    return select(special, edge, value)


def tanh(x: Expr, let: Let) -> Expr:
    """An odd polynomial near 0, elsewhere 1 - 2 / (exp(2x) + 1)."""
    if dtype_of(x) != "float32":
        return libm("tanh")(x)
    x = let(x)
    z = let(x * x)
    near = polynomial(_TANH, z) * z * x + x
    far = like(x, 1.0) - like(x, 2.0) / (exp(x + x, let) + like(x, 1.0))
    return select(all_of(x < like(x, 0.625), x > like(x, -0.625)), near, far)


def sigmoid(x: Expr, let: Let) -> Expr:
    """1 / (1 + exp(-x)), relatively exact on both sides."""
    x = let(x)
    e = let(exp(-_absolute(x), let))
    return select(x >= like(x, 0), like(x, 1), e) / (like(x, 1) + e)


def softplus(x: Expr, let: Let) -> Expr:
    """max(x, 0) + log(1 + exp(-|x|)), with log1p kept exact for small arguments."""
    if dtype_of(x) != "float32":
        x = let(x)
        return select(x > like(x, 0), x, like(x, 0)) + libm("log1p")(libm("exp")(-_absolute(x)))
    x = let(x)
    e = let(exp(-_absolute(x), let))
    u = let(like(x, 1.0) + e)
    # log(u) * e / (u - 1) takes back the rounding of 1 + e (Kahan)
    quotient = select(u == like(x, 1.0), e, log(u, let) * (e / select(u == like(x, 1.0), u, u - like(x, 1.0))))
    return select(x > like(x, 0.0), x, like(x, 0.0)) + quotient


def erf(x: Expr, let: Let) -> Expr:
    """An odd polynomial up to 1, beyond 1 - exp(-x*x) * erfcx(x) with erfcx a polynomial in 1/x."""
    if dtype_of(x) != "float32":
        return libm("erf")(x)
    x = let(x)
    z = let(x * x)
    near = polynomial(_ERF, z) * x
    size = let(_absolute(x))
    bounded = let(select(size > like(x, 4.0), like(x, 4.0), select(size < like(x, 1.0), like(x, 1.0), size)))
    t = let(like(x, 1.0) / bounded)
    far = let(like(x, 1.0) - exp(-(bounded * bounded), let) * polynomial(_ERFCX, t))
    far = select(x < like(x, 0.0), -far, far)
    return select(is_nan(x), x, select(size < like(x, 1.0), near, far))


def _absolute(x: Expr) -> Expr:
    return modules().tirx.abs(x)
