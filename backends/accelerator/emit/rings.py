"""The tile of an input in local memory: a ring of rows or columns, so that what two tiles share stays where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..counting import Order
from ..layer import RELEVANT, Layer
from ..tiling import distinct
from .tiles import runs

__all__ = ["Ring", "longest", "moving_loop", "pieces", "ring_of"]


@dataclass
class Ring:
    """`size` places for rows (axis 0) or columns (axis 1); `keeps`: consecutive tiles may share some."""

    axis: int
    size: int
    keeps: bool
    held: tuple[int, ...] = ()
    first: int = 0  # place of the tile's first row

    def turn(self, wanted: Sequence[int], same: bool) -> tuple[int, int]:
        """Make the tile of the coordinates `wanted` current; (place, index in `wanted`) from which on to load.

        `same`: nothing but this axis has moved since the last tile. New coordinates are placed after the old ones.
        """
        end = (self.first + len(self.held)) % self.size if self.held else self.first
        shared = 0
        if self.keeps and same and self.held:
            shared = next((n for n in range(min(len(wanted), len(self.held)), 0, -1) if self._ends(wanted[:n])), 0)
        self.first = (end - shared) % self.size
        self.held = tuple(wanted)
        return end, shared

    def _ends(self, part: Sequence[int]) -> bool:
        return self.held[len(self.held) - len(part) :] == tuple(part)


def ring_of(layer: Layer, tiles: Mapping[str, int], order: Order, copies: int) -> Ring:
    """The ring for `copies` tiles of a layer's input: halos are kept along the innermost loop that moves it."""
    moving = moving_loop(layer, tiles, order)
    axis = int(moving == "Q")
    # with holes between its rows a tile does not hold what later ones share
    keeps = moving in ("P", "Q") and layer.dilations[axis] == 1
    return Ring(axis, copies * longest(layer, axis, tiles), keeps)


def moving_loop(layer: Layer, tiles: Mapping[str, int], order: Order) -> str:
    """The innermost loop of several steps that moves the input; empty if none does."""
    return next((d for d in reversed(order.loops) if tiles[d] < layer.extent[d] and d in RELEVANT["I"]), "")


def longest(layer: Layer, axis: int, tiles: Mapping[str, int]) -> int:
    """Rows (axis 0) or columns of the largest tile of the input."""
    _, _, stride, dilation, _, image = layer.axis(axis)
    p, r = (tiles["P"], tiles["R"]) if axis == 0 else (tiles["Q"], tiles["S"])
    return max(1, min(image, int(distinct(np.asarray(p), np.asarray(r), stride, dilation))))


def pieces(places: Sequence[int], room: int | None) -> list[tuple[int, int, int, int]]:
    """Runs, cut where a ring with `room` places left before its end starts again."""
    if room is None:
        return runs(places)
    return runs(places[:room]) + [(room + i, c, s, n) for i, c, s, n in runs(places[room:])]
