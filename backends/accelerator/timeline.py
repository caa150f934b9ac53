"""The time of one mapping, tile by tile: what `cost.latency_of` says of tiles of average size, for those there are.

The search compares millions of mappings by their average tile. For the one that was found every step of the outermost
nest is laid out: its work, the loads before it and the store after it, each from the extents of its own tiles. Loads
run ahead as far as buffers allow, and the outermost memory serves loads and stores one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from .cost import Cost
from .emit.rings import moving_loop, pieces, ring_of
from .emit.tiles import Step, coordinates
from .emit.tiles import steps as steps_of
from .hierarchy import Dataflow, Hierarchy, Rates
from .layer import DIMS, OPERANDS, RELEVANT, Layer
from .mapping import Mapping
from .simulate.inner import Inside, Work, array_of, cycles_of_tile
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
    outer, first = machine.outer, {x: _first(machine, x) for x in OPERANDS}
    back, done = steps.fresh("O") & ~steps.first(), steps.last()
    moved: dict[str, Array] = {x: steps.fresh(x) * steps.volume(x, machine.halo) * rates.bits[x] for x in "WI"}
    moved["O"] = back * steps.volume("O", False) * rates.accumulator
    left = steps.leaves() * steps.volume("O", False)
    load = {x: bits / outer.reading if first[x] else np.zeros(shape) for x, bits in moved.items()}
    store: Array = np.zeros(shape)
    if first["O"]:
        store = left * np.where(done, rates.bits["O"], rates.accumulator) / outer.writing
    # what no memory of the first tier keeps
    deep = cost.outer_cycles - float(sum(np.broadcast_to(a, shape).sum() for a in (*load.values(), store)))
    works, kinds = steps.works(machine)
    busy_for = np.array([w.steps for w in works])[kinds]
    load["I"] = load["I"] + max(deep, 0.0) * busy_for / busy_for.sum()
    share: Array = np.broadcast_to(left * done, shape)
    share = share / share.sum()  # of the results that leave in each step
    unit, store = share * along, store + share * beside

    def flat(array: Any) -> list[Any]:
        return list(np.broadcast_to(array, shape).reshape(-1).tolist())

    def transfers(x: str, way: str, times: Array, bits: Array) -> list[_Transfer]:
        key = (first[x], way) if first[x] else None
        return [_Transfer(t, key, b) for t, b in zip(flat(times), flat(bits), strict=True)]

    copies = {x: next((t.copies for t in machine.tiers[0] if x in t.holds), 2) for x in OPERANDS}
    inputs = _cut(layer, mapping, copies["I"], transfers("I", "write", load["I"], moved["I"]))
    weights = transfers("W", "write", load["W"], moved["W"])
    span = _Queues(
        loads=[[a, *b] for a, b in zip(weights, inputs, strict=True)],
        sums=transfers("O", "write", load["O"], moved["O"]),
        stores=transfers("O", "read", store, left * rates.accumulator),
        units=flat(unit),
        leaves=flat(steps.leaves()),
        returns=flat(back),
        ahead=min(copies["W"], copies["I"]),
        buffers=copies["O"],
    )
    flat_kinds = flat(kinds)

    @cache
    def price(kind: int, bits: tuple[tuple[tuple[str, str], float], ...]) -> float:
        return cycles_of_tile(works[kind], dict(bits), machine, rates, flow.fill)

    def work(step: int, bits: dict[tuple[str, str], float]) -> float:
        return price(flat_kinds[step], tuple(sorted(bits.items())))

    return machine.latency + span.end(work)


def _first(machine: Hierarchy, x: str) -> str:
    """The memory of the first tier that holds an operand; empty if none does."""
    return next((s.name for s in machine.tiers[0] if x in s.holds), "")


@dataclass(frozen=True)
class _Transfer:
    """Cycles of the port, and bits that a memory of the first tier, (name, read | write), gives or takes."""

    time: float
    memory: tuple[str, str] | None
    bits: float


def _cut(layer: Layer, mapping: Mapping, copies: int, inputs: list[_Transfer]) -> list[list[_Transfer]]:
    """The transfers of the input before each step, of which `inputs` are the sums: as `emit` cuts them."""
    first = {d: t[0] for d, t in mapping.tiles.items()}
    order = mapping.orders[0]
    ring, moving = ring_of(layer, first, order, copies), moving_loop(layer, first, order)
    seen = cache(partial(coordinates, layer))
    found: list[list[_Transfer]] = []
    before: Step | None = None
    for whole, step in zip(inputs, steps_of(layer, first, order), strict=True):
        found.append([whole])
        if "I" in step.fresh:
            at = step.at
            wanted = [seen(0, at["P"], at["R"]), seen(1, at["Q"], at["S"])]
            same = before is not None and all(before.at[d] == at[d] for d in RELEVANT["I"] if d != moving)
            place, shared = ring.turn(wanted[ring.axis], same)
            wanted[ring.axis] = wanted[ring.axis][shared:]
            rooms = [ring.size - place if axis == ring.axis else None for axis in (0, 1)]
            cuts = [[n for *_, n in pieces(w, room)] for w, room in zip(wanted, rooms, strict=True)]
            apart = 1 if at["C"][1] == layer.extent["C"] else at["G"][1]
            one = [a * b for a in cuts[0] for b in cuts[1] for _ in range(apart)] * at["N"][1]
            if len(one) > 1:
                parts = [n / sum(one) for n in one]
                found[-1] = [_Transfer(whole.time * n, whole.memory, whole.bits * n) for n in parts]
        before = step
    return found


@dataclass(frozen=True)
class _Queues:
    """The steps as three queues over one port.

    Loads: `loads` before each step, one after the other, and last the `sums` of those to which they come back
    (`returns`). Work. Stores: `stores` of the steps after which a tile of O `leaves`, no less than the vector `units`.

    The first load of a step waits for a free buffer: `ahead` steps are in local memory. Sums wait for the tile of O
    that was in theirs, of `buffers`; work waits for its loads and for that tile, too.
    """

    loads: list[list[_Transfer]]
    sums: list[_Transfer]
    stores: list[_Transfer]
    units: list[float]
    leaves: list[bool]
    returns: list[bool]
    ahead: int
    buffers: int

    def end(self, work: Callable[[int, dict[tuple[str, str], float]], float]) -> float:
        """When the last store is done. `work(step, bits)` are the cycles of a step beside which memories of the first
        tier move so many bits to and from the outside: those that began since the work before.

        Who is ready first goes first, at the same time the store.
        """
        steps, ahead, buffers = len(self.loads), self.ahead, self.buffers
        tiles = [i for i in range(steps) if self.leaves[i]]  # the step after which each tile of O leaves
        comes = np.concatenate([[0], np.cumsum(self.leaves)[:-1]]).tolist()  # the tile of O of each step
        opens = [True, *self.leaves[:-1]]
        loaded: list[float] = []
        worked: list[float] = []
        stored: list[float] = []
        beside: dict[tuple[str, str], float] = {}
        part = 0  # the load of the step that is next
        before = port = 0.0  # the end of the last load; of the last transfer
        while len(stored) < len(tiles) or len(worked) < steps:
            best: tuple[float, float, int] | None = None
            i, k, n = len(loaded), len(worked), len(stored)
            if i < steps:
                last = part == len(self.loads[i])
                load = self.sums[i] if last else self.loads[i][part]
                out = comes[i] - buffers if last and self.returns[i] else -1
                if (part or i < ahead or i - ahead < k) and out < n:
                    ready = max(before, worked[i - ahead] if i >= ahead and not part else 0.0)
                    ready = max(ready, stored[out] if out >= 0 else 0.0)
                    best = (round(max(ready, port) if load.time else ready, 6), round(ready, 6), 0)
            if k < i:
                visit = comes[k] - buffers if opens[k] else -1
                if visit < n:
                    ready = max(worked[-1] if worked else 0.0, loaded[k], stored[visit] if visit >= 0 else 0.0)
                    now = round(ready, 6)
                    best = min(best or (now, now, -1), (now, now, -1))
            if n < len(tiles) and tiles[n] < k:
                ready = max(stored[-1] if stored else 0.0, worked[tiles[n]])
                found = (round(max(ready, port), 6), round(ready, 6), -2)
                best = found if best is None else min(best, found)
            assert best is not None, "queues that wait for each other"
            start, _, who = best
            if who == -1:
                worked.append(start + work(k, beside))
                beside.clear()
                continue
            one = load if who == 0 else self.stores[tiles[n]]
            if one.memory is not None and one.bits:
                beside[one.memory] = beside.get(one.memory, 0.0) + one.bits
            port = start + one.time if one.time else port
            if who == 0:
                before = start + one.time
                part = 0 if last else part + 1
                loaded += [before] if last else []
            else:
                stored.append(start + max(one.time, self.units[tiles[n]]))
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

    def works(self, machine: Hierarchy) -> tuple[list[Work], Array]:
        """What the array does: each kind of step once, and which kind each step is."""
        inside = Inside(array_of(self.layer, self.mapping, machine))
        kinds: Array = np.zeros(self.shape, np.int64)
        values: list[tuple[Any, Array]] = []
        for d in DIMS:
            sizes = sorted(set(self.sizes[d].tolist()))
            values.append((sizes, self.along(d, np.searchsorted(sizes, self.sizes[d]))))
        flags = [self.fresh(x) for x in "WIO"]
        for v in (*(at for _, at in values), *(f.astype(np.int64) for f in (*flags, self.first()))):
            kinds = kinds * (int(v.max()) + 1) + v
        _, where, of = np.unique(kinds.reshape(-1), return_index=True, return_inverse=True)

        def one(array: Array, at: int) -> Any:
            return np.broadcast_to(array, self.shape).reshape(-1)[at]

        found = []
        for at in where:
            extents = {d: sizes[one(i, at)] for d, (sizes, i) in zip(DIMS, values, strict=True)}
            fresh = frozenset(x for x, f in zip("WIO", flags, strict=True) if one(f, at))
            found.append(inside.run(extents, fresh, bool(one(self.first(), at))))
        return found, of.reshape(self.shape)
