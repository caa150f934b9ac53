"""Elementary functions in f32, as polynomials that vectorise: TVM's own become one call of libm a lane.

Relative error below 4e-7 (measured: 3.1e-7, three units in the last place, `erf` being the worst); infinities, nan and
denormal results come out right. The coefficients are weighted minimax fits (Lawson's iteration on Chebyshev nodes).
f64 goes to libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..api import modules
from .expr import Expr, any_of, bits, cast, const, dtype_of, is_nan, libm, like, select

__all__ = ["Let", "erf", "exp", "log", "nearest_int", "round_half_even", "sigmoid", "softplus", "tanh"]

Let = Callable[[Expr], Expr]
"""Names a value, so that an expression used twice is computed once."""

_EXP = (0.5, 0.16666512957593232, 0.04166618749924772, 0.008369590245513805, 0.0013951703105825226)
_LOG = (
    0.3333331043985781, -0.2499998659982841, 0.20002226613994895, -0.16669250816145884, 0.14218658090326167,
    -0.12384348470209959, 0.1187297629282464, -0.11789807695748243, 0.06915368070433307,
)  # fmt: skip
_TANH = (
    (0.99999999872516, 0.13680849735379352, 0.003869499590216711, 2.8031142044160667e-05, 3.064212772713286e-08,
     -1.2245958156367636e-11),
    (1.0, 0.47014181825813983, 0.027250125857120038, 0.00039406985816135804, 1.2890233628338183e-06),
    9.0,
)  # fmt: skip
_ERF = (
    (1.1283791393472882, 0.19354471506481488, 0.053101648965197375, 0.0038833128378985443, 0.00028456269314654545,
     1.986754755861529e-06),
    (1.0, 0.5048570937945995, 0.11534981028222996, 0.0152071933990029, 0.001185558696315975,
     3.741971457229827e-05),
    4.0,
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
    size = let(tirx.abs(x))
    whole = cast(bits(size + like(x, 8388608.0), "int32") - const(0x4B000000, "int32"), "float32")  # as in nearest_int
    return select(size < like(x, 8388608.0), select(x < like(x, 0.0), like(x, 0.0) - whole, whole), x)


def exp(x: Expr, let: Let) -> Expr:
    """e**x = 2**n * e**r with |r| <= ln(2)/2; 2**n in two factors, so that denormal results come out right."""
    if dtype_of(x) != "float32":
        return libm("exp")(x)
    x = let(x)
    inside = let(select(x > like(x, 89.0), like(x, 89.0), select(x < like(x, -104.0), like(x, -104.0), x)))
    whole = let(nearest_int(inside * like(x, 1.4426950408889634)))  # of nan anything: r is nan, and so the result
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
    """An odd rational function; from 9 on it is 1."""
    return libm("tanh")(x) if dtype_of(x) != "float32" else _odd_rational(*_TANH, x, let)


def _odd_rational(above: Sequence[float], below: Sequence[float], bound: float, x: Expr, let: Let) -> Expr:
    """z P(z*z) / Q(z*z) with z = x clipped to [-bound, bound], and the result to [-1, 1], which it is at the bounds."""
    z = let(_clipped(let(x), bound))  # of nan nan
    square = let(z * z)
    y = _clipped(let(z * polynomial(above, square) / polynomial(below, square)), 1.0)
    return select(z >= like(z, bound), like(z, 1.0), select(z <= like(z, -bound), like(z, -1.0), y))


def _clipped(x: Expr, bound: float) -> Expr:
    return select(x > like(x, bound), like(x, bound), select(x < like(x, -bound), like(x, -bound), x))


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
    """An odd rational function; from 4 on it is 1."""
    return libm("erf")(x) if dtype_of(x) != "float32" else _odd_rational(*_ERF, x, let)


def _absolute(x: Expr) -> Expr:
    return modules().tirx.abs(x)
