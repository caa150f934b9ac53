"""What happens inside one tile of the first tier: loops over array tiles, executed, every load an event.

The rules are those in the docstring of `counting.py`; here they are carried out, not solved.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..counting import Order
from ..hierarchy import Hierarchy, Rates
from ..layer import DIMS, OPERANDS, OWN, RELEVANT, Layer
from ..mapping import Mapping as LayerMapping

__all__ = ["Array", "Inside", "Work", "array_of", "cycles_of_tile"]

Tile = dict[str, int]
"""Extents by loop."""


@dataclass(frozen=True)
class Array:
    """What a layer's mapping fixes below the first tier.

    `tiles[d]` from the first tier to the element; `orders` of all nests; `full` the sizes of the layer; `paths[x]` are
    the memories that hold an operand as (tier, name), from the outermost (tier 0) on; `held` stay in the elements.
    """

    full: Mapping[str, int]
    tiles: Mapping[str, tuple[int, ...]]
    orders: tuple[Order, ...]
    held: frozenset[str]
    paths: Mapping[str, tuple[tuple[int, str], ...]]
    files: Mapping[str, str]  # of held operands, the element's memory
    strides: tuple[int, int]
    dilations: tuple[int, int]


@dataclass
class Work:
    """Steps of the array, tiles its elements take in (`folds`), and accesses by (memory, operand, read | write)."""

    steps: int = 0
    folds: int = 0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, other: Work, times: int) -> None:
        """The same once more, `times` times."""
        self.steps += other.steps * times
        self.folds += other.folds * times
        for key, n in other.counts.items():
            self.counts[key] += n * times


class Inside:
    """Executes tiles of the first tier, and remembers those it has seen.

    Of a loop's iterations the first one, a later one and a smaller last one are carried out; the others are like the
    later one. What an iteration does depends on its extents, on which operands still wait for their first use since
    something moved them (`waiting`), and on where partial sums have been begun (`begun`).
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        self.nests = nests = len(array.orders)
        around = [dict(array.full), *({d: t[i] for d, t in array.tiles.items()} for i in range(nests))]
        # loops with more than one iteration in a full tile, from the outside in
        busy = [(n, d) for n in range(nests) for d in array.orders[n].loops if around[n][d] > around[n + 1][d]]
        outside = sum(n == 0 for n, _ in busy)  # loops that the program runs
        self.loops = busy[outside:]
        self.taken = next((x for x in ("W", "O", "I") if x in array.held), None)
        # (operand, tier, memory outside, memory, how many of the loops inside decide what it is there)
        self.links: list[tuple[str, int, str, str, int]] = []
        for x in OPERANDS:
            path = array.paths[x]
            hops = [(outer, *inner) for (_, outer), inner in itertools.pairwise(path) if inner[0] >= 2]
            if x in array.held:
                hops.append((path[-1][1], nests, array.files[x]))
            for outer, tier, name in hops:
                deep = [i + 1 for i, (n, d) in enumerate(busy) if n < tier and d in RELEVANT[x]]
                self.links.append((x, tier, outer, name, max(0, max(deep, default=0) - outside)))
        self.known: dict[Any, Work] = {}

    def run(self, extents: Mapping[str, int], fresh: frozenset[str], begins: bool) -> Work:
        """A tile of these extents; `fresh` operands are new in the first tier, `begins`: its sums start here."""
        tile = tuple(extents[d] for d in DIMS)
        waiting = frozenset(i for i, (x, _, _, _, deep) in enumerate(self.links) if deep or x in fresh)
        begun = frozenset() if begins else frozenset([*range(len(self.links)), -1])
        return self._loop(0, (tile,) * (self.nests + 1), waiting, begun)

    def _loop(self, i: int, tiles: tuple[tuple[int, ...], ...], waiting: frozenset[int], begun: frozenset[int]) -> Work:
        key = (i, tiles, waiting, begun)
        if key in self.known:
            return self.known[key]
        if i == len(self.loops):
            found = self._array(tiles, waiting, begun)
        else:
            n, d = self.loops[i]
            at, size = DIMS.index(d), self.array.tiles[d][n]
            whole, rest = divmod(tiles[n][at], size)
            links = enumerate(self.links)
            later = frozenset(k for k in waiting if self.links[k][4] > i) | frozenset(
                k for k, (*_, deep) in links if deep > i
            )
            started = begun
            if d in ("C", "R", "S"):
                started = begun | {-1} | {k for k, (*_, deep) in enumerate(self.links) if deep > i}
            found = Work()
            for count, extent, first in (
                (min(whole, 1), size, True),
                (max(0, whole - 1), size, False),
                (int(rest > 0), rest, whole == 0),
            ):
                if count:
                    inner = (*tiles[: n + 1], *(_cut(t, at, extent) for t in tiles[n + 1 :]))
                    part = self._loop(i + 1, inner, waiting if first else later, begun if first else started)
                    found.add(part, count)
        self.known[key] = found
        return found

    def _array(self, tiles: tuple[tuple[int, ...], ...], waiting: frozenset[int], begun: frozenset[int]) -> Work:
        """One tile of the array."""
        a, work = self.array, Work()
        inner = dict(zip(DIMS, tiles[self.nests], strict=True))
        work.steps = math.prod(min(a.tiles[d][-1], inner[d]) for d in DIMS)
        for k in waiting:
            x, tier, outer, name, _ = self.links[k]
            self._bring(work, x, tier, outer, name, dict(zip(DIMS, tiles[tier], strict=True)), k in begun)
        for x in OPERANDS:
            self._multiply(work, x, inner, -1 in begun)
        return work

    def _bring(self, work: Work, x: str, tier: int, outer: str, name: str, tile: Tile, back: bool) -> None:
        """The tile of an operand comes to a tier (and that of O leaves it); `back`: its sums were begun before."""
        array = tier == self.nests
        volume = self._volume(x, tile)
        held = array and x in self.array.held
        copies = self._copies(x, tile) if held else volume
        if array and x == self.taken:
            work.folds += 1
        c = work.counts
        if x != "O":
            c[outer, x, "read"] += volume
            c[name, x, "write"] += copies
            return
        c[outer, x, "write"] += volume
        if back:
            c[outer, x, "read"] += volume
            c[name, x, "write"] += volume
        if held:
            # draining reads each sum, but where a sum starts the multiplier read none: only refilled ones count twice
            c[name, x, "read"] += volume if back else 0
        else:
            c[name, x, "read"] += copies

    def _multiply(self, work: Work, x: str, tile: Tile, begun: bool) -> None:
        """Reads and writes of the multipliers over the steps of an array tile."""
        a, c = self.array, work.counts
        if x in a.held:
            macs = math.prod(tile.values())
            c[a.files[x], x, "read"] += macs
            if x == "O":
                c[a.files[x], x, "write"] += macs
            return
        where = a.paths[x][-1][1]
        times = math.prod(min(a.tiles[d][-1], tile[d]) for d in OWN[x])
        if x == "I":
            used = times * math.prod(tile[d] for d in ("N", "G", "C"))
            for p, r, i in (("P", "R", 0), ("Q", "S", 1)):
                used *= self._touched(tile[p], tile[r], a.tiles[p][-1], a.tiles[r][-1], i)
            c[where, x, "read"] += used
            return
        volume = math.prod(tile[d] for d in RELEVANT[x])
        if x == "W":
            c[where, x, "read"] += volume * times
            return
        c[where, x, "write"] += volume * times
        c[where, x, "read"] += volume * (times - (not begun))

    def _touched(self, p: int, r: int, own_p: int, own_r: int, axis: int) -> int:
        """Coordinates that the elements use, summed over steps: elements that share one read it once."""
        total = 0
        for i, j in itertools.product(range(min(own_p, p)), range(min(own_r, r))):
            rows = range(i, p, own_p)
            taps = range(j, r, own_r)
            total += len({y * self.array.strides[axis] + t * self.array.dilations[axis] for y in rows for t in taps})
        return total

    def _volume(self, x: str, tile: Tile) -> int:
        if x != "I":
            return math.prod(tile[d] for d in RELEVANT[x])
        return math.prod(tile[d] for d in ("N", "G", "C")) * self._rows(tile, 0) * self._rows(tile, 1)

    def _rows(self, tile: Tile, axis: int) -> int:
        p, r = ("P", "R") if axis == 0 else ("Q", "S")
        s, d = self.array.strides[axis], self.array.dilations[axis]
        return len({i * s + j * d for i in range(tile[p]) for j in range(tile[r])})

    def _copies(self, x: str, tile: Tile) -> int:
        """Elements of an operand over all elements of the array, each its own copy."""
        parts = {d: self._parts(tile[d], self.array.tiles[d][-1]) for d in DIMS}
        own = math.prod(len(parts[d]) for d in OWN[x])
        if x != "I":
            return own * math.prod(tile[d] for d in RELEVANT[x])
        total = own * math.prod(tile[d] for d in ("N", "G", "C"))
        for p, r, axis in (("P", "R", 0), ("Q", "S", 1)):
            s, d = self.array.strides[axis], self.array.dilations[axis]
            total *= sum(len({i * s + j * d for i in range(a) for j in range(b)}) for a in parts[p] for b in parts[r])
        return total

    @staticmethod
    def _parts(extent: int, size: int) -> Sequence[int]:
        return [min(size, extent - i) for i in range(0, extent, size)]


def _cut(tile: tuple[int, ...], at: int, extent: int) -> tuple[int, ...]:
    return (*tile[:at], extent, *tile[at + 1 :])


def array_of(layer: Layer, mapping: LayerMapping, machine: Hierarchy) -> Array:
    """What the layer's instructions find the array set up to."""
    files = {}
    for x in mapping.held:
        files[x] = next((s.name for s in machine.element if x in s.holds), "register")
    paths = {}
    for x in OPERANDS:
        path = machine.path(x, frozenset())
        paths[x] = tuple((tier, store.name) for tier, store in path)
    return Array(
        layer.extent, mapping.tiles, mapping.orders, mapping.held, paths, files, layer.strides, layer.dilations
    )


def cycles_of_tile(
    work: Work, moved: Mapping[tuple[str, str], float], machine: Hierarchy, rates: Rates, fill: int
) -> float:
    """Cycles of the array, or of a memory that cannot keep up; `moved` bits go to and from DRAM in the same time."""
    cycles = work.steps * rates.cycles + work.folds * fill
    bits = dict(moved)
    for (name, x, what), n in work.counts.items():
        bits[name, what] = bits.get((name, what), 0.0) + n * (rates.accumulator if x == "O" else rates.bits[x])
    for tier in machine.tiers:
        for store in tier:
            read, written = (bits.get((store.name, what), 0.0) for what in ("read", "write"))
            cycles = max(cycles, (read + written) / store.bandwidth)
            cycles = max(cycles, read / store.read_bandwidth, written / store.write_bandwidth)
    return float(cycles)
