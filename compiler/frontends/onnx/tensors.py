"""TensorProto to constants: raw, typed and external data, with every size checked against the bytes that are there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ....ir.constants import Constant
from ....ir.diagnostics import error
from ....ir.types import Bool, Float, Int, elem_named

__all__ = ["MOST_AXES", "constant", "elem_type", "text"]

# onnx.TensorProto.DataType -> element type; strings and complex numbers have none here
_ELEMS = {
    1: "f32", 2: "u8", 3: "i8", 4: "u16", 5: "i16", 6: "i32", 7: "i64", 9: "bool", 10: "f16", 11: "f64", 12: "u32",
    13: "u64", 16: "bf16", 17: "f8e4m3fn", 18: "f8e4m3fnuz", 19: "f8e5m2", 20: "f8e5m2fnuz", 21: "u4", 22: "i4",
    23: "f4e2m1", 24: "f8e8m0", 25: "u2", 26: "i2",
}  # fmt: skip
_OTHER = {8: "string", 14: "complex64", 15: "complex128", 0: "undefined"}
MOST_AXES = 64  # NumPy's limit
_PACKED_BITS = {"u4": 4, "i4": 4, "f4e2m1": 4, "u2": 2, "i2": 2}
_BITS = {n: _PACKED_BITS.get(n, elem_named(n).dtype.itemsize * 8) for n in _ELEMS.values()}


def elem_type(code: int, what: str) -> Float | Int | Bool:
    """The element type of an ONNX type code; `what` names the value for the diagnostic (IG0103)."""
    name = _ELEMS.get(code)
    if name is None:
        other = _OTHER.get(code, f"number {code}")
        raise error("IG0103", f"{what} has element type {other}, which this compiler does not compute with")
    return elem_named(name)


def text(name: Any) -> str:
    """A name in the file. For what is not UTF-8, protobuf gives bytes: IG0101."""
    if not isinstance(name, str):
        raise error("IG0101", f"a name in the file is not UTF-8 text: {name[:40]!r}", hint="is the file damaged?")
    return name


def constant(tensor: Any, folder: Path | None, name: str = "") -> Constant:
    """The data of a TensorProto, zero-copy where the format allows; IG0105 when sizes and bytes disagree."""
    name = text(name or tensor.name)
    what = f"initializer `{name}`" if name else "a constant tensor"
    elem = elem_type(tensor.data_type, what)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise error("IG0105", f"{what} has a negative extent: {list(shape)[:8]}")
    if len(shape) > MOST_AXES:
        raise error("IG0105", f"{what} has {len(shape)} axes, {MOST_AXES} are the most")
    count = math.prod(shape)
    bits = _BITS[str(elem)]
    if tensor.HasField("segment"):
        raise error("IG0105", f"{what} is stored in segments, which ONNX never defined")
    if tensor.data_location == 1:
        raw = _external(tensor, folder, (count * bits + 7) // 8, what)
    elif tensor.HasField("raw_data"):
        raw = np.frombuffer(tensor.raw_data, dtype=np.uint8)
    else:
        raw = None
    flat = _typed_fields(tensor, elem, bits, count, what) if raw is None else _unpack(raw, elem, bits, count, what)
    try:
        return Constant(flat.reshape(shape), name)
    except ValueError as e:  # more axes than NumPy has, or extents beyond its index type
        raise error("IG0105", f"{what} has an impossible shape {list(shape)[:8]}: {e}") from None


def _unpack(raw: Any, elem: Float | Int | Bool, bits: int, count: int, what: str) -> Any:
    if raw.size != (count * bits + 7) // 8:
        raise error("IG0105", f"{what} has {raw.size} bytes of data, its shape and type need {(count * bits + 7) // 8}")
    if bits < 8:
        return _spread_bits(raw, elem, bits, count)
    return raw.view(elem.dtype)  # ONNX is little-endian, as every machine that runs this


def _spread_bits(raw: Any, elem: Float | Int | Bool, bits: int, count: int) -> Any:
    """Sub-byte elements, first one in the low bits, to one byte each."""
    per = 8 // bits
    codes = (raw[:, None] >> (np.arange(per, dtype=np.uint8) * bits)) & ((1 << bits) - 1)
    codes = codes.reshape(-1)[:count]
    if str(elem) == "f4e2m1":
        return codes.view(ml_dtypes.float4_e2m1fn)
    signed = np.where(codes >= 1 << (bits - 1), codes.astype(np.int8) - (1 << bits), codes.astype(np.int8))
    return (signed if str(elem).startswith("i") else codes).astype(elem.dtype)


def _typed_fields(tensor: Any, elem: Float | Int | Bool, bits: int, count: int, what: str) -> Any:
    """Data in the typed repeated fields: narrow types travel in int32_data, some as bit patterns."""
    name = str(elem)
    field = {"f32": "float_data", "f64": "double_data", "i64": "int64_data", "u32": "uint64_data", "u64": "uint64_data"}
    data = getattr(tensor, field.get(name, "int32_data"))
    packed = bits < 8
    wanted = (count * bits + 7) // 8 if packed else count
    if len(data) != wanted:
        raise error("IG0105", f"{what} has {len(data)} numbers, its shape needs {wanted}")
    if name in field:
        return np.array(data, dtype=elem.dtype)
    values = np.array(data, dtype=np.int32)
    if packed:
        return _spread_bits(values.astype(np.uint8), elem, bits, count)
    if isinstance(elem, Float):  # bit patterns
        return values.astype(np.uint16 if elem.dtype.itemsize == 2 else np.uint8).view(elem.dtype)
    return values.astype(elem.dtype)


def _external(tensor: Any, folder: Path | None, length: int, what: str) -> Any:
    """Bytes of a file beside the model, memory-mapped; the path may not leave the model's folder."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    shown = location if len(location) <= 80 else location[:80] + "..."
    if folder is None:
        raise error("IG0106", f"{what} is in the file `{shown}`", hint="give the model's path, not its bytes")
    try:
        root = folder.resolve()
        path = (root / location).resolve()
        if not location or root not in path.parents:
            raise error("IG0106", f"{what} points outside the model's folder: `{shown}`")
        if not path.is_file():
            raise error("IG0106", f"{what} is in `{shown}`, which is not beside the model", hint="copy it there")
        offset, given, have = int(entries.get("offset", 0)), int(entries.get("length", length)), path.stat().st_size
        if offset < 0 or given != length or offset + length > have:
            end = offset + given
            raise error("IG0106", f"{what} is bytes {offset}..{end} of `{shown}`; it has {have}, needed are {length}")
        if length == 0:
            return np.zeros(0, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(length,))
    except (OSError, ValueError) as e:  # names that no file can have, numbers that are none, files that cannot be read
        raise error("IG0106", f"{what} is in `{shown}`, which cannot be read: {e}"[:300]) from None
