"""Partial mappings: for a product on a stripe of rows, the fronts of what it costs with some operands on the chip.

A front depends on the stripe (the layer's sizes), on the operands that stay, and on the bits of memory that others
take. It stays the same while its mappings still fit, so few searches answer for every amount that is reserved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....ir.diagnostics import IntaglioError
from ..cost import needed
from ..counting import Block, Chains
from ..hierarchy import Hierarchy, Rates
from ..layer import DIMS, Layer
from ..mapper import Result, search
from ..mapping import Mapping as Nest
from .fronts import Front, Point, hull
from .stay import NEVER, staying

__all__ = ["Find", "Partials", "taken"]

Find = Callable[[Layer, Hierarchy, Rates, str], Result]


@dataclass(frozen=True)
class _Known:
    """A front found with `reserved` bits taken; it holds up to `limit` of them. Empty: nothing fits."""

    reserved: Mapping[str, float]
    limit: Mapping[str, float]
    front: Front

    def answers(self, reserved: Mapping[str, float]) -> bool:
        more = all(reserved.get(s, 0.0) >= bits for s, bits in self.reserved.items())
        return more and (not self.front or all(reserved.get(s, 0.0) <= bits for s, bits in self.limit.items()))


@dataclass
class Partials:
    """All fronts found so far; `searches` and `points` (mappings they cover) are for the certificate."""

    machine: Hierarchy
    rates: Callable[[Layer], Rates]
    find: Find = search
    searches: int = 0
    points: int = 0
    _known: dict[Any, list[_Known]] = field(default_factory=dict)

    def front(self, layer: Layer, stay: frozenset[str] = frozenset(), reserved: Mapping[str, float] | None = None) -> Front:
        """The hull of the Pareto front; each point's choice is (mapping, cost). Empty where nothing fits."""
        taken_bits = {s.name: (reserved or {}).get(s.name, 0.0) for s in self.machine.tiers[0]}
        known = self._known.setdefault((layer.key(), stay), [])
        for entry in known:
            if entry.answers(taken_bits):
                return entry.front
        made = self._search(layer, stay, taken_bits)
        known.append(made)
        return made.front

    def _search(self, layer: Layer, stay: frozenset[str], reserved: dict[str, float]) -> _Known:
        if any(s.capacity - reserved[s.name] < 0 for s in self.machine.tiers[0]):
            return _Known(reserved, {}, ())
        machine, rates = staying(self.machine, stay, reserved), self.rates(layer)
        self.searches += 1
        try:
            found = self.find(layer, machine, rates, "pareto")
        except IntaglioError as e:
            if not stay and not any(reserved.values()):
                raise
            if e.diagnostic.code not in ("IG0530", "IG0531"):
                raise
            return _Known(reserved, {}, ())
        self.points += found.certificate.points
        pairs = [(m, c) for m, c in zip(found.mappings, found.costs, strict=True) if c.energy < NEVER]
        limit = {s.name: s.capacity for s in self.machine.tiers[0]}
        front = hull(Point(c.energy, c.cycles, (m, c)) for m, c in pairs)
        for p in front:
            for name, bits in taken(layer, machine, rates, p.choice[0]).items():
                limit[name] = min(limit[name], self.machine.store(name).capacity - bits)
        return _Known(reserved, limit, front)


def taken(layer: Layer, machine: Hierarchy, rates: Rates, mapping: Nest) -> dict[str, float]:
    """Bits that the tiles of a mapping take in every memory of the first tier."""
    chains = Chains(layer, {d: np.asarray(t, np.int64).reshape(-1, 1) for d, t in mapping.tiles.items()})
    block = Block(machine, rates, mapping.held, chains, {d: np.zeros(1, np.int64) for d in DIMS})
    return {s.name: float(np.max(needed(block, s, 0, s.holds))) for s in machine.tiers[0]}
