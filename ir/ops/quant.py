"""`quant`: between real numbers and their quantised encodings.

    x: f32 --quantize--> q<i8, f32, scale=0.1>  --dequantize--> f32        the encoding is in the type
    q<i8, ...> --store--> i8 --load--> q<i8, ...>                          the same bits, with and without their meaning

Loss enters at `quantize` only; the other three are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..constants import Constant
from ..op import elementwise, op, structural
from ..types import Affine, Elem, Int, Pow2, Sign
from ._numpy import cast_array


def spread(value: Any, elem: Affine | Sign, shape: tuple[int, ...]) -> Any:
    """A scale or zero point as an array that broadcasts against `shape`."""
    if not isinstance(value, Constant):
        return np.asarray(value)
    array = value.array
    if elem.axis is None:
        return array
    group = getattr(elem, "group", None)
    if group is not None:  # one entry per group along the axis, the other axes in full
        array = np.repeat(array, group, axis=elem.axis)
        return np.take(array, range(shape[elem.axis]), axis=elem.axis)
    return array.reshape([-1 if i == elem.axis % len(shape) else 1 for i in range(len(shape))])


@op("quant.quantize", "x: F[*S] -> to[*S]", elementwise)
def quantize(x, *, to: Elem):
    """The nearest encoding: round(x / scale) + zero, halves to even, clamped to the stored type's range."""
    if isinstance(to, Affine):
        real = to.real.dtype
        scaled = x.astype(np.float32 if real.itemsize < 4 else real) / spread(to.scale, to, x.shape).astype(real)
        if not isinstance(to.store, Int):
            return cast_array(scaled, to.store, True)
        low, high = to.store.range
        moved = np.rint(scaled).astype(np.float64) + spread(to.zero, to, x.shape).astype(np.float64)
        return cast_array(np.clip(np.where(np.isnan(moved), low, moved), low, high).astype(np.int64), to.store)
    if isinstance(to, Sign):
        return x >= 0
    assert isinstance(to, Pow2)
    magnitude = np.abs(x.astype(np.float64))
    top = (1 << (to.bits - 1)) - 1
    code = np.where(magnitude == 0, 0, np.rint(np.log2(np.where(magnitude == 0, 1, magnitude))) + to.bias)
    code = np.clip(code, 0, top).astype(np.int8)
    return np.where(x < 0, -code, code).astype(np.int8)


@op("quant.dequantize", "x: Q[*S] -> to[*S]", elementwise)
def dequantize(x, *, to: Elem, _types: Any = None):
    """The real number an encoding stands for."""
    elem = _types[0][0].elem
    return dequantized(x, elem).astype(to.dtype)


def dequantized(x: Any, elem: Elem) -> Any:
    """Stored numbers of `elem` as real ones."""
    if isinstance(elem, Affine):
        real = np.dtype(np.float32) if elem.real.dtype.itemsize < 4 else elem.real.dtype
        zero = spread(elem.zero, elem, x.shape)
        if isinstance(elem.store, Int):
            wide = (
                cast_array(x, Int("i64")) - cast_array(zero, Int("i64")) if np.any(zero) else cast_array(x, Int("i64"))
            )
        else:
            wide = x.astype(np.float32)
        return wide.astype(real) * spread(elem.scale, elem, x.shape).astype(real)
    if isinstance(elem, Sign):
        return np.where(x, 1.0, -1.0) * spread(elem.scale, elem, x.shape)
    assert isinstance(elem, Pow2)
    code = np.abs(x.astype(np.int64))
    return np.where(code == 0, 0.0, np.sign(x) * np.exp2(code.astype(np.float64) - elem.bias))


@op("quant.store", "x: Q[*S] -> to[*S]", elementwise, structural)
def store(x, *, to: Elem):
    """The stored numbers of an encoding, without their meaning."""
    return x


@op("quant.load", "x: T[*S] -> to[*S]", elementwise, structural)
def load(x, *, to: Elem):
    """Stored numbers, read as the encoding `to`."""
    return x
