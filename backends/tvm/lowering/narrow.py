"""Number formats below 16 bits and bf16, by bit arithmetic: TVM sees their storage integers only.

A `Format` reads as the layout of the bits; `decode` gives the exact f32 and `encode` the nearest code of an f32, halves
to even, as ml_dtypes has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .expr import Expr, any_of, bits, cast, const, is_nan, select
from .functions import Let, round_half_even

__all__ = ["FORMATS", "Format", "decode", "decode_bf16", "encode", "encode_bf16", "wrap_bits"]


@dataclass(frozen=True)
class Format:
    """Sign, `exponent` and `mantissa` bits; the highest finite code; the code of inf if there is one, and of nan."""

    exponent: int
    mantissa: int
    bias: int
    largest: int  # code of the largest finite value
    infinity: int | None
    nan: int | None
    signed_zero: bool = True

    @property
    def largest_value(self) -> float:
        m, e = self.largest & ((1 << self.mantissa) - 1), self.largest >> self.mantissa
        return math.ldexp((1 << self.mantissa) + m, e - self.bias - self.mantissa)

    @property
    def sign_bit(self) -> int:
        return 1 << (self.exponent + self.mantissa)


FORMATS = {
    "f8e4m3fn": Format(4, 3, 7, 0x7E, None, 0x7F),
    "f8e4m3fnuz": Format(4, 3, 8, 0x7F, None, 0x80, signed_zero=False),
    "f8e5m2": Format(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "f8e5m2fnuz": Format(5, 2, 16, 0x7F, None, 0x80, signed_zero=False),
    "f4e2m1": Format(2, 1, 1, 0x7, None, None),
}


def _int(value: int) -> Expr:
    return const(value, "int32")


def _f32(value: float) -> Expr:
    return const(value, "float32")


def _power_of_two(n: Expr) -> Expr:
    """2**n for n in [-126, 127]."""
    return bits((n + _int(127)) << _int(23), "float32")


def decode(name: str, code: Expr, let: Let) -> Expr:
    """The f32 value of a code in a uint8."""
    code = let(cast(code, "int32"))
    if name == "f8e8m0":
        value = select(code == _int(0), _f32(2.0**-127), _power_of_two(code - _int(127)))
        return select(code == _int(255), _f32(math.nan), value)
    f = FORMATS[name]
    magnitude = let(code & _int(f.sign_bit - 1))
    exponent = let(magnitude >> _int(f.mantissa))
    fraction = magnitude & _int((1 << f.mantissa) - 1)
    normal = exponent > _int(0)
    whole = fraction + select(normal, _int(1 << f.mantissa), _int(0))
    scale = _power_of_two(select(normal, exponent, _int(1)) - _int(f.bias + f.mantissa))
    value = let(cast(whole, "float32") * scale)
    if f.infinity is not None:
        value = select(magnitude == _int(f.infinity), _f32(math.inf), value)
    negative = (code & _int(f.sign_bit)) != _int(0)
    value = let(value)
    value = select(negative, -value, value)
    if f.nan is None:
        return value
    if f.nan == f.sign_bit:  # the code of minus zero
        return select(code == _int(f.nan), _f32(math.nan), value)
    first_nan = f.largest + 1 if f.infinity is None else f.infinity + 1
    return select(magnitude >= _int(first_nan), _f32(math.nan), value)


def encode(name: str, x: Expr, let: Let) -> Expr:
    """The code, in a uint8, nearest to an f32; beyond the largest finite one inf or nan (f4: the largest; nan is 0)."""
    if name == "f8e8m0":
        return encode_e8m0(x, let, saturate=False, round_up=False)
    f = FORMATS[name]
    x = let(x)
    raw = let(bits(x, "int32"))
    size = let(bits(raw & _int(0x7FFFFFFF), "float32"))
    lowest = 1 - f.bias
    exponent = ((raw >> _int(23)) & _int(0xFF)) - _int(127)
    exponent = let(select(exponent < _int(lowest), _int(lowest), exponent))
    # steps of the format's spacing at this exponent: below 2**(mantissa + 1), so the carry moves the exponent up
    capped = select(size < _f32(2.0**40), size, _f32(2.0**40))
    unit = select(exponent > _int(40), _int(40), exponent) - _int(f.mantissa)
    steps = cast(round_half_even(capped * _power_of_two(_int(0) - unit), let), "int32")
    code = let(((exponent - _int(lowest)) << _int(f.mantissa)) + steps)
    beyond = f.largest if f.nan is None else (f.infinity if f.infinity is not None else f.nan)
    code = let(select(any_of(code > _int(f.largest), size >= _f32(2.0**40)), _int(beyond), code))
    code = let(select(is_nan(x), _int(f.nan or 0), code))
    sign = let(select(raw < _int(0), _int(f.sign_bit), _int(0)))
    if f.signed_zero:
        return cast(code | sign, "uint8")
    return cast(select(any_of(code == _int(0), code == _int(f.sign_bit)), code, code | sign), "uint8")


def encode_e8m0(x: Expr, let: Let, *, saturate: bool, round_up: bool) -> Expr:
    """A power of two as its biased exponent, 255 for nan: `round_up`, or to the nearest (halves up)."""
    x = let(x)
    size = let(bits(bits(x, "int32") & _int(0x7FFFFFFF), "float32"))
    tiny = size < _f32(2.0**-126)
    raw = let(bits(select(tiny, size * _f32(2.0**24), size), "int32"))
    exponent = (raw >> _int(23)) - select(tiny, _int(24), _int(0))
    fraction = raw & _int(0x7FFFFF)
    carry = fraction > _int(0) if round_up else fraction >= _int(0x400000)
    code = let(exponent + cast(carry, "int32"))
    top = 254 if saturate else 255
    code = select(code < _int(0), _int(0), select(code > _int(top), _int(top), code))
    code = select(size == _f32(0.0), _int(0), select(size == _f32(math.inf), _int(top), code))
    return cast(select(is_nan(x), _int(255), code), "uint8")


def decode_bf16(code: Expr) -> Expr:
    return bits(cast(code, "uint32") << const(16, "uint32"), "float32")


def encode_bf16(x: Expr, let: Let) -> Expr:
    """The upper half of an f32, rounded to nearest even; nan stays nan."""
    x = let(x)
    raw = let(bits(x, "uint32"))
    odd = (raw >> const(16, "uint32")) & const(1, "uint32")
    rounded = (raw + const(0x7FFF, "uint32") + odd) >> const(16, "uint32")
    quiet = (raw >> const(16, "uint32")) | const(0x40, "uint32")
    return cast(select(is_nan(x), quiet, rounded), "uint16")


def wrap_bits(x: Expr, width: int, signed: bool) -> Expr:
    """The low `width` bits of an 8-bit integer, sign extended if signed."""
    if not signed:
        return x & const((1 << width) - 1, "uint8")
    sign = const(1 << (width - 1), "int8")  # not by shifts: C has no shift of 8 bits
    return ((x & const((1 << width) - 1, "int8")) ^ sign) - sign
