"""From int32 sums back to bytes by fixed-point numbers, as `ir.ops.quant_integer` defines it, for epilogues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...api import modules
from ..emit import Emitter
from ..kernel import Expr

__all__ = ["Rescale", "clamp_cast", "rescale", "rescale_high", "rescale_vector"]

Array = npt.NDArray[Any]


def rescale(acc: Expr, multiplier: Expr, shift: Expr) -> Expr:
    """floor(acc * multiplier / 2**shift + 1/2) as int64, for any shift from 1 to 62."""
    tirx = modules().tirx
    shift = tirx.Cast("int64", shift)
    half = tirx.const(1, "int64") << (shift - tirx.const(1, "int64"))
    return (tirx.Cast("int64", acc) * tirx.Cast("int64", multiplier) + half) >> shift


def rescale_high(acc: Expr, multiplier: Expr, half: Expr, rest: Expr) -> Expr:
    """The same as int32, for shifts of 32 and more: `half` is 2**(shift - 1) in int64, `rest` is shift - 32.

    Vectors of eight int64 only multiply and add; the upper halves are one vector of sixteen again, and floor(floor(x /
    2**32) / 2**rest) is the floor of the whole.
    """
    tirx = modules().tirx
    product = tirx.Cast("int64", acc) * tirx.Cast("int64", multiplier) + half
    high = tirx.Cast("int32", product >> tirx.const(32, "int64"))
    return high if isinstance(rest, int) and rest == 0 else high >> rest


def clamp_cast(value: Expr, zero: int, low: int, high: int, dtype: str) -> Expr:
    """min(max(value + zero, low), high) in `dtype`."""
    tirx = modules().tirx
    wide = str(value.ty.dtype)
    moved = value + tirx.const(zero, wide) if zero else value
    return tirx.Cast(dtype, tirx.min(tirx.max(moved, tirx.const(low, wide)), tirx.const(high, wide)))


@dataclass(frozen=True, eq=False)
class Rescale:
    """multiplier[C] / 2**shift[C] and a zero point, applied to sums while they are in registers.

    With shifts of 33 and more the half that rounds is a whole number of 2**32, and so is the zero point, so that only
    the upper halves of the products are needed, and one sum and one shift of them.
    """

    multiplier: Array
    shift: Array
    zero: int

    @classmethod
    def of(cls, multiplier: Array, shift: Array, zero: int, channels: int) -> Rescale | None:
        """None where a shift is too small, or where the sum could exceed 32 bits."""
        if multiplier.min(initial=0) < 0 or shift.min(initial=63) < 33:
            return None
        wide = [np.broadcast_to(a, (channels,)).astype(np.int64) for a in (multiplier, shift)]
        made = cls(wide[0], wide[1], zero)
        return made if np.abs(made._added).max(initial=0) < 1 << 30 else None

    @classmethod
    def single(cls, multiplier: Array, shift: Array, zero: int) -> Rescale | None:
        """One factor for all sums; None where there are several, too."""
        if any(np.unique(a).size != 1 for a in (multiplier, shift)):
            return None
        return cls.of(multiplier.reshape(-1)[:1], shift.reshape(-1)[:1], zero, 1)

    @property
    def _added(self) -> Array:
        rest = self.shift - 32
        return (np.int64(1) << (rest - 1)) + (np.int64(self.zero) << rest)

    def constants(self, channels: slice, width: int) -> Array:
        """For a tile of `width` channels: multipliers, what is added, and shifts, as int8 [12 * width]."""
        table = np.zeros((3, width), np.int32)
        for row, values in zip(table, (self.multiplier, self._added, self.shift - 32), strict=True):
            some = values[channels][:width]
            row[: len(some)] = some
        return table.view(np.int8).reshape(-1)

    def uniform(self, emit: Emitter, acc: Expr, lanes: int) -> Expr:
        """A vector of sums, rescaled by the one factor there is (`single`)."""
        numbers = [int(v[0]) for v in (self.multiplier, self._added, self.shift - 32)]
        multiplier, added, rest = (emit.splat_of(n, "int32", lanes) for n in numbers)
        return rescale_vector(emit, acc, multiplier, added, rest, lanes)


def rescale_vector(emit: Emitter, acc: Expr, multiplier: Expr, added: Expr, rest: Expr, lanes: int) -> Expr:
    """A vector of `lanes` sums, rescaled by vectors from `Rescale.constants`: two vpmuldq, one for every other lane."""
    wide, half = f"int64x{lanes // 2}", lanes // 2
    x, m = emit.bits(acc, wide), emit.bits(multiplier, wide)
    by32 = emit.splat_of(32, "int64", half)
    even = ((x << by32) >> by32) * (m & emit.splat_of(0x7FFFFFFF, "int64", half))
    odd = (x >> by32) * (m >> by32)
    pair = [emit.bits(v, f"int32x{lanes}") for v in (even, odd)]
    high = emit.shuffle(pair, [i | 1 if i % 2 == 0 else i + lanes for i in range(lanes)])
    return (high + added) >> rest
