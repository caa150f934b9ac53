"""What several op meanings need: low-precision arithmetic, exact casts, windows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ..types import Bool, Elem, Float, Int

__all__ = [
    "at_least_f32",
    "cast_array",
    "contiguous",
    "low_precision",
    "pad_spatial",
    "room_for",
    "round_half_even",
    "safe",
    "windows",
]

round_half_even = np.rint

_ROOM = 1 << 27  # elements


def room_for(shape: Sequence[int]) -> None:
    """Raise ValueError when an intermediate array would be absurdly large, as pads in the millions would make it."""
    if math.prod([int(d) for d in shape]) > _ROOM:
        raise ValueError(f"an intermediate array of shape {list(shape)} is too large to interpret")


def low_precision(dtype: np.dtype[Any]) -> bool:
    """Whether arithmetic in this float type is done in f32 (f16, bf16, fp8, fp4)."""
    return dtype.kind in "fV" and dtype.itemsize < 4


def at_least_f32(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Compute in f32 what is narrower, then round once: what hardware and ONNX's reference do."""

    @functools.wraps(fn)
    def wide(x: Any, *rest: Any, **attrs: Any) -> Any:
        if low_precision(x.dtype):
            return np.asarray(fn(x.astype(np.float32), *rest, **attrs)).astype(x.dtype)
        return fn(x, *rest, **attrs)

    return wide


def contiguous(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Keep 0-d results arrays."""

    @functools.wraps(fn)
    def wrapped(x: Any, **attrs: Any) -> Any:
        return np.asarray(fn(x, **attrs))

    return wrapped


def safe(fn: Any, x: Any, **options: Any) -> Any:
    """A sum-like reduction in x's own type: narrow floats through f32, integers kept at their width."""
    if low_precision(x.dtype):
        return np.asarray(fn(x.astype(np.float32), **options)).astype(x.dtype)
    if fn is np.mean and x.dtype.kind in "iu":
        return np.trunc(np.mean(x, dtype=np.float64, **options)).astype(x.dtype)
    return fn(x, dtype=x.dtype, **options)


_NARROW_INTS = {np.dtype(t) for t in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2)}


def cast_array(x: Any, to: Float | Int | Bool | Elem, saturate: bool = True, round_up: bool = True) -> Any:
    """NumPy's cast made total and exact: see `math.cast`."""
    target = to.dtype
    if target == x.dtype:
        return x
    if target == np.bool_:
        return x.astype(np.float32) != 0 if x.dtype.kind == "V" else x != 0
    with np.errstate(all="ignore"):
        if isinstance(to, Int):
            return _to_int(x, to, target)
        if isinstance(to, Float) and to.name == "f8e8m0":
            return _to_e8m0(x.astype(np.float32), saturate, round_up)
        if isinstance(to, Float) and to.name.startswith("f8"):
            return _to_fp8(x.astype(np.float32), to, target, saturate)
        if isinstance(to, Float) and to.name == "f4e2m1":  # always saturates; nan has no encoding and becomes a zero
            return x.astype(np.float32).astype(target)
        if x.dtype in _NARROW_INTS:
            x = x.astype(np.int8 if x.dtype.name.startswith("int") else np.uint8)
        if x.dtype.kind == "V" and target == np.float64:
            x = x.astype(np.float32)
        return x.astype(target)


def _to_int(x: Any, to: Int, target: np.dtype[Any]) -> Any:
    if x.dtype.kind in "fV" and x.dtype not in _NARROW_INTS:
        wide = x.astype(np.float64)
        if to.bits == 64:
            return wide.astype(target)
        x = np.where(np.isnan(wide), 0, wide).astype(np.int64)
    plain = x.astype(np.int8 if x.dtype.name.startswith("int") else np.uint8) if x.dtype in _NARROW_INTS else x
    if to.bits < 8:
        bits = np.asarray(plain).astype(np.int64) & ((1 << to.bits) - 1)
        if to.signed:
            bits = np.where(bits >= 1 << (to.bits - 1), bits - (1 << to.bits), bits)
        return bits.astype(np.int8).astype(target)
    return plain.astype(target)


def _to_fp8(x: Any, to: Float, target: np.dtype[Any], saturate: bool) -> Any:
    info = ml_dtypes.finfo(target)
    largest = float(info.max)
    if saturate:  # infinities too become the largest finite value, as ONNX's table says
        return np.where(np.isnan(x), x, np.clip(x, -largest, largest)).astype(target)
    if to.name == "f8e5m2":  # the one with infinities
        return x.astype(target)
    rounded = x.astype(target)
    beyond = np.isinf(x) | (np.abs(x) > largest) & ~(np.abs(rounded.astype(np.float32)) <= largest)
    return np.where(beyond, np.float32(np.nan), x).astype(target)


def _to_e8m0(x: Any, saturate: bool, round_up: bool) -> Any:
    """Powers of two from 2**-127 to 2**127, as a biased exponent byte; 255 is nan."""
    mantissa, exponent = np.frexp(np.abs(x))  # mantissa in [0.5, 1)
    code = exponent + 126 + ((mantissa > 0.5) if round_up else (mantissa >= 0.75))
    code = np.where(x == 0, 0, code)
    top = 254 if saturate else 255
    code = np.where(np.isinf(x), top, np.clip(code, 0, top))
    code = np.where(np.isnan(x), 255, code)
    return code.astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)


def pad_spatial(x: Any, pads: Sequence[int] | None, value: float) -> Any:
    """`x[N, C, *S]` with constant borders on the spatial axes; `pads` lists all befores, then all afters."""
    if not pads or not any(pads):
        return x
    rank = len(pads) // 2
    width = [(0, 0)] * (x.ndim - rank) + [(pads[i], pads[i + rank]) for i in range(rank)]
    room_for([b + d + a for d, (b, a) in zip(x.shape, width, strict=True)])
    return np.pad(x, width, constant_values=value)


def windows(x: Any, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """A view `[N, C, *O, *K]` of all windows over the spatial axes of `x[N, C, *S]`."""
    rank = len(kernel)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(x.ndim - rank, x.ndim)))
    pick = [slice(None)] * (x.ndim - rank) + [slice(None, None, s) for s in strides]
    return view[(*pick, *[slice(None, None, d) for d in dilations])]
