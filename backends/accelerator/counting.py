"""How often every memory is read and written, exactly, for whole blocks of mappings at once.

These are the rules; the simulators execute the same.

*Loops.* Nest t (0 .. J) runs over the tiles of tier t+1 inside a tile of tier t; nest J runs over tiles of the array.
Inside an array tile the loops are unrolled in space, inside an element they run over single steps. The order of a nest
is one of `ORDERS`: G outermost, then three groups of loops, each of which reuses one operand (N P Q: W; K: I;
C R S: O). Only the innermost group with more than one iteration matters to the counts, so these orders cover all 8!.

*Loads.* The tile of W or I in a memory is loaded inside the innermost loop, above that memory, that changes it and has
more than one iteration (in a full tile; an edge never reloads where a full tile does not). It is loaded in every
iteration of the loops around that point, also of those that do not change it. If no loop changes it, it is loaded once.
What loads: the nearest memory further out that holds the operand; reading once serves all elements (multicast), every
element writes its own copy.

*Partial sums.* The tile of O is placed by the same rule. Leaving it, it is written to the memory outside; coming back
to it, it is read from there first; the first visit reads nothing. V visits: V writes, V - 1 reads of each element. In
the outermost memory the last write has the bits of the result, all others those of the accumulator.

*Streams.* An operand that elements do not keep comes from the innermost memory that holds it, in every step once for
all elements that use it; O that elements do not keep is added to the memory in every step: V writes, V - 1 reads, V
the number of steps that its element takes part in. Products summed over rows or columns reach the memory as one.

*Windows.* Input tiles overlap. A tile holds the distinct coordinates its outputs touch (none between strides). From the
outermost memory only coordinates inside of the image are loaded; memories further in supply zeros for pads, and a read
of a pad counts as a read. With `halo`, a tile of the first tier whose innermost changing loop is P (Q) keeps the rows
(columns) it shares with its predecessor: along that loop every coordinate is loaded once a sweep (if not dilated).

*Edges.* Sizes of partial tiles are summed as they are; nothing is rounded up to full tiles, except time: an array tile
takes the steps of its fullest element, min(element tile, what is left).

*Element file.* A multiplication reads W and I and writes O once in the memory closest to it; it reads O unless the sum
starts there: (multiplications) - (tiles drained) + (tiles refilled) reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .chains import Chains
from .hierarchy import Hierarchy, Rates, Store
from .layer import DIMS, OWN, RELEVANT
from .orders import GROUPS, INNER_ORDERS, ORDERS, Order
from .tiling import Array

__all__ = ["GROUPS", "INNER_ORDERS", "ORDERS", "Block", "Chains", "Order", "Traffic"]


@dataclass(frozen=True)
class Traffic:
    """What moves between two memories for one operand, in elements and in bits, over the whole layer.

    `down`/`up` are reads and writes of the outer memory, `fill`/`drain` writes and reads of the inner one (None: the
    multipliers).
    """

    operand: str
    outer: Store
    inner: Store | None
    down: Array
    up: Array
    fill: Array
    drain: Array
    down_bits: Array
    up_bits: Array
    fill_bits: Array
    drain_bits: Array

    @cached_property
    def energy(self) -> Array:
        """pJ."""
        total = self.down_bits * self.outer.read + self.up_bits * self.outer.write
        if self.inner is not None:
            total = total + self.fill_bits * self.inner.write + self.drain_bits * self.inner.read
        return total


class Block:
    """Counts of a block of mappings that share a hierarchy, a dataflow and an unrolling; orders are given per call."""

    def __init__(
        self,
        machine: Hierarchy,
        rates: Rates,
        held: frozenset[str],
        chains: Chains,
        index: Mapping[str, Array],
    ) -> None:
        self.machine, self.rates, self.held, self.chains, self.index = machine, rates, held, chains, index
        self.layer = chains.layer
        self.shape = np.broadcast_shapes(*(np.shape(i) for i in index.values()))
        self._cache: dict[Any, Any] = {}
        self._paths = {x: machine.path(x, held) for x in OWN}

    # --- loops --------------------------------------------------------------------------------------------------------

    def tile(self, d: str, level: int) -> Array:
        return self.chains.tiles[d][level][self.index[d]]

    def _product(self, key: str, dims: Sequence[str], table: Any) -> Array:
        """The product over dims of `table(d)` gathered; loops of one iteration are left out."""
        found = self._cache.get(("product", key, tuple(dims)))
        if found is None:
            found = np.ones(())
            for d in dims:
                if self.layer.extent[d] > 1:
                    found = found * table(d)[self.index[d]].astype(np.float64)
            self._cache["product", key, tuple(dims)] = found
        return found

    def count(self, tier: int, dims: Sequence[str]) -> Array:
        """Tiles of a tier in the whole layer, over some loops; tier J+1 is the array, J+2 the element."""
        if tier == 0:
            return np.ones(())
        return self._product(f"n{tier}", dims, lambda d: self.chains.counts[d][tier - 1])

    def busy(self, nest: int, dims: Sequence[str]) -> Array:
        """Whether any of these loops has more than one iteration in a nest, in a full tile."""
        key = ("busy", nest, tuple(dims))
        if key not in self._cache:
            found = np.zeros((), bool)
            for d in dims:
                if self.layer.extent[d] > 1:
                    tiles = self.chains.tiles[d]
                    outer = tiles[nest - 1] if nest else np.full_like(tiles[0], self.layer.extent[d])
                    found = found | (outer > tiles[nest])[self.index[d]]
            self._cache[key] = found
        return self._cache[key]

    def _around(self, nest: int, order: Order, x: str) -> Array:
        """Whether the loops that reuse x run around its tile in this nest: some group further in changes it."""
        place = order.groups.index(x)
        inner = [d for g in order.groups[place + 1 :] for d in GROUPS[g]]
        return self.busy(nest, inner)

    def visits(self, tier: int, orders: Sequence[Order], x: str) -> Array:
        """How often each element of x is brought to a tier: iterations of loops around it that do not change it."""
        key = ("visits", tier, tuple(orders[:tier]), x)
        if key not in self._cache:
            found = np.ones(())
            for nest in range(min(tier, self.chains.levels - 1)):
                changes = self.busy(nest, RELEVANT[x])
                here = np.where(
                    self._around(nest, orders[nest], x), self.count(nest + 1, OWN[x]), self.count(nest, OWN[x])
                )
                found = np.where(changes, here, found)
            self._cache[key] = found
        return self._cache[key]

    def copies(self, orders: Sequence[Order], x: str) -> Array:
        """`visits` at the elements, the copies that each of them takes counted: as many as its first array tile has."""
        nests = self.chains.levels - 1
        key = ("copies", tuple(orders), x)
        if key not in self._cache:
            found = self._first(0, x)
            for nest in range(nests):
                inside = self.count(nest + 2, OWN[x]) if nest == nests - 1 else self._first(nest + 1, x)
                here = np.where(self._around(nest, orders[nest], x), inside, self._first(nest, x))
                found = np.where(self.busy(nest, RELEVANT[x]), here, found)
            self._cache[key] = found
        return self._cache[key]

    def _first(self, tier: int, x: str) -> Array:
        """Elements that share an entry of x in the first array tile of every tile of a tier, summed over the tiles."""
        return self._product(f"first{tier}", OWN[x], lambda d: self.chains.first(d, tier))

    @cached_property
    def steps(self) -> Array:
        """Cycles in which the array multiplies, one multiplication an element and cycle."""
        return self._product("steps", DIMS, lambda d: self.chains.steps[d])

    def busiest(self, x: str) -> Array:
        """Steps along the loops that do not change x: how often a streamed element is asked for."""
        return self._product("steps", OWN[x], lambda d: self.chains.steps[d])

    # --- elements -----------------------------------------------------------------------------------------------------

    def _input(self, what: tuple[str, str], level: int) -> Array:
        """Elements of I over all tiles of a level; `what` names the pair tables of rows and columns."""
        e = self.layer.extent
        return e["N"] * e["G"] * e["C"] * self._rows(what[0], 0, level) * self._rows(what[1], 1, level)

    def _rows(self, what: str, axis: int, level: int) -> Array:
        a, b = ("P", "R") if axis == 0 else ("Q", "S")
        key = ("rows", what, axis, level)
        if key not in self._cache:
            table = self.chains.pair(what, axis, level)
            self._cache[key] = table[self.index[a], self.index[b]].astype(np.float64)
        return self._cache[key]

    def volume(self, tier: int, x: str, order: Order | None = None, outermost: bool = False) -> Array:
        """Elements of all tiles of a tier, each tile once; overlapping input counted as often as it is loaded."""
        if x != "I":
            return np.asarray(float(self.layer.words(x)))
        level = tier - 1
        if tier == 1 and outermost:
            if not self.machine.halo or order is None:
                return self._input(("load", "load"), 0)
            return self._cached(order)
        return self._input(("span", "span"), level)

    def _cached(self, order: Order) -> Array:
        key = ("kept", order.groups, order.last)
        if key not in self._cache:
            blocked = np.zeros((), bool)
            if order.groups.index("O") > order.groups.index("W"):
                blocked = self.busy(0, GROUPS["O"])
            first, other = (0, 1) if order.last == "P" else (1, 0)
            keep = {first: ~blocked, other: ~blocked & ~self.busy(0, ("P" if order.last == "P" else "Q",))}
            e = self.layer.extent
            found = np.asarray(float(e["N"] * e["G"] * e["C"]))
            for axis in (0, 1):
                if self.layer.dilations[axis] > 1:  # a tile does not hold all that its successors share with others
                    keep[axis] = np.zeros((), bool)
                found = found * np.where(keep[axis], self._rows("sweep", axis, 0), self._rows("load", axis, 0))
            self._cache[key] = found
        return self._cache[key]

    def stream(self, x: str) -> tuple[Array, Array]:
        """(elements, times) of an operand that comes from a shared memory in every step."""
        times = self.busiest(x)
        if x != "I":
            return np.asarray(float(self.layer.words(x))), times
        e = self.layer.extent
        found = np.asarray(float(e["N"] * e["G"] * e["C"]))
        array = self.chains.levels - 2
        for axis, (a, b) in enumerate((("P", "R"), ("Q", "S"))):
            wide = [self.tile(d, array) > self.tile(d, array + 1) for d in (a, b)]
            found = found * np.where(wide[0] & wide[1], self._rows("span", axis, array), self._rows("pairs", axis, 0))
        return found, times

    def footprint(self, level: int, x: str) -> Array:
        """Elements of the largest tile of a level."""
        dims = [d for d in RELEVANT[x] if x != "I" or d not in "PQRS"]
        found = self._product(f"tile{level}", dims, lambda d: self.chains.tiles[d][level])
        if x == "I":
            found = found * self._rows("tile", 0, level) * self._rows("tile", 1, level)
        return found

    # --- traffic ------------------------------------------------------------------------------------------------------

    def traffic(self, x: str, orders: Sequence[Order]) -> list[Traffic]:
        """What moves of one operand, from the outermost link to the multipliers."""
        path = self._paths[x]
        links = [self.link(x, path[i], path[i + 1], orders) for i in range(len(path) - 1)]
        return [*links, self._last(x, path[-1], orders)]

    def link(self, x: str, outer: tuple[int, Store], inner: tuple[int, Store], orders: Sequence[Order]) -> Traffic:
        tier, store = inner
        element = tier == self.chains.levels  # J + 2
        key = ("link", x, tier, tuple(orders[: min(tier, self.chains.levels - 1)]))
        if key in self._cache:
            return self._cache[key]
        array_tier = tier - 1 if element else tier
        visits = self.visits(array_tier, orders, x)
        volume = self.volume(array_tier, x, orders[0], outer[0] == 0)
        own = self.volume(tier, x, orders[0], outer[0] == 0) if element else volume
        copies = self.copies(orders, x) if element else visits
        made = self._moved(x, outer, store, volume, visits, own, copies)
        self._cache[key] = made
        return made

    def _moved(
        self,
        x: str,
        outer: tuple[int, Store],
        inner: Store | None,
        volume: Array,
        visits: Array,
        own: Array,
        copies: Array,
    ) -> Traffic:
        zero = np.zeros(())
        bits = self.rates.bits[x]
        if x != "O":
            down, fill = volume * visits, own * copies
            return Traffic(x, outer[1], inner, down, zero, fill, zero, down * bits, zero, fill * bits, zero)
        up, down = volume * visits, volume * (visits - 1)
        acc = self.rates.accumulator
        drain = own * copies
        up_bits = volume * (bits + (visits - 1) * acc) if outer[0] == 0 else up * acc
        return Traffic(x, outer[1], inner, down, up, down, drain, down * acc, up_bits, down * acc, drain * acc)

    def _last(self, x: str, at: tuple[int, Store], orders: Sequence[Order]) -> Traffic:
        """Between the innermost memory of an operand and the multipliers."""
        zero = np.zeros(())
        if at[0] < self.chains.levels:
            key = ("stream", x)
            if key not in self._cache:
                volume, times = self.stream(x)
                self._cache[key] = self._moved(x, at, None, volume, times, zero, zero)
            return self._cache[key]
        macs = np.asarray(float(self.layer.macs))
        bits = self.rates.bits[x]
        if x != "O":
            return Traffic(x, at[1], None, macs, zero, zero, zero, macs * bits, zero, zero, zero)
        path = self._paths[x]
        link = self.link(x, path[-2], path[-1], orders)
        read = macs - link.drain + link.fill
        acc = self.rates.accumulator
        return Traffic(x, at[1], None, read, macs, zero, zero, read * acc, macs * acc, zero, zero)
