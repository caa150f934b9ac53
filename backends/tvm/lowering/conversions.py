"""Numbers from one TVM dtype to another, as NumPy's casts have it."""

from __future__ import annotations

from ..api import modules
from .context import Context
from .expr import Expr, bits, cast, dtype_of, is_nan, like, select

__all__ = ["reinterpreted", "to_integer"]


def to_integer(ctx: Context, x: Expr, dtype: str) -> Expr:
    """A float rounded towards zero, wrapped to the integer type through 64 bits; nan gives 0."""
    if dtype == "uint64":
        return _to_unsigned(ctx, x)
    x = ctx.let(x)
    # a 64-bit target keeps what the machine makes of nan, like NumPy
    clean = x if dtype == "int64" else select(is_nan(x), like(x, 0), x)
    return cast(cast(clean, "int64"), dtype)


def _to_unsigned(ctx: Context, x: Expr) -> Expr:
    x = ctx.let(x)
    half = like(x, 2.0**63)
    high = cast(cast(x - half, "int64"), "uint64") ^ modules().tirx.const(1 << 63, "uint64")
    return select(x >= half, high, cast(cast(x, "int64"), "uint64"))


def reinterpreted(x: Expr, dtype: str) -> Expr:
    """The same bits; truth values are bytes of 0 or 1."""
    if dtype == "bool":
        return cast(cast(x, "int8"), "bool")
    return bits(cast(x, "uint8") if dtype_of(x) == "bool" else x, dtype)
