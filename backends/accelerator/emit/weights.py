"""Constant weights as a program's loads find them: tile after tile, packed to their bits, compressed or not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..formats import DENSE, Format
from ..isa.compression import compress
from .tiles import Span

__all__ = ["Places", "pack", "packed_weights", "places_of"]

DIMS = ("G", "K", "C", "R", "S")

Places = Mapping[tuple[Span, ...], tuple[int, int, int]]
"""Of each tile, by its spans of (G, K, C, R, S): where it starts, its bytes as stored, its bytes in local memory."""


def packed_weights(
    weights: Any, tiles: Mapping[str, int], bits: int, form: Format = DENSE
) -> tuple[bytes, dict[tuple[Span, ...], tuple[int, int, int]]]:
    """Weights [G, K, C, R, S] tile after tile, [g, k, r, s, c] in a tile, `bits` each, the tile padded to bytes.

    Returns the bytes, and of each tile by the spans of (G, K, C, R, S) where it starts, its bytes as stored, in the
    format `form`, and its bytes in local memory.
    """
    out, places, at = [], {}, 0
    for tile in _tiles(weights.shape, tiles):
        part = weights[tuple(slice(first, first + n) for first, n in tile)].transpose(0, 1, 3, 4, 2)
        codes = pack(part.reshape(-1), bits)
        data = compress(codes, form)
        places[tile] = (at, len(data), len(codes))
        out.append(data)
        at += len(data)
    return b"".join(out), places


def places_of(
    shape: Sequence[int], tiles: Mapping[str, int], bits: int
) -> dict[tuple[Span, ...], tuple[int, int, int]]:
    """The places that `packed_weights` gives the tiles of dense weights of that shape."""
    places, at = {}, 0
    for tile in _tiles(shape, tiles):
        size = -(-math.prod(n for _, n in tile) * bits // 8)
        places[tile] = (at, size, size)
        at += size
    return places


def _tiles(shape: Sequence[int], tiles: Mapping[str, int]) -> Iterator[tuple[Span, ...]]:
    """The spans of (G, K, C, R, S) of every tile, in the order in which they are stored."""
    spans = [[(i, min(tiles[d], n - i)) for i in range(0, n, tiles[d])] for d, n in zip(DIMS, shape, strict=True)]
    return itertools.product(*spans)


def pack(values: Any, bits: int) -> bytes:
    """Integers of 8, 4 or 2 bits, the first in the lowest bits of a byte."""
    raw = np.ascontiguousarray(values).astype(np.int64) & (1 << bits) - 1
    if bits == 8:
        return raw.astype(np.uint8).tobytes()
    per = 8 // bits
    raw = np.concatenate([raw, np.zeros(-len(raw) % per, np.int64)]).reshape(-1, per)
    return (raw << np.arange(per) * bits).sum(1).astype(np.uint8).tobytes()
