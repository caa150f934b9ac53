"""A layer to be emitted: its mapping, where its tensors lie, and where its tiles lie in local memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..counting import Order
from ..formats import DENSE, Format
from ..layer import Layer
from .rings import longest
from .tiles import Span

__all__ = ["ENTRY", "Activation", "Buffers", "Contraction", "Kept", "Packed", "Residual", "sizes"]

ENTRY = 16
"""Bytes of a channel's entry in the table of requantisation: bias, multiplier, shift, nothing."""


@dataclass(frozen=True)
class Activation:
    """A tensor in DRAM: bytes from element to element along (batch, group, channel, row, column), from `base` on."""

    base: int
    strides: tuple[int, int, int, int, int]
    signed: bool = False
    zero: int = 0


@dataclass(frozen=True)
class Kept:
    """A tensor in local memory: a ring of `rows`, bytes from row to row and from pixel to pixel, from `base` on."""

    base: int
    rows: int
    row: int
    pixel: int

    def place(self, row: int) -> int:
        """Where a row of the tensor lies, from `base` on."""
        return row % self.rows * self.row

    def runs(self, first: int, count: int) -> list[tuple[int, int]]:
        """Rows as (first, how many) that lie side by side: cut where the ring starts again."""
        found = []
        while count:
            n = min(count, self.rows - first % self.rows)
            found.append((first, n))
            first, count = first + n, count - n
        return found


@dataclass(frozen=True)
class Packed:
    """Constant weights in DRAM, tile after tile as `packed_weights` lays them out."""

    base: int
    signed: bool = True
    zero: int = 0
    form: Format = DENSE


@dataclass(frozen=True)
class Residual:
    """What is added to the requantised sums: `quant.add` with its attributes, the sums being its `a`.

    It lies in DRAM from `base` on as the output does, and is read on the way out.
    """

    base: int
    signed: bool
    a_multiplier: int
    b_multiplier: int
    shift: int
    a_zero: int
    b_zero: int
    zero: int
    low: int
    high: int


@dataclass(frozen=True)
class Contraction:
    """A layer with its mapping and its tensors. `table`: local line of its first entry; `partial`: DRAM for sums.

    What stays on the chip: `near_input`, `near_output`, `near_residual`, and the tiles of weights by their spans
    (`near_weights`, loaded before if `loads_weights`). The layer's first row is row `row` of the whole output, its pads
    tell where that begins in the input. Rows `copied` of a result that stays go to the output in DRAM as well.
    """

    layer: Layer
    tiles: Mapping[str, int]
    order: Order
    input: Activation
    weights: Packed | Activation
    output: Activation
    table: int
    low: int
    high: int
    partial: int = 0
    residual: Residual | None = None
    input_bits: int = 8
    weight_bits: int = 8
    output_bits: int = 8
    near_input: Kept | None = None
    near_output: Kept | None = None
    near_residual: Kept | None = None
    near_weights: Mapping[tuple[Span, ...], int] | None = None
    loads_weights: bool = False
    row: int = 0
    copied: Span = (0, 0)


@dataclass(frozen=True)
class Buffers:
    """Where the tiles of an operand lie in local memory: bytes from the start, how many of them, and their size."""

    base: int
    copies: int
    size: int


def sizes(c: Contraction) -> dict[str, int]:
    """Bytes of the largest tile of each operand in local memory."""
    e = c.tiles
    weights = -(-e["G"] * e["K"] * e["C"] * e["R"] * e["S"] * c.weight_bits // 8)
    spread = e["N"] * e["G"]
    return {
        "W": weights,
        "I": spread * e["C"] * longest(c.layer, 0, c.tiles) * longest(c.layer, 1, c.tiles),
        "O": 4 * spread * e["K"] * e["P"] * e["Q"],
    }
