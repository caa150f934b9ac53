"""A histogram of a stream of numbers whose range is not known in advance.

Bins are the multiples of a power of two; when the numbers outgrow them, pairs of bins are merged. What comes out
depends on the numbers only, not on how they were cut into batches or in which order they came.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["BINS", "Histogram"]

BINS = 4096
MOST = 1 << 21  # numbers of one batch that are counted: a regular sample, the extremes are exact all the same


class Histogram:
    """`update` it with arrays, then read `low`, `high` (exact), `values` (centres of bins) and `counts`."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.total = 0  # numbers seen, counted or not
        self.finite = True
        self._power = -149  # bins are 2**power wide: the smallest float to begin with
        self._start = 0  # index of the first bin: it begins at start * 2**power
        self._counts = np.zeros(0, np.int64)

    def update(self, array: Any) -> None:
        """Count the numbers of `array`; a nan or an infinity is remembered in `finite` and not counted."""
        flat = np.asarray(array).reshape(-1)
        self.total += flat.size
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            flat = flat[np.isfinite(flat)]
            if not flat.size:
                return
            low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._coarsen(_power(self.low, self.high))
        if flat.size > MOST:
            flat = flat[:: -(-flat.size // MOST)]
        start = math.floor(math.ldexp(low, -self._power))
        index = np.floor(flat.astype(np.float64) * math.ldexp(1.0, -self._power)).astype(np.int64) - start
        self._add(start, np.bincount(index))

    def merge(self, other: Histogram) -> None:
        """Count what `other` has counted."""
        self.total += other.total
        self.finite &= other.finite
        if not other._counts.size:
            return
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._coarsen(max(_power(self.low, self.high), other._power))
        start, counts = _coarse(other._start, other._counts, self._power - other._power)
        self._add(start, counts)

    @property
    def counts(self) -> Any:
        """How many numbers fell into each bin, i64[bins]."""
        return self._counts

    @property
    def values(self) -> Any:
        """The middle of each bin, f64[bins]; those of the outermost never lie beyond the extremes."""
        middle = (self._start + np.arange(len(self._counts)) + 0.5) * math.ldexp(1.0, self._power)
        return np.clip(middle, self.low, self.high)

    def _coarsen(self, power: int) -> None:
        if power > self._power:
            if self._counts.size:
                self._start, self._counts = _coarse(self._start, self._counts, power - self._power)
            self._power = power

    def _add(self, start: int, counts: Any) -> None:
        if not self._counts.size:
            self._start, self._counts = start, counts.astype(np.int64)
            return
        first = min(start, self._start)
        last = max(start + len(counts), self._start + len(self._counts))
        made = np.zeros(last - first, np.int64)
        made[self._start - first :][: len(self._counts)] += self._counts
        made[start - first :][: len(counts)] += counts
        self._start, self._counts = first, made


def _power(low: float, high: float) -> int:
    """The finest bins of which BINS cover the range."""
    span = max(high - low, abs(high) * 2**-20, abs(low) * 2**-20, 2.0**-120)
    return math.ceil(math.log2(span / BINS)) if span < math.inf else 1024


def _coarse(start: int, counts: Any, powers: int) -> tuple[int, Any]:
    """Bins 2**powers times as wide."""
    if not powers:
        return start, counts
    index = (
        (start + np.arange(len(counts), dtype=object)) >> powers
        if powers > 62
        else (start + np.arange(len(counts), dtype=np.int64)) >> powers
    )
    first = int(index[0])
    return first, np.bincount((index - first).astype(np.int64), counts).astype(np.int64)
