"""Partial mappings: for a product on a stripe of rows, the fronts of what it costs with some operands on the chip.

A front depends on the stripe (the layer's sizes), on the operands that stay, and on the bits of memory that others
take. It stays the same while its mappings still fit, so few searches answer for every amount that is reserved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ....ir.diagnostics import IntaglioError
from ..bounds import least_of
from ..cost import Cost, needed
from ..counting import Block, Chains
from ..hierarchy import Dataflow, Hierarchy, Rates
from ..layer import DIMS, Layer
from ..mapper import Result, search
from ..mapping import Mapping as Nest
from ..space import Unrolling, unrollings
from .fronts import Front, Point, hull
from .stay import NEVER, home_of, staying

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


@dataclass(frozen=True)
class _Shape:
    """What bounds need of a space; its tables take longer to make than the bound."""

    layer: Layer
    machine: Hierarchy
    flow: Dataflow
    unrolling: Unrolling


@dataclass
class Partials:
    """All fronts found so far; `searches` and `points` (mappings they cover) are for the certificate.

    `weights`: what a pJ and a cycle count; then a front is the one point that minimises the sum. None: whole fronts.
    """

    machine: Hierarchy
    rates: Callable[[Layer], Rates]
    find: Find = search
    weights: tuple[float, float] | None = None
    searches: int = 0
    points: int = 0
    _known: dict[Any, list[_Known]] = field(default_factory=dict)
    _bounds: dict[Any, list[tuple[float, float]]] = field(default_factory=dict)

    def front(self, layer: Layer, stay: frozenset[str], reserved: Mapping[str, float], floor: float = 0.0) -> Front:
        """The hull of the Pareto front, or what of it matters; a point's choice is (mapping, cost). Empty: no fit.

        Fewer cycles than `floor` are of no use: the step's vector work takes as long.
        """
        if self.weights is None:
            return self._front(layer, stay, reserved, None)
        found = self._front(layer, stay, reserved, self.weights)
        if found and found[0].cycles < floor:
            found = self._front(layer, stay, reserved, (1.0, 0.0))
            if found[0].cycles > floor:
                found = self._front(layer, stay, reserved, None)
        return found

    def usual(self, layer: Layer) -> Point:
        """The mapping of least energy times latency, everything from and to the outermost memory."""
        key = (layer.key(), "edp")
        if key not in self._known:
            self.searches += 1
            cost = self.find(layer, self.machine, self.rates(layer), "edp").cost
            self._known[key] = [_Known({}, {}, (Point(cost.energy, cost.cycles),))]
        return self._known[key][0].front[0]

    def least(self, layer: Layer, stay: frozenset[str], *, energy_only: bool = False) -> tuple[float, float]:
        """A bound on pJ and cycles, whatever is reserved: the unrolling of the least weighted sum of its bounds.

        Without weights the least of each.
        """
        weights = (1.0, 0.0) if energy_only else self.weights
        key = (layer.key(), stay)
        if key not in self._bounds:
            machine, rates = staying(self.machine, stay, {}), self.rates(layer)
            found = []
            for flow in machine.dataflows:
                for unrolling in unrollings(layer, flow, machine):
                    space: Any = _Shape(layer, machine, flow, unrolling)
                    first, inside, cycles = least_of(space, rates)
                    found.append((first + inside, cycles))
            self._bounds[key] = found
        bounds = self._bounds[key]
        if weights is None:
            return min(e for e, _ in bounds), min(c for _, c in bounds)
        return min(bounds, key=lambda b: weights[0] * b[0] + weights[1] * b[1])

    def found(self, layer: Layer, stay: frozenset[str], reserved: Mapping[str, float]) -> Iterator[tuple[float, float]]:
        """More bounds of that kind, from searches with less reserved, and with the weights on the chip besides."""
        home = home_of(self.machine, "W")
        for own in (stay, stay | {"W"}):
            extra = 0.0
            if own != stay:
                price = self.machine.outer.read + (home.write if home is not None else 0.0)
                extra = layer.words("W") * self.rates(layer).bits["W"] * price
            for entry in self._known.get((layer.key(), own, self.weights), ()):
                if entry.front and all(reserved.get(s, 0.0) >= bits for s, bits in entry.reserved.items()):
                    yield entry.front[0].energy + extra, entry.front[0].cycles

    def _front(
        self, layer: Layer, stay: frozenset[str], reserved: Mapping[str, float], weights: tuple[float, float] | None
    ) -> Front:
        bits = {s.name: reserved.get(s.name, 0.0) for s in self.machine.tiers[0]}
        known = self._known.setdefault((layer.key(), stay, weights), [])
        for entry in known:
            if entry.answers(bits):
                return entry.front
        known.append(self._search(layer, stay, bits, weights))
        return known[-1].front

    def _search(
        self, layer: Layer, stay: frozenset[str], reserved: dict[str, float], weights: tuple[float, float] | None
    ) -> _Known:
        machine, rates = staying(self.machine, stay, reserved), self.rates(layer)
        self.searches += 1
        tight = bool(stay) or any(reserved.values())
        try:
            pairs, points = self._pairs(layer, machine, rates, weights, tight)
        except IntaglioError as e:
            if not tight or e.diagnostics[0].code not in ("IG0530", "IG0531"):
                raise
            return _Known(reserved, {}, ())
        self.points += points
        limit = {s.name: s.capacity for s in self.machine.tiers[0]}
        front = hull(Point(c.energy, c.cycles, (m, c)) for m, c in pairs if c.energy < NEVER)
        for p in front:
            for name, bits in taken(layer, machine, rates, p.choice[0]).items():
                limit[name] = min(limit[name], self.machine.store(name).capacity - bits)
        return _Known(reserved, limit, front)

    def _pairs(
        self, layer: Layer, machine: Hierarchy, rates: Rates, weights: tuple[float, float] | None, tight: bool
    ) -> tuple[list[tuple[Nest, Cost]], int]:
        """Mappings and costs. A weighted sum is an energy in which every cycle costs something more.

        Where fusion has made the memory `tight`, the whole array is used or none: bounds are those of the whole one.
        """
        find: Find = partial(search, whole=True) if tight else self.find
        if weights is None or weights[0] == 0.0:
            found = find(layer, machine, rates, "pareto" if weights is None else "latency")
            if found.cost.energy >= NEVER:  # the fastest takes sums back: the fastest that does not
                found = find(layer, machine, rates, "pareto")
                pairs = [p for p in zip(found.mappings, found.costs, strict=True) if p[1].energy < NEVER]
                return pairs[-1:], found.certificate.points
            return list(zip(found.mappings, found.costs, strict=True)), found.certificate.points
        price = weights[1] / weights[0]
        found = find(layer, replace(machine, static=machine.static + price), rates, "energy")
        cost = found.cost
        static = machine.static * cost.cycles
        cost = replace(cost, energy=cost.energy - cost.static_energy + static, static_energy=static)
        return [(found.mapping, cost)], found.certificate.points


def taken(layer: Layer, machine: Hierarchy, rates: Rates, mapping: Nest) -> dict[str, float]:
    """Bits that the tiles of a mapping take in every memory of the first tier."""
    chains = Chains(layer, {d: np.asarray(t, np.int64).reshape(-1, 1) for d, t in mapping.tiles.items()})
    block = Block(machine, rates, mapping.held, chains, {d: np.zeros(1, np.int64) for d in DIMS})
    return {s.name: float(np.max(needed(block, s, 0, s.holds))) for s in machine.tiers[0]}
