"""Number formats of weights: which real numbers they hold, and how they are stored.

    8 .. 2      integers of that many bits, `scale * (code - zero)`; 6, 5 and 3 bits lie in the next wider storage
    binary      ±scale (Rastegari et al. 2016)          ternary     -scale, 0, scale (Li et al. 2016)
    pow2        ±2**n or 0 in 4 bits                    fp8         f8e4m3fn with a scale

A scale comes in the shape that broadcasts against the weights, so that one code serves tensors, channels and groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ...ir.types import Affine, Elem, Float, Int, Pow2, Sign

__all__ = ["F32", "Format", "format_of", "search_scale"]

F32 = Float("f32")
_STORE = {8: "i8", 7: "i8", 6: "i8", 5: "i8", 4: "i4", 3: "i4", 2: "i2"}
_POW2_BITS = 4
TINY = 1e-30  # weights below it are zeros: scales would not be normal numbers


@dataclass(frozen=True)
class Format:
    """One format. `low` and `high` are the extreme codes of the integer ones."""

    name: str
    bits: float  # in a packed file
    low: int = 0
    high: int = 0

    @property
    def integer(self) -> bool:
        return self.high > self.low

    def round(self, w: Any, scale: Any, zero: Any = 0.0) -> Any:
        """The nearest numbers that the format holds, f32; halves go to even, as in `quant.quantize`."""
        if self.integer:
            return ((np.clip(np.rint(w / scale) + zero, self.low, self.high) - zero) * scale).astype(np.float32)
        if self.name == "binary":
            return np.where(w >= 0, scale, -scale).astype(np.float32)
        if self.name == "fp8":
            return (_fp8(w / scale).astype(np.float32) * scale).astype(np.float32)
        code = self._pow2_codes(w, scale)
        return np.where(code == 0, 0, np.sign(w) * np.exp2(code.astype(np.float32)) * scale / 128).astype(np.float32)

    def codes(self, w: Any, scale: Any, zero: Any = 0.0) -> Any:
        """What is stored for the numbers of `round`."""
        if self.integer:
            code = np.clip(np.rint(w / scale) + zero, self.low, self.high).astype(np.int8)
            return code.astype(self._store.dtype)
        if self.name == "binary":
            return w >= 0
        if self.name == "fp8":
            return _fp8(w / scale)
        return (np.sign(w) * self._pow2_codes(w, scale)).astype(np.int8)

    def elem(self, scale: Any, zero: Any = 0, axis: int | None = None, group: int | None = None) -> Elem:
        """The element type: `scale` and `zero` are numbers or `Constant`s of the shapes that `Affine` wants."""
        if self.integer:
            return Affine(self._store, F32, scale, zero, axis, group)
        if self.name == "binary":
            return Sign(F32, scale, axis)
        if self.name == "fp8":
            return Affine(Float("f8e4m3fn"), F32, scale, 0, axis, group)
        return Pow2(_POW2_BITS, F32, 7 - round(float(np.log2(scale))))

    @property
    def _store(self) -> Int:
        return Int("i2" if self.name == "ternary" else _STORE[int(self.bits)])

    def _pow2_codes(self, w: Any, scale: Any) -> Any:
        """1..7 for scale/64 .. scale, 0 for zero; `scale` is a power of two, the largest magnitude."""
        size = np.abs(w) / scale
        exponent = np.rint(np.log2(np.maximum(size, 2.0**-20))) + 7
        # the smallest magnitude stands for what is at least half of it
        return np.where(size < 2.0**-7, 0, np.clip(exponent, 1, 7)).astype(np.int8)


def _fp8(x: Any) -> Any:
    return np.clip(x, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)


def format_of(name: int | str) -> Format:
    """`format_of(4)`, `format_of("ternary")`. Eight bits leave out -128: then |code| fits in 7 bits everywhere."""
    if name == "ternary":
        return Format("ternary", 2, -1, 1)
    if name == "binary":
        return Format("binary", 1)
    if name == "pow2":
        return Format("pow2", _POW2_BITS)
    if name == "fp8":
        return Format("fp8", 8)
    bits = int(name)
    low = -127 if bits == 8 else -(1 << bits - 1)
    return Format(str(bits), bits, low, (1 << bits - 1) - 1)


def search_scale(w: Any, form: Format, axes: tuple[int, ...], p: float = 2.4, weight: Any = None) -> Any:
    """The scale for each slice of `w` that has the least sum of |w - round(w)|**p; kept dimensions over `axes`.

    p = 2.4 weighs large errors more than their squares do (BRECQ and AdaRound's published code use it for weights).
    `weight` multiplies the errors (the diagonal of a Hessian, for example). p = inf takes the extremes.
    """
    w = w.astype(np.float32, copy=False)
    top = np.abs(w).max(axis=axes, keepdims=True)
    top = np.where(top > TINY, top, 1).astype(np.float32)
    if form.name == "binary":  # the mean of |w| has the least squared error
        found = np.abs(w).mean(axis=axes, keepdims=True)
        return np.where(found > TINY, found, 1).astype(np.float32)
    if form.name == "pow2":
        return np.exp2(np.rint(np.log2(top.max(keepdims=True)))).astype(np.float32).reshape([1] * w.ndim)
    if form.name == "fp8":
        return (top / 448).astype(np.float32)
    # the extreme code meets the extreme weight, on the side that reaches further down
    least = w.min(axis=axes, keepdims=True)
    full = top / form.high
    if form.low < -form.high:
        positive = np.maximum(w.max(axis=axes, keepdims=True), 0) / form.high
        full = np.maximum(np.maximum(positive, np.maximum(-least, 0) / -form.low), top / (1 << 20)).astype(np.float32)
    if p == float("inf"):
        return full
    best, loss = full, np.full(full.shape, np.inf, np.float32)
    for share in _shares(form.high - form.low):
        scale = (full * share).astype(np.float32)
        gap = np.abs(form.round(w, scale) - w)
        # relative to the extreme weight: powers of tiny numbers would vanish
        cost = np.power(gap / top, np.float32(p))
        if weight is not None:
            cost = cost * weight
        cost = cost.sum(axis=axes, keepdims=True)
        better = cost < loss
        best, loss = np.where(better, scale, best), np.where(better, cost, loss)
    return best.astype(np.float32)


def _shares(levels: int) -> Any:
    """Candidate scales beside the one that reaches the extremes: the fewer levels, the further down they go."""
    if levels > 100:
        return np.linspace(1.02, 0.80, 23, dtype=np.float32)
    return np.linspace(1.10 if levels > 3 else 1.3, 0.20, 80, dtype=np.float32)
