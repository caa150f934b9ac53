"""The time of one mapping, tile by tile: what `cost.latency_of` says of tiles of average size, for those there are.

The search compares millions of mappings by their average tile. For the one that was found every step of the outermost
nest is laid out: its work, the loads before it and the store after it, each from the extents of its own tiles. Loads
run ahead as far as buffers allow, and the outermost memory serves loads and stores one after the other.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from .cost import Cost
from .hierarchy import Dataflow, Hierarchy, Rates
from .layer import DIMS, OPERANDS, RELEVANT, Layer
from .mapping import Mapping
from .simulate.inner import Inside, array_of, cycles_of_tile
from .tiling import Array

__all__ = ["MOST_STEPS", "cycles_of"]

MOST_STEPS = 1 << 22
"""More steps than this are not laid out: their edges do not matter."""


def cycles_of(
    layer: Layer,
    mapping: Mapping,
    machine: Hierarchy,
    rates: Rates,
    flow: Dataflow,
    cost: Cost,
    beside: float = 0.0,
    along: float = 0.0,
) -> float:
    """Cycles of the layer; `cost` is what `cost.evaluate` says of the mapping.

    `beside` are cycles of the outermost memory for what is read along with the results: a residual sum. `along` are
    cycles of the vector units for all results on their way out: a tile's store takes no less than its share.
    """
    if not machine.prologue:
        return cost.cycles + beside
    order = mapping.orders[0]
    sizes = {d: _sizes(layer.extent[d], mapping.tiles[d][0]) for d in order.loops}
    busy = [d for d in order.loops if len(sizes[d]) > 1]
    shape = tuple(len(sizes[d]) for d in busy)
    if math.prod(shape) > MOST_STEPS:
        return cost.cycles + beside
    steps = _Steps(layer, mapping, sizes, busy, shape)
    outer = machine.outer
    load: Array = np.zeros(shape)
    for x in "WI":
        if any(x in s.holds for s in machine.tiers[0]):
            load = load + steps.fresh(x) * steps.volume(x, machine.halo) * rates.bits[x] / outer.reading
    store: Array = np.zeros(shape)
    if any("O" in s.holds for s in machine.tiers[0]):
        volume = steps.volume("O", False)
        done = steps.last()
        bits = np.where(done, rates.bits["O"], rates.accumulator)
        store = steps.leaves() * volume * bits / outer.writing
        load = load + steps.fresh("O") * ~steps.first() * volume * rates.accumulator / outer.reading
    deep = cost.outer_cycles - float(load.sum() + store.sum())  # what no memory of the first tier keeps
    work = steps.work(machine, rates, flow)
    load = load + max(deep, 0.0) * work / work.sum()
    unit: Array = np.zeros(shape)
    if whole := float(store.sum()):
        unit, store = store * (along / whole), store * (1 + beside / whole)
    kept = [next((t.copies for t in machine.tiers[0] if x in t.holds), 2) for x in "WIO"]
    l, w, s, u, leaves = (  # noqa: E741
        np.broadcast_to(a, shape).reshape(-1).tolist() for a in (load, work, store, unit, steps.leaves())
    )
    return machine.latency + _makespan(l, w, s, u, leaves, min(kept[:2]), kept[2])


def _makespan(
    load: list[float],
    work: list[float],
    store: list[float],
    unit: list[float],
    leaves: list[bool],
    ahead: int,
    buffers: int,
) -> float:
    """When the last store is done. The outermost memory serves loads and stores as they become ready."""
    port = loaded = worked = stored = 0.0
    ends: list[float] = []  # of the work of each step
    visits: list[float] = []  # of the store of each tile of O
    waiting: deque[tuple[float, int]] = deque()  # tiles of O that are done: (since when, in which step)

    def serve() -> None:
        nonlocal port, stored
        since, step = waiting.popleft()
        start = max(port, stored, since)
        port = start + store[step]
        stored = start + max(store[step], unit[step])
        visits.append(stored)

    tiles = 0  # of O that have begun
    begins = True
    for i, takes in enumerate(load):
        ready = max(loaded, ends[i - ahead] if i >= ahead else 0.0)
        while waiting and waiting[0][0] <= ready:
            serve()
        port = loaded = max(port, ready) + takes
        start = max(worked, loaded)
        if begins:
            tiles += 1
            if tiles > buffers:  # the tile of O that was in its buffer has to be out
                while len(visits) < tiles - buffers:
                    serve()
                start = max(start, visits[tiles - buffers - 1])
        worked = start + work[i]
        ends.append(worked)
        begins = leaves[i]
        if begins:
            waiting.append((worked, i))
    while waiting:
        serve()
    return max(stored, worked)


def _sizes(extent: int, tile: int) -> Array:
    return np.minimum(tile, extent - np.arange(0, extent, tile))


class _Steps:
    """Arrays over the steps of the outermost nest, in its order."""

    def __init__(self, layer: Layer, mapping: Mapping, sizes: dict[str, Array], busy: list[str], shape: Any) -> None:
        self.layer, self.mapping, self.sizes, self.busy, self.shape = layer, mapping, sizes, busy, shape
        self.around = {x: max((i + 1 for i, d in enumerate(busy) if d in RELEVANT[x]), default=0) for x in OPERANDS}

    def along(self, d: str, values: Any) -> Array:
        """Values by tile of a loop, as an array over all steps."""
        array = np.asarray(values)
        if d not in self.busy:
            return array.reshape((1,) * len(self.shape))
        return array.reshape([-1 if b == d else 1 for b in self.busy])

    def _zero(self, dims: list[str]) -> Array:
        """Whether these loops are at their first tile."""
        found = np.ones((1,) * len(self.shape), bool)
        for d in dims:
            found = found & self.along(d, np.arange(len(self.sizes[d])) == 0)
        return found

    def _end(self, dims: list[str]) -> Array:
        found = np.ones((1,) * len(self.shape), bool)
        for d in dims:
            found = found & self.along(d, np.arange(len(self.sizes[d])) == len(self.sizes[d]) - 1)
        return found

    def fresh(self, x: str) -> Array:
        """Whether the step gets another tile of x: the loops further in are at their first one."""
        return self._zero(self.busy[self.around[x] :])

    def leaves(self) -> Array:
        return self._end(self.busy[self.around["O"] :])

    def first(self) -> Array:
        """Whether sums start in the step; `last`: whether they are complete after it."""
        return self._zero([d for d in self.busy if d in "CRS"])

    def last(self) -> Array:
        return self._end([d for d in self.busy if d in "CRS"])

    def volume(self, x: str, halo: bool) -> Array:
        """Elements of the step's tile of x that are moved: of the image what lies in it and is not there already."""
        found = np.ones((1,) * len(self.shape))
        for d in RELEVANT[x]:
            if x != "I" or d in "NGC":
                found = found * self.along(d, self.sizes[d])
        if x != "I":
            return found
        moving = next((d for d in reversed(self.busy) if d in RELEVANT["I"]), "")
        for axis, (p, r) in enumerate((("P", "R"), ("Q", "S"))):
            keeps = halo and moving == p and self.layer.dilations[axis] == 1
            table = self._rows(axis, p, r, keeps)  # [tiles of p, tiles of r]
            both = [d for d in self.busy if d in (p, r)]
            if both == [r, p]:
                table = table.T
            where = [len(self.sizes[d]) if d in (p, r) else 1 for d in self.busy]
            found = found * table.reshape(where)
        return found

    def _rows(self, axis: int, p: str, r: str, keeps: bool) -> Array:
        _, _, stride, dilation, pad, image = self.layer.axis(axis)
        starts = [np.cumsum(self.sizes[d]) - self.sizes[d] for d in (p, r)]
        table = np.zeros((len(self.sizes[p]), len(self.sizes[r])))
        for j, (r0, rn) in enumerate(zip(starts[1], self.sizes[r], strict=True)):
            before: set[int] = set()
            for i, (p0, pn) in enumerate(zip(starts[0], self.sizes[p], strict=True)):
                at = np.add.outer(np.arange(p0, p0 + pn) * stride, np.arange(r0, r0 + rn) * dilation) - pad
                now = set(at[(at >= 0) & (at < image)].tolist())
                table[i, j] = len(now - before)
                before = now if keeps else set()
        return table

    def work(self, machine: Hierarchy, rates: Rates, flow: Dataflow) -> Array:
        """Cycles of the array and the memories around it in each step: of every kind of tile once."""
        inside = Inside(array_of(self.layer, self.mapping, machine))
        kinds: Array = np.zeros(self.shape, np.int64)
        values: list[tuple[Any, Array]] = []
        for d in DIMS:
            sizes = sorted(set(self.sizes[d].tolist()))
            values.append((sizes, self.along(d, np.searchsorted(sizes, self.sizes[d]))))
        flags = [self.fresh(x) for x in "WIO"]
        moved = [self.volume(x, machine.halo) for x in "WIO"]
        begin: Array = np.zeros(self.shape, np.int64)
        begin.reshape(-1)[0] = 1  # no tile of O has left before the first step
        marks = (*flags, self.first(), begin)
        for v in (*(at for _, at in values), *(f.astype(np.int64) for f in marks)):
            kinds = kinds * (int(v.max()) + 1) + v
        _, where, of = np.unique(kinds.reshape(-1), return_index=True, return_inverse=True)
        stores = {x: next((s.name for s in machine.tiers[0] if x in s.holds), "") for x in "WIO"}

        def one(array: Array, at: int) -> Any:
            return np.broadcast_to(array, self.shape).reshape(-1)[at]

        found = []
        for at in where:
            extents = {d: sizes[one(i, at)] for d, (sizes, i) in zip(DIMS, values, strict=True)}
            fresh = frozenset(x for x, f in zip("WIO", flags, strict=True) if one(f, at))
            work = inside.run(extents, fresh, bool(one(self.first(), at)))
            bits: dict[tuple[str, str], float] = {}
            for x, volume in zip("WIO", moved, strict=True):
                if x in fresh and stores[x] and not (x == "O" and one(begin, at)):
                    key = (stores[x], "read" if x == "O" else "write")
                    width = rates.accumulator if x == "O" else rates.bits[x]
                    bits[key] = bits.get(key, 0.0) + float(one(volume, at)) * width
            found.append(cycles_of_tile(work, bits, machine, rates, flow.fill))
        return np.array(found)[of.reshape(-1)].reshape(self.shape)
