"""Tilings of loops, counted exactly: how many tiles there are, how large, and what of the input they touch.

A *chain* tiles one loop from the outside in: extent, tile of every shared memory, tile of the array, tile of one
processing element. A tile that does not divide the one around it leaves a smaller one at the edge; nothing below rounds
that up: sizes are kept as classes (size, how many), one full and a few edges.

All functions take arrays of tile sizes and return arrays, one entry per candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Axis", "Classes", "distinct", "loaded", "nested", "sizes_of", "span", "touched"]

Array = npt.NDArray[Any]
Axis = tuple[int, int, int, int, int, int]
"""(outputs, window, stride, dilation, pad, image)"""
Classes = list[tuple[Array, Array]]
"""(size, how many) of the tiles of one level; a class may be empty."""


def sizes_of(extent: int, *, divisors: bool = False) -> tuple[int, ...]:
    """The tile sizes worth trying: for every number of tiles the smallest size that needs no more; ascending.

    Among tiles of one count the smallest is best everywhere: it needs least memory and leaves the most even edge.
    """
    if divisors:
        return tuple(d for d in range(1, extent + 1) if extent % d == 0)
    return tuple(sorted({-(-extent // n) for n in range(1, extent + 1)}))


def nested(extent: int, tiles: Sequence[Array]) -> tuple[list[Array], list[Classes]]:
    """Of each level of a chain: the number of its tiles in the whole loop, and their size classes."""
    one = np.ones(np.broadcast_shapes(*(t.shape for t in tiles)) if tiles else (), np.int64)
    classes: Classes = [(one * extent, one)]
    counts, levels = [], []
    for tile in tiles:
        full, edges = np.zeros_like(one), []
        for size, many in classes:
            full = full + many * (size // tile)
            edges.append((size % tile, many))
        classes = [(tile * one, full), *edges]
        counts.append(full + sum((np.where(size > 0, many, 0) for size, many in edges), np.zeros_like(one)))
        levels.append(classes)
    return counts, levels


def distinct(p: Array, r: Array, stride: int, dilation: int) -> Array:
    """How many input coordinates p outputs and r window elements touch: the size of {i*stride + j*dilation}.

    Two pairs (i, j) meet exactly when they differ by multiples of (dilation/g, -stride/g), g the greatest common
    divisor, so of the p*r pairs (p - dilation/g)(r - stride/g) are repeats.
    """
    g = gcd(stride, dilation)
    return p * r - np.maximum(p - dilation // g, 0) * np.maximum(r - stride // g, 0)


def span(axis: Axis, p: Classes, r: Classes) -> Array:
    """Input coordinates touched by every pair of tiles, summed; pads are counted as coordinates."""
    _, _, stride, dilation, _, _ = axis
    total: Any = 0
    for a, many in p:
        for b, times in r:
            total = total + many * times * np.where((a > 0) & (b > 0), distinct(a, b, stride, dilation), 0)
    return np.asarray(total)


def touched(axis: Axis) -> int:
    """Coordinates of the image that the whole axis touches."""
    return loaded(axis, axis[0], axis[1])


@lru_cache(maxsize=65536)
def loaded(axis: Axis, tile_p: int, tile_r: int) -> int:
    """Coordinates of the image, pads not among them, that each pair of tiles touches, summed over the pairs."""
    outputs, window, stride, dilation, pad, image = axis
    total = 0
    for r0 in range(0, window, tile_r):
        r1 = min(window, r0 + tile_r)
        starts = np.arange(0, outputs, tile_p)
        ends = np.minimum(starts + tile_p, outputs)
        if dilation == 1 and (stride <= r1 - r0 or tile_p == 1):  # one piece without holes
            low = starts * stride + r0 - pad
            high = (ends - 1) * stride + r1 - pad
            total += int(np.maximum(np.minimum(high, image) - np.maximum(low, 0), 0).sum())
            continue
        at = np.arange(outputs)[:, None] * stride + np.arange(r0, r1)[None] * dilation - pad  # [P, R tile]
        seen = np.zeros((outputs, image), bool)
        i, j = np.nonzero((at >= 0) & (at < image))
        seen[i, at[i, j]] = True
        total += int(np.logical_or.reduceat(seen, starts, axis=0).sum())
    return total
