"""What stands for a real tensor while a graph becomes integer: codes, sums of products, sums of those, and tables.

| | a real number is | comes from | becomes codes by |
|---|---|---|---|
| `Code` | (raw - zero) * scale | dequantize | a table (rarely needed) |
| `Sums` | raw * scale[channel], clamped | convolution, product, average | `quant.requantize` |
| `Total` | a sum of two of these, clamped | addition | `quant.add` |
| `Mapped` | values[raw] | any function of one code | `quant.table` |
| `Function` | function(sum) | any function of one sum | a finer code, and `quant.table` |
| `Joined` | one beside the other | concatenation | the codes of each part |
| `Moved` | another in another order | reshape, transpose, slice | the same with its codes |
| `Fixed` | a constant, with its codes if it has them | weights, biases | |

Nothing is emitted for them until somebody wants codes, or, where a node stays float, the real numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ...ir.graph import Value
from ...ir.ops.quant import dequantized
from ...ir.types import Affine, Float, Int, Tensor

__all__ = [
    "LIMIT",
    "Code",
    "Fixed",
    "Function",
    "Joined",
    "Live",
    "Mapped",
    "Moved",
    "Problem",
    "Real",
    "Sums",
    "Total",
    "code",
    "fixed",
    "plain_encoding",
    "storage",
]

LIMIT = 1 << 31
"""Sums of products stay below."""


class Problem(Exception):
    """Why a node stays float."""


@dataclass(frozen=True, eq=False)
class Code:
    """(raw - zero) * scale with low <= raw <= high; `raw` is an i8 or u8 tensor, or i32 on the way to a sum.

    `total`, if it is known, bounds the sum of |raw - zero| along the last axis, however long that is.
    """

    raw: Value
    scale: float
    zero: int
    low: int
    high: int
    total: float | None = None

    @property
    def span(self) -> int:
        """The largest |raw - zero|."""
        return max(abs(self.low - self.zero), abs(self.high - self.zero))

    def same_scale(self, other: Code) -> bool:
        return (self.scale, self.zero, self.raw.type.elem) == (other.scale, other.zero, other.raw.type.elem)  # type: ignore[union-attr]

    def reals(self) -> Any:
        """The f32 numbers of every raw value, from the lowest of its type on."""
        first, last = _elem(self.raw).range
        return np.arange(first - self.zero, last - self.zero + 1).astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class Sums:
    """clamp(raw * scale, low, high): int32 sums whose real scale is one number, or one for each entry along `axis`.

    `emit(bias)` makes raw, with an int32 bias a channel added; `bias` is the real one. |raw| is at most `bound`, a
    number or an array along the axis. `total` bounds the sum of |raw| along the last axis, as that of a `Code`.
    """

    emit: Callable[[Any], Value]
    scale: Any
    bound: Any
    axis: int | None = None
    bias: Any = None
    low: float = -np.inf
    high: float = np.inf
    total: float | None = None

    def clamped(self, low: float, high: float) -> Sums:
        return replace(self, low=_clip(self.low, low, high), high=_clip(self.high, low, high))

    @property
    def integers(self) -> Any:
        """The bias in units of the scale: halves to even, as `quant.quantize` has it; f64."""
        scale = np.asarray(self.scale, np.float64)
        biases = np.zeros(scale.shape) if self.bias is None else np.asarray(self.bias, np.float64)
        shape = np.broadcast_shapes(scale.shape, biases.shape)
        usable = np.broadcast_to(scale, shape) > 0
        return np.rint(np.divide(biases, scale, out=np.zeros(shape), where=usable))

    @property
    def largest(self) -> Any:
        """What |raw| may be, bias included."""
        return np.asarray(self.bound, np.float64) + np.abs(self.integers)


@dataclass(frozen=True, eq=False)
class Total:
    """clamp(left + right, low, high)."""

    left: Code | Sums | Total
    right: Code | Sums | Total
    low: float = -np.inf
    high: float = np.inf

    def clamped(self, low: float, high: float) -> Total:
        return replace(self, low=_clip(self.low, low, high), high=_clip(self.high, low, high))


@dataclass(frozen=True, eq=False)
class Mapped:
    """values[raw - the smallest of raw's type]: a function of a code, as floats."""

    code: Code
    values: Any


@dataclass(frozen=True, eq=False)
class Function:
    """of(source), element by element; `of` takes and gives f32 arrays."""

    source: Sums | Total
    of: Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Joined:
    """The parts one after the other along `axis`."""

    parts: tuple[Code | Sums | Total | Mapped | Function | Joined | Moved, ...]
    axis: int


@dataclass(frozen=True, eq=False)
class Moved:
    """move(source): ops that do not compute, such as a transpose, given one operand."""

    source: Sums | Total | Mapped | Function | Joined | Moved
    move: Callable[[Value], Value]


@dataclass(frozen=True, eq=False)
class Fixed:
    """A constant. `codes` are integers in i64 with zero points taken out, `scale` a number or an array along `axis`."""

    reals: Any
    codes: Any = None
    scale: Any = None
    axis: int | None = None


Live: TypeAlias = Code | Sums | Total | Mapped | Function | Joined | Moved
Real: TypeAlias = Live | Fixed


def fixed(array: Any, elem: object) -> Fixed:
    """A constant of an element type."""
    if not isinstance(elem, Affine):
        return Fixed(array)
    reals = dequantized(array, elem).astype(elem.real.dtype)
    if not isinstance(elem.store, Int) or elem.group is not None:
        return Fixed(reals)
    zero, scale = _numbers(elem.zero), _numbers(elem.scale)
    axis = elem.axis if np.ndim(scale) else None
    if np.ndim(scale) > 1 or np.ndim(zero) > 1 or (np.ndim(zero) and elem.axis is None):
        return Fixed(reals)
    if np.ndim(zero):
        zero = zero.reshape([-1 if i == (elem.axis or 0) % array.ndim else 1 for i in range(array.ndim)])
    plain = array.astype(np.int8 if elem.store.signed else np.uint8) if elem.store.bits < 8 else array
    return Fixed(reals, plain.astype(np.int64) - zero, scale, None if axis is None else axis % array.ndim)


def _numbers(value: Any) -> Any:
    """A scale or zero point as a Python number or an array."""
    array = getattr(value, "array", None)
    if array is None:
        return value
    wide = array.astype(np.int64 if array.dtype.kind != "f" else np.float64)
    return wide.reshape(()).item() if wide.size == 1 else wide


def plain_encoding(elem: object) -> bool:
    """Whether activations of an element are one scale and zero point in at most 8 bits, standing for f32."""
    return (
        isinstance(elem, Affine)
        and isinstance(elem.store, Int)
        and elem.store.bits <= 8
        and elem.real is Float("f32")
        and np.size(_numbers(elem.scale)) == 1
        and np.size(_numbers(elem.zero)) == 1
        and float(_numbers(elem.scale)) > 0
        and np.isfinite(float(_numbers(elem.scale)))
    )


def code(raw: Value, elem: Affine) -> Code:
    """Stored numbers of a plain encoding."""
    assert isinstance(elem.store, Int)
    low, high = elem.store.range
    scale, zero = float(np.float32(_numbers(elem.scale))), int(_numbers(elem.zero))
    return Code(raw, scale, zero, low, high)


def storage(elem: Affine) -> Int:
    """What codes lie in while they are computed with: whole bytes."""
    assert isinstance(elem.store, Int)
    return Int("i8" if elem.store.signed else "u8")


def _elem(value: Value) -> Int:
    assert isinstance(value.type, Tensor)
    assert isinstance(value.type.elem, Int)
    return value.type.elem


def _clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)
