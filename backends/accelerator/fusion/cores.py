"""Several arrays behind the shared memories, each with a memory of its own: a product cut over them, fused with others.

A core computes a part of the rows (P) and of the columns (K). What several cores read is fetched into the first tier
once, and read from there by each of them: nothing is multicast between cores. What passes the first tier by is read
from the outermost memory by each. This is the rule of AccelForge (Andrulis et al.) for a fan-out without reuse.

All mappings of a core are evaluated, none is bounded: for machines and layers of an example's size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..cost import energy_of, fits, latency_of
from ..counting import Block, Order, Traffic
from ..hierarchy import Hierarchy, Rates, Store
from ..layer import Layer
from ..space import Space, unrollings
from .fronts import ORIGIN, Front, Point, best, hull, joined
from .stay import Staying

__all__ = ["Cores", "chained"]

BLOCK = 1 << 14


@dataclass(frozen=True)
class Cores:
    """`machine`: the memories as all cores see them and the array of one; its second tier and below are a core's own.

    The first tier is one memory; every operand may pass it by, but intermediate results stay there.
    """

    machine: Hierarchy
    count: int

    def front(self, layer: Layer, rates: Rates, stay: frozenset[str]) -> Front:
        """The hull over all cuts, all choices of what passes the first tier by, and all mappings of a core."""
        points: list[Point] = []
        for over in _cuts(self.count, layer):
            n, g, k, c, p, q, r, s = layer.sizes
            rows = -(-p // over["P"])
            part = replace(layer, sizes=(n, g, -(-k // over["K"]), c, rows, q, r, s), image=(rows, 1))
            shared = {"W": over["P"], "I": over["K"], "O": 1}
            for held in _subsets(frozenset("WIO") - stay):
                machine = self._core(held, stay)
                points += [
                    Point(p.energy * self.count, p.cycles, (over, held, p.choice))
                    for p in _evaluated(part, machine, rates, shared)
                ]
        return hull(points)

    def _core(self, held: frozenset[str], stay: frozenset[str]) -> Staying:
        """What a core has of the machine: its share of the bandwidth of shared memories."""
        ((first,), *own) = self.machine.tiers

        def share(s: Store) -> Store:
            n = self.count
            return replace(
                s,
                bandwidth=s.bandwidth / n,
                read_bandwidth=s.read_bandwidth / n,
                write_bandwidth=s.write_bandwidth / n,
            )

        tiers = ((replace(share(first), holds=held),), *own)
        machine = replace(self.machine, outer=share(self.machine.outer), tiers=tiers)
        kept = tuple((x, first.name) for x in sorted(stay))
        return Staying(**{**machine.__dict__}, stay=kept)


class _Shared(Block):
    """Counts of one core; a fetch into the first tier that serves several cores counts as a part of one."""

    serves: dict[str, int]

    def link(self, x: str, outer: tuple[int, Store], inner: tuple[int, Store], orders: Sequence[Order]) -> Traffic:
        t = super().link(x, outer, inner, orders)
        n = self.serves[x]
        if n == 1 or (outer[0], inner[0]) != (0, 1):
            return t
        return replace(t, down=t.down / n, fill=t.fill / n, down_bits=t.down_bits / n, fill_bits=t.fill_bits / n)


def _cuts(count: int, layer: Layer) -> Iterator[dict[str, int]]:
    for p in range(1, count + 1):
        if count % p == 0 and p <= layer.extent["P"] and count // p <= layer.extent["K"]:
            yield {"P": p, "K": count // p}


def _subsets(of: frozenset[str]) -> Iterator[frozenset[str]]:
    for n in range(len(of) + 1):
        yield from (frozenset(some) for some in itertools.combinations(sorted(of), n))


def _evaluated(layer: Layer, machine: Hierarchy, rates: Rates, serves: dict[str, int]) -> Front:
    points: list[Point] = []
    for flow in machine.dataflows:
        for unrolling in unrollings(layer, flow, machine):
            space = Space(layer, machine, flow, unrolling)
            sizes = [space.chains.tiles[d].shape[1] for d in layer.extent]
            for start in range(0, int(np.prod(sizes)), BLOCK):
                at = np.arange(start, min(start + BLOCK, int(np.prod(sizes))))
                index = dict(zip(layer.extent, np.unravel_index(at, sizes), strict=True))
                valid = np.ones(at.shape, bool)
                for d, i in index.items():
                    valid &= space.valid[d].reshape(-1)[i]
                block = _Shared(machine, rates, flow.held, space.chains, {d: i[valid] for d, i in index.items()})
                block.serves = serves
                ok = np.broadcast_to(fits(block), block.shape)
                if not ok.any():
                    continue
                for orders in space.sequences:
                    energy = np.broadcast_to(energy_of(block, orders), block.shape)[ok]
                    cycles = np.broadcast_to(latency_of(block, flow, orders), block.shape)[ok]
                    pairs = zip(energy.tolist(), cycles.tolist(), strict=True)
                    points = list(hull([*points, *(Point(e, c) for e, c in set(pairs))]))
    return tuple(points)


def chained(layers: Sequence[Layer], cores: Cores, rates: Rates, *, fused: bool, objective: str = "edp") -> Point:
    """The best plan of products that each read the result before: all intermediate results stay, or none does."""
    total: Front = ORIGIN
    for i, layer in enumerate(layers):
        stay = {"I"} if fused and i > 0 else set()
        stay |= {"O"} if fused and i + 1 < len(layers) else set()
        total = joined(total, cores.front(layer, rates, frozenset(stay)))
    return best(total, objective)
