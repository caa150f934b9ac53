"""From a histogram of activations to the range that their codes cover, and from a range to scale and zero point."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ...ir.types import Affine, Int
from .formats import F32
from .histogram import Histogram

__all__ = ["Method", "affine", "choose"]

Method = Literal["minmax", "percentile", "entropy", "mse", "l2.4"]

PERCENTILE = 99.99


def choose(histogram: Histogram, method: Method, bits: int, symmetric: bool = False) -> tuple[float, float]:
    """The range (low <= 0 <= high) for codes of `bits` bits.

    minmax      what was seen
    percentile  without the outermost 0.01 % on each side that has more than rounding to it
    entropy     least Kullback-Leibler divergence (Migacz 2017), of clipped from original
    mse, l2.4   least mean |x - Q(x)|**p, starting from a percentile that only single outliers exceed
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    if method == "minmax" or histogram.low >= histogram.high:
        return low, high
    if method == "percentile":
        a, b = _quantiles(histogram, 100 - PERCENTILE)
        a, b = max(low, min(a, 0.0)), min(high, max(b, 0.0))
        return (-max(-a, b), max(-a, b)) if symmetric else (a, b)
    if method == "entropy":
        return _search(histogram, low, high, bits, symmetric, _Divergence(histogram))
    return _search(histogram, low, high, bits, symmetric, _Power(histogram, 2.4 if method == "l2.4" else 2.0))


def affine(low: float, high: float, bits: int, symmetric: bool = False) -> Affine:
    """The encoding that covers [low, high], zero included: unsigned with a zero point, or signed without."""
    levels = (1 << bits) - 1
    if symmetric:
        top = max(-low, high)
        return Affine(Int(f"i{bits}"), F32, _scale(top / (levels // 2)), 0)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _scale((high - low) / levels)
    return Affine(Int(f"u{bits}"), F32, scale, int(np.clip(np.rint(-low / scale), 0, levels)))


def _scale(x: float) -> float:
    """A scale that is exact in f32 (the type prints it), and never 0: constant activations have no extent."""
    return float(np.float32(x)) if x > 1e-30 else 1.0


def _quantiles(histogram: Histogram, percent: float) -> tuple[float, float]:
    """The values that `percent` of all lie below and above."""
    reached = np.cumsum(histogram.counts)
    share = percent / 100 * reached[-1]
    values = histogram.values
    below = int(np.searchsorted(reached, share, side="right"))
    above = int(np.searchsorted(reached, reached[-1] - share, side="left"))
    return float(values[min(below, len(values) - 1)]), float(values[min(above, len(values) - 1)])


def _search(
    histogram: Histogram, low: float, high: float, bits: int, symmetric: bool, loss: Any
) -> tuple[float, float]:
    """The best pair of ends: from a coarse grid to steps that become finer and finer."""
    ends, least = (low, high), loss(low, high, bits, symmetric)
    step = 1.25 if symmetric or low == 0 or high == 0 else 1.5
    shares = [step**-k for k in range(math.ceil(math.log(200) / math.log(step)))]
    alike = symmetric or low == 0 or high == 0
    tried = [(low * a, high * b) for a in shares for b in ([a] if alike else shares)]
    for _ in range(6):
        for _ in range(4):
            losses = [loss(a, b, bits, symmetric) for a, b in tried]
            best = int(np.argmin(losses))
            if losses[best] < least:
                ends, least = tried[best], losses[best]
            elif len(tried) <= 9:
                break
            moves = (1 / step, 1.0, step)
            tried = [(ends[0] * a, ends[1] * b) for a in moves for b in ([a] if alike else moves)]
            tried = [(max(low, a), min(high, b)) for a, b in tried]
        step = math.sqrt(step)
        moves = (1 / step, 1.0, step)
        tried = [(max(low, ends[0] * a), min(high, ends[1] * b)) for a in moves for b in ([a] if alike else moves)]
    return float(ends[0]), float(ends[1])


class _Power:
    """Mean |x - Q(x)|**p of a histogram for a range."""

    def __init__(self, histogram: Histogram, p: float) -> None:
        kept = histogram.counts > 0
        self.values, self.counts, self.p = histogram.values[kept], histogram.counts[kept], p

    def __call__(self, low: float, high: float, bits: int, symmetric: bool) -> float:
        if not high > low:
            return float("inf")
        e = affine(low, high, bits, symmetric)
        scale, zero = float(e.scale), float(e.zero)  # type: ignore[arg-type]
        first, last = e.store.range  # type: ignore[union-attr]
        code = np.clip(np.rint(self.values / scale) + zero, first, last)
        gap = np.abs((code - zero) * scale - self.values)
        return float(np.dot(gap**self.p, self.counts))


class _Divergence:
    """KL divergence of the original distribution from the clipped and quantised one."""

    def __init__(self, histogram: Histogram) -> None:
        # what is exactly or nearly zero after a ReLU is represented whatever the range; it would drown the rest
        kept = (histogram.counts > 0) & (np.abs(histogram.values) > 1e-3 * max(histogram.high, -histogram.low))
        self.values, self.counts = histogram.values[kept], histogram.counts[kept].astype(np.float64)

    def __call__(self, low: float, high: float, bits: int, symmetric: bool) -> float:
        if not high > low or not self.counts.size:
            return float("inf")
        levels = (1 << bits) - 1
        scale = (high - low) / levels
        code = np.clip(np.rint((self.values - low) / scale), 0, levels).astype(np.int64)
        inside = (self.values >= low) & (self.values <= high)
        # P: the clipped mass lies in the outermost levels; Q: each level's mass, spread evenly over its bins
        p = np.where(inside, self.counts, 0.0)
        bins = np.bincount(code, inside, levels + 1)
        q = np.where(inside, np.bincount(code, p, levels + 1)[code] / np.maximum(bins[code], 1), 0.0)
        outside = self.counts[~inside]
        edge_low, edge_high = self._edges(low, high)
        if edge_low is not None:
            p[edge_low] += outside[self.values[~inside] < low].sum()
        if edge_high is not None:
            p[edge_high] += outside[self.values[~inside] > high].sum()
        p, q = p / p.sum() if p.sum() else p, q / q.sum() if q.sum() else q
        there = p > 0
        return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))))

    def _edges(self, low: float, high: float) -> tuple[int | None, int | None]:
        inside = np.flatnonzero((self.values >= low) & (self.values <= high))
        return (int(inside[0]), int(inside[-1])) if inside.size else (None, None)
