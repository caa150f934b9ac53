"""`quant` on raw integers: what a quantised network computes where there are no floats.

    sums    = quant.conv(x u8, w i8, bias i32) {zero = 128} : i32       (x - 128) * w + bias, exact
    y       = quant.requantize(sums, multiplier, shift) {to = u8, zero = 3, low = 3}
    z       = quant.add(y, r) {...}                                     both rescaled, one rounding
    t       = quant.table(z, table)                                     any function of 8 bits

There is one rule of rounding, for every backend: a real factor is a fixed-point number `multiplier / 2**shift` with a
multiplier of 31 bits, the product is exact in 64 bits, and it is rounded once, halves up:

    y = clamp(zero + floor((x * multiplier + 2**(shift - 1)) / 2**shift), low, high)

which is a product, a sum and an arithmetic shift (Jacob et al., Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference, 2018, section 2.2, rounds twice; one rounding is closer and cheaper).
A rectifier is `low = zero`, ReLU6 a `high`: clamping comes free of charge.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..diagnostics import error
from ..dims import Extent, Shape, floor_div
from ..op import Ints, elementwise, monotone, op
from ..shapes import shape_function
from ..types import Elem, Int
from ._numpy import pad_spatial, windows
from .nn import _conv_flops, _matmul_flops, _ones, _pool_pads

__all__ = [
    "add",
    "conv",
    "fixed_point",
    "isqrt",
    "matmul",
    "pack_bits",
    "requantize",
    "rescaled",
    "sign_matmul",
    "sum_pool",
    "table",
]

SHIFTS = (1, 62)
"""What fits an int32 times 31 bits, plus the half, into an int64."""


def fixed_point(factor: Any) -> tuple[Any, Any]:
    """Positive real factors as (multiplier, shift) in int32: the nearest multiplier / 2**shift of 31 bits.

    The relative error is at most 2**-31. Factors below 2**-33 are 0 (they take every int32 to 0), those of 2**30 and
    more the largest there is.
    """
    fraction, exponent = np.frexp(np.asarray(factor, np.float64))
    multiplier = np.rint(fraction * 2.0**31).astype(np.int64)
    carried = multiplier == 1 << 31
    multiplier, exponent = np.where(carried, 1 << 30, multiplier), exponent + carried
    shift = 31 - exponent.astype(np.int64)
    low, high = SHIFTS
    multiplier = np.where(shift > high, 0, np.where(shift < low, (1 << 31) - 1, multiplier))
    return multiplier.astype(np.int32), np.clip(shift, low, high).astype(np.int32)


def rescaled(x: Any, multiplier: Any, shift: Any) -> Any:
    """floor(x * multiplier / 2**shift + 1/2) in int64: the rule of the module."""
    shift = np.asarray(shift, np.int64)
    half = np.left_shift(np.int64(1), shift - 1)
    return (np.asarray(x, np.int64) * np.asarray(multiplier, np.int64) + half) >> shift


def _clamped(y: Any, to: Elem, zero: int, low: int | None, high: int | None) -> Any:
    assert isinstance(to, Int)
    least, most = to.range
    return np.clip(y + zero, least if low is None else low, most if high is None else high).astype(to.dtype)


def _exact_float(x: Any, w: Any, axes: tuple[int, ...]) -> Any:
    """The narrowest float in which every partial sum of x times w, over those axes of w, is exact."""
    span = max(int(x.max(initial=0)), -int(x.min(initial=0)))  # the smallest int32 has no absolute value
    largest = float(span) * float(np.abs(w.astype(np.float64)).sum(axes).max(initial=0))
    return np.float32 if largest < 1 << 24 else np.float64


def _moved(x: Any, zero: int) -> Any:
    return np.asarray(x).astype(np.int32) - np.int32(zero)


@op(
    "quant.conv",
    "x: I[N, g*C, *S], w: I2[M, C, *K], b: i32[M]? -> i32[N, M, *window(S, K)]",
    flops=lambda x, w, b=None, *, zero=0, **attrs: _conv_flops(x, w, b, **attrs),
)
def conv(
    x,
    w,
    b=None,
    *,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    g: int = 1,
    zero: int = 0,
):
    """`nn.conv` of x - zero, in i32: the padding holds `zero`, so that it stands for the real number 0.

    Whoever writes the op sees to it that the sums fit (pass `integer` proves it).
    """
    rank = w.ndim - 2
    x, w = _moved(x, zero), w.astype(np.int32)
    real = _exact_float(x, w, tuple(range(1, w.ndim)))
    kernel = w.astype(real)
    step, gap = _ones(strides, rank), _ones(dilations, rank)
    count = max(1, _IM2COL // max(1, x[0].size * math.prod(w.shape[2:]))) if len(x) else 1
    parts = [_conv_part(x[i : i + count], kernel, step, pads, gap, g) for i in range(0, max(len(x), 1), count)]
    y = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return y if b is None else y + b.reshape(-1, *[1] * rank)


_IM2COL = 1 << 23  # elements at a time


def _conv_part(x: Any, w: Any, strides: Any, pads: Any, dilations: Any, g: int) -> Any:
    rank = w.ndim - 2
    view = windows(pad_spatial(x.astype(w.dtype), pads, 0), w.shape[2:], strides, dilations)
    n, spatial, m = len(x), view.shape[2 : 2 + rank], w.shape[0]
    if w.shape[1] == 1 and g == m:  # depthwise: tap after tap, no matrix product in it
        y = np.zeros((n, m, *spatial), w.dtype)
        for at in np.ndindex(*w.shape[2:]):
            y += view[(..., *at)] * w[(slice(None), 0, *at)].reshape(-1, *[1] * rank)
        return y.astype(np.int64).astype(np.int32)
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    columns = view.transpose(order).reshape(n, g, -1, math.prod(spatial))
    y = np.matmul(w.reshape(g, m // g, -1)[None], columns)
    return y.reshape(n, m, *spatial).astype(np.int64).astype(np.int32)


@op(
    "quant.matmul",
    "a: I[*A], b: I2[*B], c: i32[N]? -> i32[*matmul_shape(A, B)]",
    flops=lambda a, b, c=None, **_: _matmul_flops(a, b),
)
def matmul(a, b, c=None, *, a_zero: int = 0, b_zero: int = 0):
    """`nn.matmul` of a - a_zero and b - b_zero in i32, plus c in every row."""
    x, y = _moved(a, a_zero), _moved(b, b_zero)
    real = _exact_float(x, y, (max(y.ndim - 2, 0),))
    z = np.asarray(np.matmul(x.astype(real), y.astype(real))).astype(np.int64).astype(np.int32)
    return z if c is None else z + c


@op("quant.requantize", "x: I[*S], multiplier: i32[*C], shift: i32[*C] -> to[*S]")
def requantize(
    x, multiplier, shift, *, to: Elem, zero: int = 0, low: int | None = None, high: int | None = None, axis: int = 1
):
    """x * multiplier / 2**shift, rounded once, halves up, plus `zero`, clamped to [low, high] (the range of `to`).

    One factor for all (scalars), or one for each entry along `axis`. Multipliers are not negative, shifts 1 to 62.
    """
    if np.ndim(multiplier):
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        multiplier, shift = multiplier.reshape(shape), shift.reshape(shape)
    return _clamped(rescaled(x, multiplier, shift), to, zero, low, high)


@op("quant.add", "a: I[*A], b: I2[*B] -> to[*broadcast(A, B)]")
def add(
    a,
    b,
    *,
    to: Elem,
    a_multiplier: int,
    b_multiplier: int,
    shift: int,
    a_zero: int = 0,
    b_zero: int = 0,
    zero: int = 0,
    low: int | None = None,
    high: int | None = None,
):
    """The sum of two numbers of different scales: ((a - a_zero) a_multiplier + (b - b_zero) b_multiplier) / 2**shift.

    Both operands are shifted to the left by as much (the multipliers have that in them) and the sum is rounded once,
    halves up; `zero`, `low` and `high` as in `quant.requantize`.
    """
    left = (np.asarray(a, np.int64) - a_zero) * a_multiplier
    right = (np.asarray(b, np.int64) - b_zero) * b_multiplier
    return _clamped(rescaled(left + right, 1, shift), to, zero, low, high)


def _pool_flops(x: Shape, *, kernel: Ints, **_: Any) -> Extent:
    total: Extent = math.prod(kernel)
    for d in x:
        total = total * d
    return total


@op("quant.sum_pool", "x: I[N, C, *S] -> i32[N, C, *pool(S)]", flops=_pool_flops)
def sum_pool(
    x,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil: bool = False,
    zero: int = 0,
):
    """The sum of x - zero over each window, padding counts as 0: an average pool when requantised by 1 / count."""
    rank = len(kernel)
    room, out = _pool_pads(x, kernel, strides, pads, dilations, ceil)
    wide = _moved(x, zero)
    if not any(room) and tuple(kernel) == x.shape[2:]:
        return wide.sum(tuple(range(2, 2 + rank)), dtype=np.int32, keepdims=True)
    view = windows(pad_spatial(wide, room, 0), kernel, _ones(strides, rank), _ones(dilations, rank))
    view = view[(slice(None), slice(None), *[slice(0, o) for o in out])]
    return view.sum(tuple(range(2 + rank, 2 + 2 * rank)), dtype=np.int32)


@op("quant.table", "x: I[*S], table: T[K] -> T[*S]")
def table(x, table, *, first: int | None = None):
    """table[x - first], where `first` is the smallest number of x's type if it is absent: any function of few bits.

    Numbers that the table has no entry for take the one at its nearer end.
    """
    from ..types import elem_of

    lowest = int(elem_of(x.dtype).range[0]) if first is None else first  # type: ignore[union-attr]
    return np.asarray(table[np.clip(x.astype(np.int64) - lowest, 0, len(table) - 1)])


@op("quant.isqrt", "x: I[*S] -> I[*S]", elementwise, monotone("x"))
def isqrt(x):
    """The largest integer whose square is at most x, for x below 2**52; 0 for negative x."""
    wide = np.clip(x, 0, 1 << 52).astype(np.int64)
    root = np.sqrt(wide.astype(np.float64)).astype(np.int64)
    return (root - (root * root > wide)).astype(x.dtype)


# --- single bits ----------------------------------------------------------------------------------------------------

WORD = 32


@shape_function
def packed(s: Shape) -> Shape:
    """The last axis in words of 32 bits."""
    if not s:
        raise error("IG0207", "a scalar has no bits to pack")
    return (*s[:-1], floor_div(s[-1] + (WORD - 1), WORD))


@op("quant.pack_bits", "x: I[*S] -> i32[*packed(S)]")
def pack_bits(x, *, bit: int = 0):
    """One bit of x, counted from the smallest of x's type, 32 numbers along the last axis to a word, lowest bit first.

    Read as signs (1 is +1, 0 is -1), the planes c_m of an M-bit code q give 2 q - (2**M - 1) = sum_m 2**m c_m.
    """
    from ..types import elem_of

    lowest = int(elem_of(x.dtype).range[0])  # type: ignore[union-attr]
    ones = ((x.astype(np.int64) - lowest) >> bit & 1).astype(np.uint8)
    spare = -ones.shape[-1] % WORD
    padded = np.pad(ones, [(0, 0)] * (x.ndim - 1) + [(0, spare)])
    return np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little")).view(np.int32)


@op(
    "quant.sign_matmul",
    "a: i32[*S, W], b: i32[N, W] -> i32[*S, N]",
    flops=lambda a, b, *, depth: _matmul_flops((*a[:-1], depth), (depth, b[0])),
)
def sign_matmul(a, b, *, depth: int):
    """a @ b^T of `depth` signs in words of 32 bits (see `quant.pack_bits`): depth - 2 (the number that differs)."""
    rows, columns = a.view(np.uint32).reshape(-1, 1, a.shape[-1]), b.view(np.uint32)
    step = max(1, (1 << 24) // max(1, b.size))
    starts = range(0, max(len(rows), 1), step)
    parts = [np.bitwise_count(rows[i : i + step] ^ columns).sum(-1, dtype=np.int32) for i in starts]
    return (np.int32(depth) - 2 * np.concatenate(parts)).reshape(*a.shape[:-1], len(b))
