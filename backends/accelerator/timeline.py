"""The time of one mapping, tile by tile: what `cost.latency_of` says of tiles of average size, for those there are.

The search compares millions of mappings by their average tile. For the one that was found every step of the outermost
nest is laid out: its work, the loads before it and the store after it, each from the extents of its own tiles. Loads
run ahead as far as buffers allow, and the outermost memory serves loads and stores one after the other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .cost import Cost
from .hierarchy import Dataflow, Hierarchy, Rates
from .layer import DIMS, OPERANDS, RELEVANT, Layer
from .mapping import Mapping
from .simulate.inner import Inside, array_of, cycles_of_tile
from .tiling import Array

__all__ = ["MOST_STEPS", "cycles_of"]

MOST_STEPS = 1 << 18
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
    share: Array = np.broadcast_to(steps.leaves() * steps.last() * steps.volume("O", False), shape)
    share = share / share.sum()  # of the results that leave in each step
    unit, store = share * along, store + share * beside
    kept = [next((t.copies for t in machine.tiers[0] if x in t.holds), 2) for x in "WIO"]
    back = steps.fresh("O") & ~steps.first()
    l, w, s, u, leaves, returns = (  # noqa: E741
        np.broadcast_to(a, shape).reshape(-1).tolist() for a in (load, work, store, unit, steps.leaves(), back)
    )
    return machine.latency + _makespan(l, w, s, u, leaves, returns, min(kept[:2]), kept[2])


def _makespan(
    load: list[float],
    work: list[float],
    store: list[float],
    unit: list[float],
    leaves: list[bool],
    returns: list[bool],
    ahead: int,
    buffers: int,
) -> float:
    """When the last store is done: loads, work and stores of the steps in three queues over one port to the outside.

    Who is ready first goes first, at the same time the store; loads wait for a free buffer, work for its loads and for
    a tile of O that is out, and so do partial sums that come back (`returns`).
    """
    steps = len(load)
    loaded: list[float] = []
    worked: list[float] = []
    stored: list[float] = []
    tiles = [i for i in range(steps) if leaves[i]]  # the step after which each tile of O leaves
    opens = [0, *(i + 1 for i in tiles)]  # the step in which it comes
    comes = np.concatenate([[0], np.cumsum(leaves)[:-1]]).tolist()  # the tile of O of each step
    visit = 0  # the tile of O at work
    port = 0.0
    while len(stored) < len(tiles) or len(worked) < steps:
        best: tuple[float, float, int] | None = None
        i = len(loaded)
        out = comes[i] - buffers if i < steps and returns[i] else -1  # the tile of O whose buffer sums come back to
        if i < steps and (i < ahead or i - ahead < len(worked)) and out < len(stored):
            ready = max(loaded[-1] if loaded else 0.0, worked[i - ahead] if i >= ahead else 0.0)
            ready = max(ready, stored[out] if out >= 0 else 0.0)
            best = (round(max(ready, port), 6), round(ready, 6), 0)
        k = len(worked)
        if k < len(loaded):
            begins = k == opens[visit]
            if not begins or visit < buffers or visit - buffers < len(stored):
                ready = max(worked[-1] if worked else 0.0, loaded[k])
                if begins and visit >= buffers:
                    ready = max(ready, stored[visit - buffers])
                now = round(ready, 6)
                best = min(best or (now, now, -1), (now, now, -1))
        n = len(stored)
        if n < len(tiles) and tiles[n] < len(worked):
            ready = max(stored[-1] if stored else 0.0, worked[tiles[n]])
            found = (round(max(ready, port), 6), round(ready, 6), -2)
            best = found if best is None else min(best, found)
        assert best is not None, "queues that wait for each other"
        start, _, who = best
        if who == 0:
            port = start + load[i]
            loaded.append(port)
        elif who == -1:
            worked.append(start + work[k])
            visit += leaves[k]
        else:
            step = tiles[n]
            port = start + store[step]
            stored.append(start + max(store[step], unit[step]))
    return max(stored[-1] if stored else 0.0, worked[-1])


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
        whole = np.broadcast_to(moved[2], self.shape).reshape(-1)
        moved[2] = np.concatenate([[0.0], whole[:-1]]).reshape(
            self.shape
        )  # the tile of O before is the one that leaves
        left = np.unique(moved[2], return_inverse=True)[1].reshape(self.shape)
        marks = (*flags, self.first(), left)
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
                if x in fresh and stores[x]:
                    key = (stores[x], "read" if x == "O" else "write")
                    width = rates.accumulator if x == "O" else rates.bits[x]
                    bits[key] = bits.get(key, 0.0) + float(one(volume, at)) * width
            found.append(cycles_of_tile(work, bits, machine, rates, flow.fill))
        return np.array(found)[of.reshape(-1)].reshape(self.shape)
