"""From int32 sums back to bytes, for epilogues."""

from __future__ import annotations

from ...api import modules
from ..kernel import Expr

__all__ = ["requantize"]

_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves no bits for a fraction, and rounds half to even
_ROUND_BITS = 0x4B400000
_RANGES = {"uint8": (0, 255), "int8": (-128, 127)}


def requantize(acc: Expr, scale: Expr, zero_point: Expr = 0, dtype: str = "uint8") -> Expr:
    """clip(rint(float32(acc) * scale) + zero_point) in `dtype` (uint8 or int8), as ONNX's QuantizeLinear has it.

    `scale` is fp32, `zero_point` an int32 expression or a number within the range of dtype. Bit for bit what NumPy
    makes of `np.clip(np.rint(np.float32(acc) * scale) + zero_point, low, high)`. acc may also be an fp32 sum.
    """
    tirx = modules().tirx
    low, high = _RANGES[dtype]
    if isinstance(zero_point, int):
        bounds = [tirx.const(float(b - zero_point), "float32") for b in (low, high)]
        zero_point = tirx.const(zero_point, "int32")
    else:
        bounds = [tirx.Cast("float32", tirx.const(b, "int32") - zero_point) for b in (low, high)]
    y = tirx.Cast("float32", acc) * scale
    # Clipping to whole numbers may go before the rounding, and keeps it within the range of the trick.
    y = tirx.min(tirx.max(y, bounds[0]), bounds[1])
    # Through the bits: TVM's simplifier takes (y + c) - c for y, and its nearbyint is a call a lane.
    whole = tirx.reinterpret("int32", y + tirx.const(_ROUND, "float32")) - tirx.const(_ROUND_BITS, "int32")
    return tirx.Cast(dtype, whole + zero_point)
