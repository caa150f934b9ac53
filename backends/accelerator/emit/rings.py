"""The tile of an input in local memory: a ring of rows or columns, so that what two tiles share stays where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Ring"]


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
