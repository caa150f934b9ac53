"""How far the integer forms of softmax, norms and functions are from the exact ones, at most: what the ledger is told.

A result y is off by at most `abs + rel |y|` before it is rounded to a code. Each bound follows from those of the steps:

* Softmax, y = e / S with e = exp(-d) and 1 <= S <= n. A table has exponentials with an error of a few units `b` of
  2**-15, and of a part `r` of themselves where d is no code but rounded: e (1 + r) + b over S (1 + r) + n b. That is
  off by (2 r + n b) y + b, over 1 - r - n b; and half a unit of 2**-14 from the division.
* Layer norm of codes, y = d / D. The deviation's square is a whole number of units that are n times smaller than a
  step, rounded down, and eps rounded to at least one of them: off by 1.5 at most. Its root has 8 bits more. Unless all
  codes are equal the square is n - 1 at least, so D is off by a part of itself that only depends on n; then y loses
  2**-12 by the division, and half of that where the bias is added.
* A function of one code is exact. A function of sums is a table of a fine code of them: off by what it changes between
  two entries, where it has no turn between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .norms import EXPONENTIALS, FINE, NORMAL, OCTAVE, PROBABILITIES, RATIO, ROOT

__all__ = ["Bound", "function_bound", "layer_norm_bound", "softmax_bound"]


@dataclass(frozen=True)
class Bound:
    """|result - y| <= abs + rel |y| for the exact y."""

    abs: float
    rel: float = 0.0

    def __str__(self) -> str:
        return f"{self.abs:.1e}" + (f" + {self.rel:.1e} |y|" if self.rel else "")


def softmax_bound(count: int, codes: bool) -> Bound:
    """Of `count` numbers, which are codes or floats; infinite where there are too many for a bound."""
    if codes:
        part, units = 0.0, 0.5
    else:
        # d to 10 bits, their number times a factor of 18 bits, to steps of an octave; exponentials shifted to the right
        exact = OCTAVE / math.log(2) * 2.0 ** (RATIO - FINE)
        ratio = abs(round(exact) / exact - 1)
        longest = (EXPONENTIALS + 1) * math.log(2)
        exponent = math.log(2) / (2 * OCTAVE) + 2.0 ** -(FINE + 1) + ratio * longest + 2.0**-22 * longest
        part, units = math.expm1(exponent), 1.5
    unit = units * 2.0**-EXPONENTIALS
    rest = 1 - part - count * unit
    if rest <= 0:
        return Bound(math.inf)
    return Bound(unit / rest + 2.0 ** -(PROBABILITIES + 1) * (1 + 2.0**-EXPONENTIALS), (2 * part + count * unit) / rest)


def layer_norm_bound(count: int, gain: Any) -> Bound:
    """Of rows of `count` codes, for the normalised row times `gain`, in terms of that product."""
    largest = float(np.abs(gain).max(initial=0.0))
    least = math.sqrt(max(count - 1 - 1.5, 1.0))  # of the deviation as it is computed
    off = 2.0**-ROOT + 1.5 / (least + math.sqrt(max(count - 1, 1)))
    part = off / (least - 2.0**-ROOT)
    return Bound(1.5 * 2.0**-NORMAL * largest, part)


def function_bound(of: Callable[[Any], Any], low: float, high: float, entries: int) -> Bound:
    """Of a function of sums whose table has so many entries between `low` and `high`."""
    values = np.asarray(of(np.linspace(low, high, entries).astype(np.float32)), np.float64)
    return Bound(float(np.abs(np.diff(values)).max(initial=0.0)))
