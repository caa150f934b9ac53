"""What `vec`, `lut` and `row` compute: the meanings of the ops they are emitted for, on integers of any width.

An operand shorter than the result is repeated: its element for number i of the result is (i / repeat) mod period. So a
number a row is subtracted from rows (repeat: their length), and a number a column multiplies them (period).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ir.diagnostics import error
from ....ir.op import Op
from ....ir.ops import math as plain
from ....ir.ops.quant_integer import isqrt, rescaled
from ....ir.types import Int
from ..emit.vector import KINDS, ROWS
from ..isa.instructions import LINE, TYPES, Instruction

if TYPE_CHECKING:
    from .functional import Memory

__all__ = ["elementwise", "looked_up", "over_rows"]

Registers = Mapping[str, int]

BINARY: dict[str, Op] = {
    "math.add": plain.add,
    "math.sub": plain.sub,
    "math.mul": plain.mul,
    "math.div": plain.div,
    "math.maximum": plain.maximum,
    "math.minimum": plain.minimum,
    "math.shift_right": plain.shift_right,
}
OVER_ROWS: dict[str, Op] = {
    "math.reduce_sum": plain.reduce_sum,
    "math.reduce_max": plain.reduce_max,
    "math.reduce_min": plain.reduce_min,
}
_KINDS, _ROWS = {n: op for op, n in KINDS.items()}, {n: op for op, n in ROWS.items()}


def elementwise(one: Instruction, r: Registers, local: Memory) -> None:
    """`vec`."""
    with np.errstate(all="ignore"):  # integers wrap
        _elementwise(one, r, local)


def _elementwise(one: Instruction, r: Registers, local: Memory) -> None:
    op = _KINDS.get(one["kind"])
    if op is None:
        raise error("IG0583", f"`vec` has no kind {one['kind']}")
    count = one["count"]
    out = local.vector(one["output"] * LINE, count, _type(r, "output"))
    x = _operand(one, r, "a", count, local)
    if op == "quant.requantize":
        entries = local.window(one["b"] * LINE, (max(r["b_period"], 1), 3), (16, 4), np.int32)
        multiplier, shift = entries[:, 1], entries[:, 2]
        if np.any((shift < 1) | (shift > 62)) or np.any(multiplier < 0):
            raise error("IG0583", "a table of requantisation with shifts outside of 1 to 62 or negative multipliers")
        at = _places(r, "b", count)
        y = rescaled(x, multiplier[at], shift[at])
        out[:] = np.clip(y + r["output_zero"], r["low"], r["high"]).astype(out.dtype)
        return
    if op == "quant.isqrt":
        out[:] = isqrt.function(x).astype(out.dtype)
        return
    if op == "math.cast":
        out[:] = x.astype(out.dtype)
        return
    y = _operand(one, r, "b", count, local)
    if op == "quant.add":
        if not 1 <= r["shift"] <= 62:
            raise error("IG0583", f"a shift of {r['shift']}")
        left = (x.astype(np.int64) - r["a_zero"]) * r["a_multiplier"]
        total = left + (y.astype(np.int64) - r["b_zero"]) * r["b_multiplier"]
        out[:] = np.clip(rescaled(total, 1, r["shift"]) + r["output_zero"], r["low"], r["high"]).astype(out.dtype)
        return
    if x.dtype != y.dtype:
        raise error("IG0583", f"`{op}` of {x.dtype} and {y.dtype}")
    out[:] = BINARY[op].function(x, y).astype(out.dtype)


def looked_up(one: Instruction, r: Registers, local: Memory) -> None:
    """`lut`: numbers beside the table take its nearer end; without `entries` it has one for each code of 8 bits."""
    entries, first = r["entries"], r["first"]
    if not entries:
        entries, first = 256, -128 if r["input_signed"] else 0
    if not 1 <= entries <= 1 << 24:
        raise error("IG0583", f"a table of {entries} entries")
    out = local.vector(one["output"] * LINE, one["count"], _type(r, "output"))
    x = local.vector(one["input"] * LINE, one["count"], _type(r, "a"))
    table = local.vector(one["table"] * LINE, entries, out.dtype)
    out[:] = table[np.clip(x.astype(np.int64) - first, 0, entries - 1)]


def over_rows(one: Instruction, r: Registers, local: Memory) -> None:
    """`row`: [rows, length] to one number a row, in the width of the result."""
    op = _ROWS.get(one["kind"])
    if op is None:
        raise error("IG0583", f"`row` has no kind {one['kind']}")
    if not one["length"]:
        raise error("IG0583", "`row` of rows without elements")
    rows, length = one["rows"], one["length"]
    x = local.vector(one["input"] * LINE, rows * length, _type(r, "a")).reshape(rows, length)
    out = local.vector(one["output"] * LINE, rows, _type(r, "output"))
    out[:] = OVER_ROWS[op].function(x, axes=(1,), keepdims=False).astype(out.dtype)


def _type(r: Registers, operand: str) -> Any:
    number = r[f"{operand}_type"]
    if not 0 <= number < len(TYPES):
        raise error("IG0583", f"there is no integer type {number}", hint=f"1 to {len(TYPES) - 1}, or 0 for codes")
    if number:
        return Int(TYPES[number]).dtype
    if operand == "output":
        return np.dtype(np.uint8)
    return np.dtype(np.int8 if r["input_signed" if operand == "a" else "weight_signed"] else np.uint8)


def _places(r: Registers, operand: str, count: int) -> Any:
    """Which element of an operand each number of the result takes."""
    repeat, period = r[f"{operand}_repeat"], r[f"{operand}_period"]
    if repeat < 0 or period < 0:
        raise error("IG0583", f"an operand that is repeated {repeat} times in {period}")
    at = np.arange(count) // max(repeat, 1)
    return at % max(period, 1) if repeat or period else at


def _operand(one: Instruction, r: Registers, name: str, count: int, local: Memory) -> Any:
    """The operand's elements, repeated as the registers say."""
    repeat, period = r[f"{name}_repeat"], r[f"{name}_period"]
    dtype = _type(r, name)
    if not repeat and not period:
        return local.vector(one[name] * LINE, count, dtype)
    at = _places(r, name, count)
    return local.vector(one[name] * LINE, max(period, 1), dtype)[at]
