"""Scalar TIR expressions, with the corner cases that TVM leaves open settled as NumPy has them.

TVM's simplifier treats floats as reals: it folds `x == x` to true and turns `not (a < b)` into `b <= a`. Everything
that must be right for nan therefore goes through the functions below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ..api import modules

__all__ = [
    "Expr",
    "Index",
    "all_of",
    "any_of",
    "bits",
    "cast",
    "clamp",
    "const",
    "differ",
    "dtype_of",
    "extern",
    "is_float",
    "is_nan",
    "is_signed",
    "larger",
    "libm",
    "like",
    "negate",
    "select",
    "smaller",
    "truncated_div",
    "truncated_mod",
    "width_of",
]

Expr: TypeAlias = Any
Index: TypeAlias = tuple[Any, ...]


def const(value: Any, dtype: str) -> Expr:
    """An immediate; Python's inf and nan included."""
    return modules().tirx.const(value, dtype)


def dtype_of(x: Expr) -> str:
    type = getattr(x, "ty", None)  # `a == b` has none until TVM takes it for an expression
    return "bool" if type is None else str(type.dtype)


def width_of(dtype: str) -> int:
    """Bits of a scalar dtype."""
    return 8 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit()))


def like(x: Expr, value: Any) -> Expr:
    """`value` in the type of x."""
    return const(value, dtype_of(x))


def is_float(x: Expr) -> bool:
    return dtype_of(x).startswith("float")


def is_signed(x: Expr) -> bool:
    return dtype_of(x).startswith("int")


def cast(x: Expr, dtype: str) -> Expr:
    return x if dtype_of(x) == dtype else modules().tirx.Cast(dtype, x)


def bits(x: Expr, dtype: str) -> Expr:
    """The same bits as another type of that width."""
    return x if dtype_of(x) == dtype else modules().tirx.reinterpret(dtype, x)


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Both sides are computed; the simplifier assumes the condition in `yes`, so loads there must be named before."""
    return modules().tirx.Select(condition, yes, no)


def all_of(*conditions: Expr) -> Expr:
    return conditions[0] if len(conditions) == 1 else modules().tirx.all(*conditions)


def any_of(*conditions: Expr) -> Expr:
    return conditions[0] if len(conditions) == 1 else modules().tirx.any(*conditions)


def differ(a: Expr, b: Expr) -> Expr:
    """a != b; TVM has no vectors of truth values that can be compared."""
    return cast(cast(a, "int8") ^ cast(b, "int8"), "bool") if dtype_of(a) == "bool" else a != b


def negate(condition: Expr) -> Expr:
    """Logical not, opaque to the simplifier: a negated comparison of floats is not the opposite comparison."""
    return cast(cast(condition, "int8") ^ const(1, "int8"), "bool")


def is_nan(x: Expr) -> Expr:
    """By the bits: TVM takes loops with its own `isnan` apart, lane by lane."""
    if dtype_of(x) == "float32":
        return (bits(x, "int32") & const(0x7FFFFFFF, "int32")) > const(0x7F800000, "int32")
    return modules().tirx.isnan(x) if is_float(x) else const(False, "bool")


def larger(a: Expr, b: Expr) -> Expr:
    """max(a, b) in which nan wins."""
    if dtype_of(a) == "bool":
        return any_of(a, b)
    if not is_float(a):
        return modules().tirx.max(a, b)
    if _is_number(b):  # as a bound usually is: a comparison that fails for nan keeps a
        return select(a < b, b, a)
    return select(any_of(a > b, is_nan(a)), a, b)


def smaller(a: Expr, b: Expr) -> Expr:
    """min(a, b) in which nan wins."""
    if dtype_of(a) == "bool":
        return all_of(a, b)
    if not is_float(a):
        return modules().tirx.min(a, b)
    if _is_number(b):
        return select(a > b, b, a)
    return select(any_of(a < b, is_nan(a)), a, b)


def _is_number(x: Expr) -> bool:
    """Whether x is an immediate other than nan."""
    return type(x).__name__ == "FloatImm" and x.value == x.value


def clamp(x: Expr, low: Any, high: Any) -> Expr:
    """An integer (an index, usually) forced into [low, high]."""
    tirx = modules().tirx
    return tirx.max(tirx.min(x, high), low)


def truncated_div(a: Expr, b: Expr, let: Callable[[Expr], Expr]) -> Expr:
    """Integer quotient rounded towards zero; 0 for b = 0, and no trap for the smallest integer by -1."""
    one, zero = like(a, 1), like(a, 0)
    # named outside of the selection: under its condition the simplifier would take the safe divisor for b, and trap
    minus = b == like(a, -1) if is_signed(a) else None
    safe = let(select(b == zero if minus is None else any_of(b == zero, minus), one, b))
    quotient = let(modules().tirx.truncdiv(a, safe))
    return select(b == zero, zero, quotient if minus is None else select(minus, zero - a, quotient))


def truncated_mod(a: Expr, b: Expr, let: Callable[[Expr], Expr]) -> Expr:
    """Remainder of `truncated_div`, with the sign of a; 0 for b = 0."""
    one, zero = like(a, 1), like(a, 0)
    degenerate = any_of(b == zero, b == like(a, -1)) if is_signed(a) else b == zero
    safe = let(select(degenerate, one, b))
    rest = let(modules().tirx.truncmod(a, safe))
    return select(degenerate, zero, rest)


def extern(dtype: str, name: str, *args: Expr) -> Expr:
    """A call of a pure C function."""
    return modules().tirx.call_pure_extern(dtype, name, *args)


def libm(name: str) -> Callable[..., Expr]:
    """The function of C's mathematical library for f64, and its `f` form for f32."""

    def call(*args: Expr) -> Expr:
        dtype = dtype_of(args[0])
        return extern(dtype, name if dtype == "float64" else name + "f", *args)

    return call
