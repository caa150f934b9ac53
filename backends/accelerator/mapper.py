"""The exact mapper: the best of all mappings of a space, with a certificate that nothing better is in it.

    for every unrolling, in the order of its bound                    (all traffic compulsory, array always full)
        for blocks of outer tiles, in the order of their bounds       (outer traffic exact, inner traffic compulsory)
            all inner tiles and orders of the block at once
        until a bound reaches the best mapping found

Bounds are sound because a tile deeper inside is brought in at least as often as the one around it, and because edges
only add steps; the tests compare with a search that bounds nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bounds import Inner, least_of, outer_bounds
from .cost import Cost, energy_of, evaluate, fits, latency_of, needed
from .counting import Block, Order
from .hierarchy import Hierarchy, Rates
from .layer import DIMS, Layer
from .mapping import Certificate, Mapping
from .refusal import refusal
from .space import Space, unrollings
from .tiling import Array

__all__ = ["OBJECTIVES", "Result", "search"]

OBJECTIVES = ("edp", "energy", "latency", "pareto")
FIRST, BLOCK = 256, 1 << 14  # mappings tilings evaluated at once: few first, for an early incumbent
TIE = 1e-12  # relative: differences below it are rounding, and the earlier mapping stays


@dataclass(frozen=True)
class Result:
    """The best mapping (with `pareto`, all that are worth having, by energy), its cost and the certificate."""

    layer: Layer
    mappings: tuple[Mapping, ...]
    costs: tuple[Cost, ...]
    certificate: Certificate

    @property
    def mapping(self) -> Mapping:
        return self.mappings[0]

    @property
    def cost(self) -> Cost:
        return self.costs[0]


def search(
    layer: Layer,
    machine: Hierarchy,
    rates: Rates,
    objective: str = "edp",
    *,
    divisors: bool = False,
    whole: bool = False,
) -> Result:
    """The optimum over all dataflows and unrollings; IG0530 when nothing fits, saying what lacks how much.

    Where a memory is too small for what the whole array takes in, the array is used in part: one half of it, a quarter
    and so on, until something fits; not so with `whole`.
    """
    state = _Search(layer, machine, rates, objective)
    parts = 1
    while True:
        _search_part(state, parts, divisors)
        if state.front:
            return state.result()
        if parts * 2 > machine.rows * machine.cols or whole:
            raise refusal(layer, machine, rates, parts)
        parts *= 2


def _search_part(state: _Search, parts: int, divisors: bool) -> None:
    """All dataflows, on 1/parts of the array: the best bound first, which is refined before it is searched."""
    layer, machine, rates = state.layer, state.machine, state.rates
    todo: list[tuple[float, int, Space, Inner | None, float, float]] = []
    for flow in machine.dataflows:
        for unrolling in unrollings(layer, flow, machine, parts):
            space = Space(layer, machine, flow, unrolling, divisors=divisors)
            state.points += space.points
            first, inside, cycles = least_of(space, rates)
            energy = first + inside
            todo.append((float(state.score(energy, cycles)), len(todo), space, None, energy, cycles))
    heapq.heapify(todo)
    while todo:
        bound, number, space, inner, energy, cycles = heapq.heappop(todo)
        if state.beaten(np.array([energy]), np.array([cycles]))[0]:
            state.skip(bound)
        elif inner is not None:
            _search_space(space, inner, rates, state)
        elif not (inner := Inner(space, rates)).size:  # no element tile fits
            state.over_capacity += space.points
        else:
            first, inside, _ = least_of(space, rates)
            energy = first + max(inside, float(inner.energy[0]))
            heapq.heappush(todo, (float(state.score(energy, cycles)), number, space, inner, energy, cycles))


# --- one unrolling ----------------------------------------------------------------------------------------------------


def _search_space(space: Space, inner: Inner, rates: Rates, state: _Search) -> None:
    index = space.all_outer()
    every: Any = 1
    for d in DIMS:
        every = every * space.inside[d][index[d]]
    orders = len(space.sequences)
    outer = Block(space.machine, rates, space.flow.held, space.coarse, index)
    ok = np.broadcast_to(_fits_first(outer), outer.shape)
    state.over_capacity += int(every[~ok].sum()) * orders
    keep = np.flatnonzero(ok)
    if not keep.size:
        return
    index = {d: i[keep] for d, i in index.items()}
    outer = Block(space.machine, rates, space.flow.held, space.coarse, index)
    filling, inside, cycles = outer_bounds(space, rates, outer)
    energy = filling + np.maximum(inside, inner.energy[0])
    least = state.score(energy, cycles).min(0)
    order = np.argsort(least, kind="stable")
    # where there are choices inside, each outermost order has its own: a pair of tiles seldom suits several
    apart = [(n,) for n in range(len(energy))] if inner.size > 1 else [tuple(range(len(energy)))]
    at, size = 0, FIRST
    while at < order.size:
        part = order[at : at + size]
        at, size = at + part.size, min(2 * size, BLOCK) if inner.size > 1 else BLOCK
        if state.beaten(energy[:, part], cycles[:, part]).all():
            state.skip(float(least[part].min()))
            if state.objective != "pareto":
                break  # bounds ascend: all that follow are beaten too
            continue
        for some in apart:
            _take_orders(space, inner, rates, state, index, part, some, (filling, inside, cycles))


def _take_orders(
    space: Space,
    inner: Inner,
    rates: Rates,
    state: _Search,
    index: dict[str, Array],
    part: Array,
    some: tuple[int, ...],
    bounds: tuple[Array, Array, Array],
) -> None:
    """Evaluate outer tiles with some of the outermost orders, as far as their bounds are of use."""
    filling, inside, cycles = (b[list(some)][:, part] for b in bounds)
    room = state.room(cycles) - filling  # what energy inside may be, to be of use
    alive = ((inside < room) & (inner.energy[0] < room)).any(0)
    if not alive.all():
        energy = filling[:, ~alive] + np.maximum(inside[:, ~alive], inner.energy[0])
        state.skip(float(np.min(state.score(energy, cycles[:, ~alive]))))
    if not alive.any():
        return
    many = np.searchsorted(inner.energy, room[:, alive].max(0), side="left")
    if (many < inner.size).any():
        state.skip(_left_out(state, inner, many, filling[:, alive], cycles[:, alive]))
    outer = {d: i[part[alive]] for d, i in index.items()}
    firsts = [space.orders[0][n] for n in some]
    for block, entries in _expand(space, rates, inner, outer, many):
        state.take(block, entries, space, firsts)


def _left_out(state: _Search, inner: Inner, many: Array, filling: Array, cycles: Array) -> float:
    """The least bound of the pairs that are not evaluated."""
    there = many < inner.size
    energy = filling[:, there] + inner.energy[many[there]]
    return float(np.min(state.score(energy, cycles[:, there])))


def _fits_first(block: Block) -> Array:
    ok: Any = np.ones((), bool)
    for store in block.machine.tiers[0]:
        if store.capacity < np.inf:
            ok = ok & (needed(block, store, 0, store.holds) <= store.capacity)
    return np.asarray(ok)


def _expand(
    space: Space, rates: Rates, inner: Inner, outer: dict[str, Array], many: Array
) -> Iterator[tuple[Block, dict[str, Array]]]:
    """Blocks of the outer tiles, each with the first so many of the inner choices."""
    ends = np.cumsum(many)
    at = 0
    while at < len(many):
        done = ends[at - 1] if at else 0
        end = max(at + 1, int(np.searchsorted(ends, done + BLOCK, side="right")))
        rows = np.repeat(np.arange(at, end), many[at:end])
        which = np.arange(len(rows)) - np.repeat(ends[at:end] - many[at:end] - done, many[at:end])
        for a in range(0, len(rows), BLOCK):
            o, i = rows[a : a + BLOCK], which[a : a + BLOCK]
            ok = np.ones(o.shape, bool)
            for n, d in enumerate(inner.free):
                ok &= space.valid[d][outer[d][o], inner.choices[n, i]]
            o, i = o[ok], i[ok]
            if not o.size:
                continue
            entries = {d: outer[d][o] * space.inner[d].shape[1] for d in DIMS}
            for n, d in enumerate(inner.free):
                entries[d] = entries[d] + inner.choices[n, i]
            yield Block(space.machine, rates, space.flow.held, space.chains, entries), entries
        at = end


# --- the best so far --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    energy: float
    cycles: float
    space: Space
    orders: tuple[Order, ...]
    entry: dict[str, int]


class _Search:
    def __init__(self, layer: Layer, machine: Hierarchy, rates: Rates, objective: str) -> None:
        self.layer, self.machine, self.rates, self.objective = layer, machine, rates, objective
        self.front: list[_Candidate] = []  # by energy; one unless the objective is `pareto`
        self.best = np.inf
        self.points = self.evaluated = self.over_capacity = 0
        self.bound = np.inf  # the least bound of what was not evaluated

    def score(self, energy: Any, cycles: Any) -> Any:
        if self.objective == "energy":
            return energy * 1.0
        if self.objective == "latency":
            return cycles * 1.0
        return energy * cycles

    def room(self, cycles: Array) -> Array:
        """The energy below which a mapping of at least that many cycles would be of use."""
        if self.objective == "energy":
            return np.full(cycles.shape, self.best * (1 - TIE))
        if self.objective == "latency":
            return np.where(cycles < self.best * (1 - TIE), np.inf, -np.inf)
        if self.objective == "edp":
            return np.asarray(self.best * (1 - TIE) / cycles)
        if not self.front:
            return np.full(cycles.shape, np.inf)
        known = np.array([c.cycles for c in self.front])[::-1]  # ascending; energies then descend
        energy = np.array([c.energy for c in self.front])[::-1]
        at = np.searchsorted(known, cycles * (1 + TIE), side="right") - 1
        return np.where(at >= 0, energy[np.maximum(at, 0)] * (1 - TIE), np.inf)

    def beaten(self, energy: Array, cycles: Array) -> Array:
        """Whether nothing of these bounds can improve on what is known."""
        return np.asarray(energy >= self.room(cycles))

    def skip(self, bound: float) -> None:
        self.bound = min(self.bound, bound)

    def take(self, block: Block, entries: dict[str, Array], space: Space, firsts: list[Order]) -> None:
        """Evaluate a block with every sequence of orders that begins with one of `firsts`."""
        ok = np.broadcast_to(fits(block), block.shape)
        sequences = [s for s in space.sequences if s[0] in firsts]
        self.over_capacity += int((~ok).sum()) * len(sequences)
        self.evaluated += int(ok.sum()) * len(sequences)
        if not ok.any():
            return
        if not ok.all():
            entries = {d: np.broadcast_to(i, block.shape)[ok] for d, i in entries.items()}
            block = Block(block.machine, block.rates, block.held, block.chains, entries)
        for orders in sequences:
            cycles = np.broadcast_to(latency_of(block, space.flow, orders), block.shape)
            energy = np.broadcast_to(energy_of(block, orders) + block.machine.static * cycles, block.shape)
            if self.objective == "pareto":
                self._merge(energy, cycles, entries, space, orders)
                continue
            score = self.score(energy, cycles)
            i = int(score.argmin())
            if score[i] < self.best * (1 - TIE):
                self.best = float(score[i])
                self.front = [_candidate(energy, cycles, entries, space, orders, i)]

    def _merge(
        self, energy: Array, cycles: Array, entries: dict[str, Array], space: Space, orders: tuple[Order, ...]
    ) -> None:
        alive = np.flatnonzero(~self.beaten(energy, cycles))
        if not alive.size:
            return
        by = alive[np.lexsort((cycles[alive], energy[alive]))]
        least = np.minimum.accumulate(cycles[by])
        fresh = by[np.r_[True, least[1:] < least[:-1] * (1 - TIE)]]
        made = [*self.front, *(_candidate(energy, cycles, entries, space, orders, int(i)) for i in fresh)]
        made.sort(key=lambda c: (c.energy, c.cycles))
        front: list[_Candidate] = []
        for c in made:
            if not front or c.cycles < front[-1].cycles * (1 - TIE):
                front.append(c)
        self.front = front

    def result(self) -> Result:
        mappings, costs = [], []
        for c in self.front:
            chains = c.space.chains
            tiles = {d: chains.tiles[d][:, c.entry[d]] for d in DIMS}
            mappings.append(Mapping.made(c.space, tiles, c.orders))
            block = Block(
                self.machine, self.rates, c.space.flow.held, chains, {d: np.array([i]) for d, i in c.entry.items()}
            )
            costs.append(evaluate(block, c.space.flow, c.orders))
        optimum = self.score(costs[0].energy, costs[0].cycles)
        certificate = Certificate(
            objective=self.objective,
            optimum=float(optimum),
            bound=float(min(optimum, self.bound)) if self.objective != "pareto" else float(optimum),
            points=self.points,
            evaluated=self.evaluated,
            over_capacity=self.over_capacity,
            bounded=self.points - self.evaluated - self.over_capacity,
        )
        return Result(self.layer, tuple(mappings), tuple(costs), certificate)


def _candidate(
    energy: Array, cycles: Array, entries: dict[str, Array], space: Space, orders: tuple[Order, ...], i: int
) -> _Candidate:
    entry = {d: int(np.broadcast_to(e, energy.shape)[i]) for d, e in entries.items()}
    return _Candidate(float(energy[i]), float(cycles[i]), space, orders, entry)
