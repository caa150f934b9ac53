"""Energy and time of mappings from their counts, and the checks that every result passes.

Energy [pJ]: every read and write of `counting.py` at its memory's price, plus the multiplications, plus what the
machine takes in every cycle whatever it does.

Time [cycles]: the array takes `steps`, and `fill` more for every tile that its elements take in; a shared memory takes
its traffic over its bandwidth; the slower one is the work, w on average per step of the outermost nest. Loads and
stores of the outermost memory share its bandwidth. Going from one step to the next, loads of the next tile (and the
store of the last) run beside the work if the first tier has room for two:

    load(first) + sum over changes j of  times_j * max(w, load_j + store_j)  + w + store(last)

Which loop advances says which tiles change, so there are at most four kinds of change, one per group of loops. Without
double buffering the maximum becomes a sum. Machines without a prologue take max(work, outermost traffic / bandwidth).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .counting import GROUPS, Block, Chains, Order, Traffic
from .hierarchy import Dataflow, Hierarchy, Rates, Store
from .layer import DIMS, OPERANDS, RELEVANT, Layer
from .tiling import Array

__all__ = ["Cost", "Entry", "check", "cost_of", "energy_of", "evaluate", "fits", "latency_of", "needed", "timeline"]
__all__ += ["work_of"]

SLACK = 1e-9  # relative; counts are sums of integers in floats


def energy_of(block: Block, orders: Sequence[Order]) -> Array:
    """pJ of the whole layer."""
    total: Any = block.rates.energy * block.layer.macs
    for x in OPERANDS:
        for t in block.traffic(x, orders):
            total = total + t.energy  # traffics are cached: most orders share most of them
    return np.asarray(total)


def folds(block: Block, orders: Sequence[Order]) -> Array:
    """How often the elements take in a tile of what they keep."""
    x = next((o for o in ("W", "O", "I") if o in block.held), None)
    if x is None:
        return np.ones(())
    tier = block.chains.levels - 1
    return block.count(tier, RELEVANT[x]) * block.visits(tier, orders, x)


def work_of(block: Block, flow: Dataflow, orders: Sequence[Order]) -> Array:
    """Cycles of the array and of the shared memories, whichever is more."""
    cycles: Any = block.steps * block.rates.cycles
    if flow.fill:
        cycles = cycles + folds(block, orders) * flow.fill
    cycles = cycles + flow.constant
    moved: dict[str, list[Any]] = {
        s.name: [s, 0.0, 0.0] for tier in block.machine.tiers for s in tier if not s.unlimited
    }
    for x in OPERANDS if moved else ():
        for t in block.traffic(x, orders):
            for store, read, written in ((t.outer, t.down_bits, t.up_bits), (t.inner, t.drain_bits, t.fill_bits)):
                if store is not None and store.name in moved:
                    sums = moved[store.name]
                    sums[1], sums[2] = sums[1] + read, sums[2] + written
    for store, read, written in moved.values():
        cycles = np.maximum(cycles, (read + written) / store.bandwidth)
        cycles = np.maximum(cycles, np.maximum(read / store.read_bandwidth, written / store.write_bandwidth))
    return np.asarray(cycles)


def latency_of(block: Block, flow: Dataflow, orders: Sequence[Order]) -> Array:
    """Cycles of the whole layer."""
    machine = block.machine
    work = work_of(block, flow, orders)
    links = [t for x in OPERANDS for t in block.traffic(x, orders) if t.outer is machine.outer]
    first = [t for t in links if any(t.inner is s for s in machine.tiers[0])]
    # what comes from the outermost memory but stays in none of the first tier
    deep = sum((_crossing(machine, t) for t in links if t not in first), np.zeros(()))
    return timeline(block, orders[0], work, first, deep)


def _crossing(machine: Hierarchy, t: Traffic) -> Array:
    """Cycles that a traffic takes the outermost memory."""
    return np.asarray(t.down_bits / machine.outer.reading + t.up_bits / machine.outer.writing)


def timeline(block: Block, order: Order, work: Array, first: Sequence[Traffic], deep: Array) -> Array:
    """Cycles when the array and the shared memories take `work` in all, the first tier is filled by `first`, and what
    passes it by keeps the outermost memory busy for `deep`."""
    machine = block.machine
    if not machine.prologue:
        return np.asarray(np.maximum(work, sum((_crossing(machine, t) for t in first), deep)))
    parts = _changes(block, order)
    steps = block.count(1, DIMS)
    each, deep = work / steps, deep / steps
    load: dict[str, Any] = dict.fromkeys(OPERANDS, 0.0)
    store: dict[str, Any] = dict.fromkeys(OPERANDS, 0.0)
    for t in first:
        events = parts[t.operand]
        # the first tile of O is not read: its refills belong to the changes alone
        reads = np.maximum(events - 1, 1) if t.operand == "O" else events
        load[t.operand] = t.down_bits / reads / machine.outer.reading
        store[t.operand] = t.up_bits / events / machine.outer.writing
    total = machine.latency + load["W"] + load["I"] + deep
    for times, changed in parts["changes"]:
        moved = deep
        for x, does in changed.items():
            moved = moved + does * (load[x] + store[x])
        total = total + times * (np.maximum(each, moved) if machine.overlap else each + moved)
    return np.asarray(total + each + store["O"])


def _changes(block: Block, order: Order) -> dict[str, Any]:
    """Of the outermost nest: the kinds of change (how often, which operands), and each operand's number of tiles."""
    key = ("changes", order.groups)
    found = block._cache.get(key)
    if found is not None:
        return found
    names = ("G", *order.groups)  # from the outside in
    dims = {"G": ("G",), **GROUPS}
    trips = [block.count(1, dims[g]) for g in names]
    busy = [block.busy(0, dims[g]) for g in names]
    changes = []
    around: Any = np.ones(())
    for i, g in enumerate(names):
        times = around * (trips[i] - 1)
        inner = [np.zeros((), bool)]
        changed: dict[str, Any] = {}
        for x in OPERANDS:
            if g != x:
                changed[x] = 1.0
            else:
                deeper = inner[0]
                for j in range(i + 1, len(names)):
                    deeper = deeper | busy[j]
                changed[x] = deeper.astype(np.float64)
        changes.append((times, changed))
        around = around * trips[i]
    found = {"changes": changes}
    for x in OPERANDS:
        found[x] = block.count(1, RELEVANT[x]) * block.visits(1, (order,), x)
    block._cache[key] = found
    return found


def fits(block: Block) -> Array:
    """Whether the tiles fit in every memory."""
    ok: Any = np.ones((), bool)
    for tier, stores in enumerate(block.machine.tiers):
        for store in stores:
            if store.capacity < np.inf:
                ok = ok & (needed(block, store, tier, store.holds) <= store.capacity)
    level = block.chains.levels - 1
    for store in block.machine.element:
        if store.holds & block.held and store.capacity < np.inf:
            ok = ok & (needed(block, store, level, store.holds & block.held) <= store.capacity)
    for x in sorted(block.held):
        if not any(x in store.holds for store in block.machine.element):
            ok = ok & (block.footprint(level, x) <= 1)  # a register keeps one word
    return np.asarray(ok)


def needed(block: Block, store: Store, level: int, operands: frozenset[str]) -> Array:
    """Bits that the tiles of a level take in a memory; one copy is the dense upper bound of a compressed tile."""
    total: Any = 0.0
    for x in sorted(operands):
        bits = block.rates.accumulator if x == "O" else block.rates.bits[x]
        total = total + block.footprint(level, x) * bits
    return np.asarray(total * store.copies)


@dataclass(frozen=True)
class Entry:
    """Reads and writes of one memory for one operand over the layer, in elements, and their energy in pJ."""

    store: str
    operand: str
    reads: float
    writes: float
    energy: float


@dataclass(frozen=True)
class Cost:
    """What one mapping costs. Cycles: `work` is what the array and the shared memories take by themselves."""

    energy: float  # pJ
    cycles: float
    work: float
    steps: float
    array: float  # the steps, shortened or lengthened by number formats and skipped zeros
    fill: float  # cycles lost to skew, loading and draining of the array
    outer_bits: float  # that cross the border of the outermost memory
    outer_cycles: float  # the outermost memory's traffic over its bandwidth
    mac_energy: float
    entries: tuple[Entry, ...]
    static_energy: float
    utilisation: float  # multiplications over elements times cycles

    @property
    def edp(self) -> float:
        """pJ x cycles."""
        return self.energy * self.cycles


def evaluate(block: Block, flow: Dataflow, orders: Sequence[Order], at: int = 0) -> Cost:
    """One mapping of a block in full; raises AssertionError where a count cannot be (a bug of ours)."""

    def one(a: Any) -> float:
        return float(np.broadcast_to(a, block.shape).reshape(-1)[at]) if block.shape else float(a)

    sums: dict[tuple[str, str], list[float]] = {}
    outer = outer_bits = 0.0
    for x in OPERANDS:
        for t in block.traffic(x, orders):
            row = sums.setdefault((t.outer.name, x), [0.0, 0.0, 0.0])
            row[0] += one(t.down)
            row[1] += one(t.up)
            row[2] += one(t.down_bits) * t.outer.read + one(t.up_bits) * t.outer.write
            if t.outer is block.machine.outer:
                outer_bits += one(t.down_bits) + one(t.up_bits)
                outer += one(t.down_bits) / t.outer.reading + one(t.up_bits) / t.outer.writing
            if t.inner is not None:
                row = sums.setdefault((t.inner.name, x), [0.0, 0.0, 0.0])
                row[0] += one(t.drain)
                row[1] += one(t.fill)
                row[2] += one(t.drain_bits) * t.inner.read + one(t.fill_bits) * t.inner.write
    entries = tuple(Entry(s, x, r, w, e) for (s, x), (r, w, e) in sums.items())
    cycles, steps = one(latency_of(block, flow, orders)), one(block.steps)
    made = Cost(
        energy=one(energy_of(block, orders)) + block.machine.static * cycles,
        cycles=cycles,
        work=one(work_of(block, flow, orders)),
        steps=steps,
        array=steps * block.rates.cycles,
        fill=one(folds(block, orders)) * flow.fill + flow.constant,
        outer_bits=outer_bits,
        outer_cycles=outer,
        static_energy=block.machine.static * cycles,
        mac_energy=block.rates.energy * block.layer.macs,
        entries=entries,
        utilisation=block.layer.macs / (block.machine.rows * block.machine.cols * cycles) if cycles else 0.0,
    )
    check(block.layer, block.machine, made)
    return made


def check(layer: Layer, machine: Hierarchy, cost: Cost) -> None:
    """Conservation: nothing negative, sums add up, every operand crosses the outermost memory at least once, no
    element multiplies twice in a cycle."""
    total = cost.mac_energy + cost.static_energy + sum(e.energy for e in cost.entries)
    assert abs(total - cost.energy) <= SLACK * max(total, 1.0), (total, cost.energy)
    for e in cost.entries:
        assert e.reads >= 0 and e.writes >= 0 and e.energy >= 0, e
        if e.store == machine.outer.name:
            moved = e.writes if e.operand == "O" else e.reads
            assert moved >= layer.words(e.operand) * (1 - SLACK), (e, layer.words(e.operand))
            if e.operand == "O":
                assert abs(e.writes - e.reads - layer.words("O")) <= SLACK * e.writes, e
    assert cost.steps * machine.rows * machine.cols >= layer.macs * (1 - SLACK), cost
    assert cost.cycles >= cost.work * (1 - SLACK) and cost.cycles >= cost.outer_cycles * (1 - SLACK), cost


def cost_of(
    machine: Hierarchy, rates: Rates, flow: Dataflow, layer: Layer, tiles: dict[str, Any], orders: Sequence[Order]
) -> Cost:
    """The cost of one mapping: `tiles[loop]` are its tile sizes from the first tier to the element."""
    chains = Chains(layer, {d: np.asarray(t, np.int64).reshape(-1, 1) for d, t in tiles.items()})
    index = {d: np.zeros(1, np.int64) for d in tiles}
    return evaluate(Block(machine, rates, flow.held, chains, index), flow, orders)
