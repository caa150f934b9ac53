"""The rules that operands must obey on every engine: levels, scales, sizes. Each is IG0564 where it is broken."""

from __future__ import annotations

from fractions import Fraction

from ....ir.diagnostics import IntaglioError, error
from ..engine import Meta
from ..parameters import Parameters

__all__ = ["missing_key", "need_level", "need_pair", "need_size", "need_sum"]


def _broken(what: str) -> IntaglioError:
    return error("IG0564", what, hint="the program is not well-levelled; `he` programs from the compiler are verified")


def bits(scale: Fraction) -> str:
    return f"2^{scale.numerator.bit_length() - scale.denominator.bit_length()}"


def need_pair(op: str, x: Meta, y: Meta) -> None:
    """Two operands of a product: one level."""
    if x.level != y.level:
        raise _broken(f"`{op}` of levels {x.level} and {y.level}")


def need_sum(op: str, x: Meta, y: Meta) -> None:
    """Two operands of a sum: one level, exactly one scale."""
    need_pair(op, x, y)
    if x.scale != y.scale:
        gap = abs(1 - float(x.scale / y.scale))
        raise _broken(f"`{op}` of scales {bits(x.scale)} and {bits(y.scale)}, apart by {gap:.1g}")


def need_size(op: str, x: Meta, size: int = 2) -> None:
    if x.size != size:
        raise _broken(f"`{op}` of a ciphertext of size {x.size}, where {size} is needed")


def need_level(op: str, parameters: Parameters, x: Meta, level: int) -> None:
    """A ciphertext at some level can get to another: not upwards, not below 0."""
    if not 0 <= level <= min(x.level, parameters.max_level):
        raise _broken(f"`{op}` from level {x.level} to {level}")


def missing_key(what: str, level: int) -> IntaglioError:
    return error(
        "IG0565", f"no key for {what} at level {level} was loaded", hint="upload the keys that the manifest names"
    )
