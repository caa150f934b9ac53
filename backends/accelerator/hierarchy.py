"""A machine and a layer's number formats, resolved to what the cost model multiplies: bits, pJ per bit, bits per cycle.

outermost memory (DRAM)
  tier 1 .. tier J      shared memories; those of one tier hold different operands and share a tile (scratchpad and
                        accumulator are one tier)
    array rows x cols   loops unrolled in space; operands are multicast, partial sums added up on the way
      element           registers or a small file of its own, and a multiplier
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .layer import DIMS, OPERANDS

__all__ = ["Dataflow", "Hierarchy", "Rates", "Store"]


@dataclass(frozen=True)
class Store:
    """One memory: capacity in bits, pJ per bit read and written, bits per cycle (both directions together)."""

    name: str
    holds: frozenset[str]
    capacity: float = math.inf
    read: float = 0.0
    write: float = 0.0
    bandwidth: float = math.inf
    double: bool = False  # room for the tile in use and for the next one
    read_bandwidth: float = math.inf  # of a port of its own
    write_bandwidth: float = math.inf

    @property
    def copies(self) -> int:
        return 2 if self.double else 1

    @property
    def reading(self) -> float:
        """Bits per cycle of a transfer that only reads."""
        return min(self.bandwidth, self.read_bandwidth)

    @property
    def writing(self) -> float:
        return min(self.bandwidth, self.write_bandwidth)

    @property
    def unlimited(self) -> bool:
        return math.isinf(self.bandwidth) and math.isinf(self.read_bandwidth) and math.isinf(self.write_bandwidth)


@dataclass(frozen=True)
class Dataflow:
    """What elements keep while loops run, and which loops may be unrolled over the rows and the columns."""

    name: str
    held: frozenset[str]
    rows: tuple[str, ...] = DIMS
    cols: tuple[str, ...] = DIMS
    fill: int = 0  # cycles that each new tile of the array costs beyond its steps: skew, loading, draining
    constant: int = 0  # cycles once a layer
    pinned: tuple[tuple[str, int], ...] = ()  # the unrolling is fixed: (loop, factor)


@dataclass(frozen=True)
class Rates:
    """What depends on number formats and zeros: bits an element takes, a multiplication's energy, its share of a cycle.

    `bits` are per element of the dense tensor, indices of a compressed format included; `accumulator` those of a
    partial sum. `energy` is pJ per multiplication of the dense layer; `cycles` multiplies the dense layer's cycles.
    """

    bits: dict[str, float] = field(default_factory=lambda: dict.fromkeys(OPERANDS, 8.0))
    accumulator: float = 32.0
    energy: float = 0.0
    cycles: float = 1.0


@dataclass(frozen=True)
class Hierarchy:
    """The memories from the outside in, and the array."""

    name: str
    outer: Store
    tiers: tuple[tuple[Store, ...], ...]
    element: tuple[Store, ...] = ()
    rows: int = 1
    cols: int = 1
    dataflows: tuple[Dataflow, ...] = ()
    overlap: bool = True  # loads of the next tile run beside the work on this one
    prologue: bool = True  # the first load and the last store are waited for
    halo: bool = True  # rows (columns) shared by consecutive input tiles stay in the first tier
    latency: int = 0  # cycles until the first load arrives
    static: float = 0.0  # pJ a cycle, busy or not
    clock: float = 1e9  # Hz

    def store(self, name: str) -> Store:
        return next(s for s in (self.outer, *(s for t in self.tiers for s in t), *self.element) if s.name == name)

    def path(self, operand: str, held: frozenset[str]) -> list[tuple[int, Store]]:
        """(tier, memory) that hold the operand, from the outside in; tier 0 is the outermost, J + 2 the element."""
        found = [(0, self.outer)]
        found += [(t, s) for t, tier in enumerate(self.tiers, 1) for s in tier if operand in s.holds]
        if operand in held:
            files = [s for s in self.element if operand in s.holds]
            found.append((len(self.tiers) + 2, files[0] if files else REGISTER))
        return found


REGISTER = Store("register", frozenset(OPERANDS))
"""The single word that an element of a stationary dataflow keeps; its energy is part of the multiplier's."""
