"""Tables of tilings: what `tiling.py` counts, for every candidate of every loop, computed once a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .layer import DIMS, Layer
from .tiling import Array, Classes, distinct, loaded, nested, span

__all__ = ["Chains"]


class Chains:
    """Tilings of the eight loops of a layer, each a table of candidates; a mapping is an entry of every table.

    `tiles[d]`: [levels, candidates]: shared tiers 1..J, the array, the element. Pair tables join P with R and Q with S.
    """

    def __init__(self, layer: Layer, tiles: Mapping[str, Array]) -> None:
        self.layer = layer
        self.tiles = {d: np.asarray(tiles[d], np.int64) for d in DIMS}
        self.counts: dict[str, Array] = {}
        self.steps: dict[str, Array] = {}
        self._classes: dict[str, list[Classes]] = {}
        for d, table in self.tiles.items():
            counts, classes = nested(layer.extent[d], list(table))
            self.counts[d] = np.stack(counts)  # [levels, candidates]
            element = table[-1]
            self.steps[d] = sum((np.minimum(size, element) * many for size, many in classes[-2]), 0 * element)
            self._classes[d] = classes
        self.levels = len(self.tiles["K"])
        self._pairs: dict[Any, Array] = {}

    def first(self, d: str, tier: int) -> Array:
        """Elements along a loop that the first array tile of every tile of a tier uses, summed over the tiles."""
        key = ("first", d, tier)
        if key not in self._pairs:
            array, element = self.tiles[d][-2], self.tiles[d][-1]
            extent = np.full_like(array, self.layer.extent[d])
            of: Classes = self._classes[d][tier - 1] if tier else [(extent, np.ones_like(array))]
            self._pairs[key] = sum((-(-np.minimum(size, array) // element) * many for size, many in of), 0 * array)
        return self._pairs[key]

    def pair(self, what: str, axis: int, level: int) -> Array:
        """A table [P candidates, R candidates]: `tile` coordinates of the largest tile, `span` of all of them,
        `load` those loaded from the outermost memory, `sweep` the same with the halo kept."""
        key = (what, axis, level)
        if key not in self._pairs:
            self._pairs[key] = self._make(what, axis, level)
        return self._pairs[key]

    def _make(self, what: str, axis: int, level: int) -> Array:
        a, b = ("P", "R") if axis == 0 else ("Q", "S")
        of = self.layer.axis(axis)
        p, r = self.tiles[a][level], self.tiles[b][level]
        if what == "tile":
            return distinct(p[:, None], r[None], of[2], of[3])
        if what == "span":
            rows = [(s[:, None], n[:, None]) for s, n in self._classes[a][level]]
            return span(of, rows, [(s[None], n[None]) for s, n in self._classes[b][level]])
        if what == "pairs":  # every (output, window element): no two elements share an input
            return np.full((len(p), len(r)), of[0] * of[1])
        whole = what == "sweep"
        seen = {(x, y): loaded(of, of[0] if whole else x, y) for x in set(p.tolist()) for y in set(r.tolist())}
        return np.array([[seen[x, y] for y in r.tolist()] for x in p.tolist()])
