"""How an IR element lies in memory and what it is computed in.

| element | memory | computed in |
|---|---|---|
| f64, f32, i8..i64, u8..u64, bool | itself | itself |
| f16 | float16 | float32, rounded after each op |
| bf16 | uint16 | float32, rounded after each op |
| fp8, f8e8m0, f4 | uint8 | float32, rounded after each op |
| i4, i2 / u4, u2 | int8 / uint8 | the same, wrapped after each op |
| q<store, ..> | as store | as store |
| sign, pow2 | bool, int8 | the same |
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.types import Affine, Bool, Elem, Float, Int, Sign
from .expr import Expr, cast, const
from .functions import Let
from .narrow import decode, decode_bf16, encode, encode_bf16, wrap_bits

__all__ = ["array_of", "compute_dtype", "from_memory", "itemsize", "rounded", "stored", "storage_dtype", "to_memory"]

_WIDE = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "uint16"}


def stored(elem: Elem) -> Float | Int | Bool:
    """The plain element in memory: of a quantised one, what it is stored as."""
    if isinstance(elem, Affine):
        return elem.store
    if isinstance(elem, Sign):
        return Bool()
    return elem if isinstance(elem, (Float, Int, Bool)) else Int("i8")


def storage_dtype(elem: Elem) -> str:
    """TVM's dtype in memory."""
    plain = stored(elem)
    if isinstance(plain, Bool):
        return "bool"
    if isinstance(plain, Float):
        return _WIDE.get(plain.name, "uint8")
    return f"{'int' if plain.signed else 'uint'}{max(plain.bits, 8)}"


def compute_dtype(elem: Elem) -> str:
    """TVM's dtype of values in expressions."""
    plain = stored(elem)
    if isinstance(plain, Float):
        return "float64" if plain.name == "f64" else "float32"
    return storage_dtype(plain)


def itemsize(elem: Elem) -> int:
    """Bytes a lane takes while it is computed."""
    return np.dtype(compute_dtype(elem)).itemsize


def from_memory(elem: Elem, raw: Expr, let: Let) -> Expr:
    """The value of what was loaded."""
    plain = stored(elem)
    if isinstance(plain, Int) and plain.bits < 8:
        return wrap_bits(raw, plain.bits, plain.signed)
    if not isinstance(plain, Float) or plain.name in ("f64", "f32"):
        return raw
    if plain.name == "f16":
        return cast(raw, "float32")
    return decode_bf16(raw) if plain.name == "bf16" else decode(plain.name, raw, let)


def to_memory(elem: Elem, value: Expr, let: Let) -> Expr:
    """What to store for a value, rounding it where it does not fit."""
    plain = stored(elem)
    if isinstance(plain, Int) and plain.bits < 8:  # ml_dtypes leaves the upper bits of the byte empty
        return value & const((1 << plain.bits) - 1, storage_dtype(plain))
    if not isinstance(plain, Float) or plain.name in ("f64", "f32"):
        return value
    if plain.name == "f16":
        return cast(value, "float16")
    return encode_bf16(value, let) if plain.name == "bf16" else encode(plain.name, value, let)


def rounded(elem: Elem, value: Expr, let: Let) -> Expr:
    """A computed value as the element can hold it."""
    plain = stored(elem)
    if isinstance(plain, Int) and plain.bits < 8:
        return wrap_bits(value, plain.bits, plain.signed)
    if isinstance(plain, Float) and plain.name not in ("f64", "f32"):
        return from_memory(plain, to_memory(plain, value, let), let)
    return value


def array_of(array: Any) -> Any:
    """A NumPy array as the compiled code sees it: ml_dtypes' types as the integers they are stored as."""
    if array.dtype.isbuiltin == 1:
        return array
    name = array.dtype.name
    plain = "uint16" if name == "bfloat16" else "int8" if name.startswith("int") else "uint8"
    return np.ascontiguousarray(array).view(plain).reshape(array.shape)
