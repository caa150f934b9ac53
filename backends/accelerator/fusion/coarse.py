"""The same cost in fewer steps: larger tiles for the outermost nest of a mapping.

Where operands stay on the chip the outermost nest moves nothing, and mappings of many tiny tiles cost what those of a
few large ones do. A program is as long as there are tiles, so of all that cost no more those are taken that have few,
but some: what follows the last tile, its way out, overlaps with nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..chains import Chains
from ..cost import Cost, cost_of, energy_of, fits, latency_of
from ..counting import Block
from ..hierarchy import Hierarchy, Rates
from ..layer import DIMS, Layer
from ..mapping import Mapping
from ..orders import INNER_ORDERS, ORDERS, Order

__all__ = ["coarser"]

SLACK = 1e-9
FEW = 24
"""Tiles that are few enough."""


def coarser(layer: Layer, machine: Hierarchy, rates: Rates, mapping: Mapping, cost: Cost) -> tuple[Mapping, Cost]:
    """A mapping with other tiles of the first tier and other orders around them, of no more energy and cycles."""
    flow = next(f for f in machine.dataflows if f.name == mapping.dataflow)
    sizes = {d: _sizes(layer.extent[d], mapping.tiles[d][0]) for d in DIMS}
    tables = {d: np.array([[n, *mapping.tiles[d][1:]] for n in sizes[d]], np.int64).T for d in DIMS}
    index = {d: i.reshape(-1) for d, i in zip(DIMS, np.indices([len(sizes[d]) for d in DIMS]), strict=True)}
    steps: Any = np.ones(len(index["N"]), np.int64)
    for d in DIMS:
        steps = steps * np.array([-(-layer.extent[d] // n) for n in sizes[d]])[index[d]]
    if steps[0] <= FEW:  # entry 0 is the mapping itself
        return mapping, cost
    by = np.lexsort((np.where(steps <= FEW, -steps, steps), steps > FEW))  # of few the most, then of many the least
    by = by[steps[by] < steps[0]]
    block = Block(machine, rates, mapping.held, Chains(layer, tables), {d: i[by] for d, i in index.items()})
    ok = np.broadcast_to(fits(block), block.shape)
    by = by[ok]
    if not by.size:
        return mapping, cost
    block = Block(machine, rates, mapping.held, block.chains, {d: i[by] for d, i in index.items()})
    best: tuple[int, tuple[Order, ...]] | None = None
    first = len(by)
    dynamic = cost.energy - cost.static_energy
    for orders in _orders(mapping.orders):
        energy = np.broadcast_to(energy_of(block, orders), block.shape)
        cycles = np.broadcast_to(latency_of(block, flow, orders), block.shape)
        good = np.flatnonzero((energy <= dynamic * (1 + SLACK)) & (cycles <= cost.cycles * (1 + SLACK)))
        if good.size and good[0] < first:
            first, best = int(good[0]), (int(by[good[0]]), orders)
    if best is None:
        return mapping, cost
    at, orders = best
    tiles = {d: (sizes[d][index[d][at]], *mapping.tiles[d][1:]) for d in DIMS}
    return replace(mapping, tiles=tiles, orders=orders), cost_of(machine, rates, flow, layer, tiles, orders)


def _sizes(extent: int, tile: int) -> list[int]:
    """The tile and some larger ones: twice, four times as large, the whole."""
    return [tile, *sorted({n for n in (2 * tile, 4 * tile, extent) if tile < n <= extent})]


def _orders(orders: Sequence[Order]) -> list[tuple[Order, ...]]:
    """The orders themselves, then others of the nests around and within the first tier."""
    inner = INNER_ORDERS if len(orders) > 1 else ()
    others = [(a, b, *orders[2:]) for a, b in itertools.product(ORDERS, inner)]
    return [tuple(orders), *(o for o in others if o != tuple(orders))]
