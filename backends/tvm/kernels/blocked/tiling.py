"""How the output of a convolution is cut into register tiles of pixels x blocks of channels."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ..kernel import VectorUnit, ceil_div
from ..tile import FMA_LATENCY_X_PORTS, LOAD_WEIGHT, ranked

__all__ = ["MAX_BLOCKS", "NARROW", "Tiling", "most_pixels", "plan_tiles", "ranked_tiles", "step_slots"]

STORE_SLOTS = 4
"""Issue slots of the epilogue of one accumulator, roughly."""

TILE_SLOTS = 60
"""Issue slots to start a tile."""

WEIGHT_SLOTS = 1.0
"""Issue slots of a vector of weights besides its load: it comes from the second-level cache."""

MAX_BLOCKS = 6
"""Blocks of channels of a register tile, at most."""

NARROW = 4
"""Vectors of so few lanes: LLVM unrolls a loop over the channels of one block, and loads so far ahead that accumulators
spill. All channels go into one loop there.
"""


@dataclass(frozen=True)
class Tiling:
    """Tiles of `rows` x `columns` pixels x `blocks` blocks over an image of `height` x `width` x `depth` of these.

    The last tile of an axis steps back instead of being smaller, so that one piece of code serves all. It computes
    some outputs a second time, in the same order.
    """

    height: int
    width: int
    depth: int
    rows: int
    columns: int
    blocks: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def row_tiles(self) -> int:
        return ceil_div(self.height, self.rows)

    @property
    def column_tiles(self) -> int:
        return ceil_div(self.width, self.columns)

    @property
    def block_tiles(self) -> int:
        return ceil_div(self.depth, self.blocks)

    @property
    def pixel_tiles(self) -> int:
        return self.row_tiles * self.column_tiles

    @property
    def count(self) -> int:
        return self.pixel_tiles * self.block_tiles

    def slots(self, steps: int) -> float:
        """Issue slots of all tiles, each of `steps` outer products."""
        step = step_slots(self.pixels, self.blocks)
        return self.count * (steps * step + STORE_SLOTS * self.pixels * self.blocks + TILE_SLOTS)


def step_slots(pixels: int, blocks: int) -> float:
    """Issue slots of one outer product of a register tile: FMAs or loads, whichever are more, with unhidden latency."""
    fmas, loads = pixels * blocks, pixels + blocks
    return max(fmas, loads, FMA_LATENCY_X_PORTS) + LOAD_WEIGHT * loads + WEIGHT_SLOTS * blocks


def most_pixels(blocks: int, unit: VectorUnit) -> int:
    """Rows of a register tile of that many vectors: one register for a broadcast, and one to spare.

    Four stay beside the accumulators in any case: LLVM loads ahead.
    """
    return min(unit.registers - 2 - blocks, unit.registers - 4) // blocks


def plan_tiles(height: int, width: int, depth: int, steps: int, unit: VectorUnit) -> Tiling:
    """The cheapest tiling of an image of `height` x `width` pixels and `depth` blocks by estimated issue slots."""
    return ranked_tiles(height, width, depth, steps, unit)[0]


@functools.cache
def ranked_tiles(height: int, width: int, depth: int, steps: int, unit: VectorUnit) -> tuple[Tiling, ...]:
    """The cheapest tilings, the cheapest first; of equal ones that of fewest rows: it reads fewer streams of memory."""
    candidates = [
        Tiling(height, width, depth, rows, columns, blocks)
        for blocks in range(1, min(depth, MAX_BLOCKS) + 1)
        for columns in range(1, min(width, most_pixels(blocks, unit)) + 1)
        for rows in range(1, min(height, most_pixels(blocks, unit) // columns) + 1)
    ]
    return ranked(candidates, lambda t: (t.slots(steps), t.rows))
