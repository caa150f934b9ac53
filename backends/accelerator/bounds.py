"""Lower bounds on the energy and the time of mappings of which only a part is known.

    least_of        nothing is: everything is moved once, the array is always full
    outer_bounds    the outer tiles and the outermost order are
    Inner           the tiles below the first tier are

They hold because a tile deeper inside is brought in at least as often as the one around it, and edges only add.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from .chains import Chains
from .cost import fits, timeline
from .counting import Block
from .hierarchy import Rates, Store
from .layer import DIMS, OPERANDS, OWN
from .space import Space
from .tiling import Array

__all__ = ["Inner", "least_of", "outer_bounds"]


def least_of(space: Space, rates: Rates) -> tuple[float, float, float]:
    """Bounds for every mapping of a space, all tiles as large as the layer: energy of multiplying and of filling the
    first tier, energy further in, cycles."""
    machine, flow, layer = space.machine, space.flow, space.layer
    full = {d: -(-n // space.unrolling.factors[d]) for d, n in layer.extent.items()}
    first, inside, moved = rates.energy * layer.macs, 0.0, 0.0
    acc = rates.accumulator
    for x in OPERANDS:
        words, bits = float(layer.words(x)), rates.bits[x]
        path = machine.path(x, flow.held)
        for (tier, store), (at, below) in itertools.pairwise(path):
            if x == "O":
                energy = words * ((bits if tier == 0 else acc) * store.write + acc * below.read)
            else:
                energy = words * bits * (store.read + below.write)
            first, inside = (first + energy, inside) if (tier, at) == (0, 1) else (first, inside + energy)
        inside += float(_at_multipliers(space, rates, x, path[-1], float(math.prod(full[d] for d in OWN[x]))))
        if path[0][1] is machine.outer:
            moved += words * bits / (machine.outer.writing if x == "O" else machine.outer.reading)
    cycles = max(math.prod(full.values()) * rates.cycles + flow.fill + flow.constant, moved)
    return first + machine.static * cycles, inside, cycles


def outer_bounds(space: Space, rates: Rates, block: Block) -> tuple[Array, Array, Array]:
    """[orders, tilings]: energy of multiplying and of filling the first tier, a bound on all energy further in, and a
    bound on cycles, when the outer tiles and the outermost order are given."""
    machine, flow = space.machine, space.flow
    filling, inside, cycles = [], [], []
    paths = [machine.path(x, flow.held) for x in OPERANDS]
    acc = rates.accumulator
    words = {x: float(space.layer.words(x)) for x in OPERANDS}
    work = block.steps * rates.cycles + flow.fill + flow.constant
    for order in space.orders[0]:
        first: Any = rates.energy * space.layer.macs
        deeper: Any = 0.0
        deep: Any = np.zeros(())
        loads = []
        for x, path in zip(OPERANDS, paths, strict=True):
            bits = rates.bits[x]
            # deeper tiles are visited at least as often as tier 1's, and hold at least every element once
            visits = block.visits(1, (order,), x)
            for (tier, store), (at, below) in itertools.pairwise(path):
                if tier == 0 and at == 1:
                    t = block.link(x, path[0], path[1], (order,))
                    first = first + t.energy
                    loads += [t] if t.outer is machine.outer else []
                    continue
                up: Any = 0.0
                if x != "O":
                    down = words[x] * visits * bits
                else:
                    up = words[x] * (bits + (visits - 1) * acc) if tier == 0 else words[x] * visits * acc
                    down = words[x] * (visits - 1) * acc
                    deeper = deeper + words[x] * visits * acc * below.read
                deeper = deeper + up * store.write + down * (store.read + below.write)
                if store is machine.outer:
                    deep = deep + down / store.reading + up / store.writing
            deeper = deeper + _at_multipliers(space, rates, x, path[-1], block.busiest(x))
        least = timeline(block, order, work, loads, deep)
        filling.append(np.broadcast_to(first + machine.static * least, block.shape))
        inside.append(np.broadcast_to(deeper, block.shape))
        cycles.append(np.broadcast_to(least, block.shape))
    return np.stack(filling), np.stack(inside), np.stack(cycles)


def _at_multipliers(space: Space, rates: Rates, x: str, last: tuple[int, Store], times: Array | float) -> Array | float:
    """A bound on the energy between the innermost memory of an operand and the multipliers."""
    store, bits, acc = last[1], rates.bits[x], rates.accumulator
    words = float(space.layer.words(x))
    if x in space.flow.held:  # sums that start read nothing, so reads of O are left out
        return space.layer.macs * (acc * store.write if x == "O" else bits * store.read)
    if x == "O":
        final = bits if last[0] == 0 else acc
        return words * (final + (times - 1) * acc) * store.write + words * (times - 1) * acc * store.read
    return words * times * bits * store.read


class Inner:
    """Choices below the first tier that fit by themselves, by a bound on their energy, ascending.

    The bound is that of a first tier which holds the whole layer: of the operands, one at most is spared the
    iterations of loops that do not change it, and smaller tiles around only add edges.
    """

    def __init__(self, space: Space, rates: Rates) -> None:
        self.free = [d for d in DIMS if space.inner[d].shape[1] > 1]
        self.choices = np.zeros((0, 1), np.int64)
        self.energy = np.zeros(1)
        if not self.free:
            return
        sizes = [space.inner[d].shape[1] for d in self.free]
        choices = np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), sizes))
        tiles = {}
        for d in DIMS:
            *shared, element = space.inner[d]
            around = shared[-1] if shared else np.full_like(element, space.layer.extent[d])
            array = np.minimum(space.unrolling.factors[d] * element, around)
            tiles[d] = np.stack([np.full_like(element, space.layer.extent[d]), *shared, array, element])
        chains = Chains(space.layer, tiles)
        block = self._block(space, rates, chains, choices)
        ok = np.broadcast_to(_fits_inside(block), choices.shape[1:])
        choices = choices[:, ok]
        if not choices.size:
            self.choices, self.energy = choices, np.zeros(0)
            return
        block = self._block(space, rates, chains, choices)
        least = np.full(choices.shape[1], np.inf)
        for orders in itertools.product(space.orders[0][:1], *space.orders[1:]):
            energy: Any = 0.0
            for x in OPERANDS:
                traffic = block.traffic(x, orders)
                second = block.machine.path(x, block.held)[1:2]
                skip = (
                    1 if second and second[0][0] == 1 else 0
                )  # filling the first tier is counted with the outer tiles
                energy = energy + sum((t.energy for t in traffic[skip:]), np.zeros(()))
            least = np.minimum(least, energy)
        by = np.argsort(least, kind="stable")
        self.choices, self.energy = choices[:, by], least[by]

    def _block(self, space: Space, rates: Rates, chains: Chains, choices: Array) -> Block:
        index = {d: np.zeros(choices.shape[1], np.int64) for d in DIMS}
        for n, d in enumerate(self.free):
            index[d] = choices[n]
        return Block(space.machine, rates, space.flow.held, chains, index)

    @property
    def size(self) -> int:
        return len(self.energy)


def _fits_inside(block: Block) -> Array:
    """Whether the tiles fit in the memories below the first tier."""
    first, *deeper = block.machine.tiers
    unbounded = tuple(replace(s, capacity=np.inf) for s in first)
    machine = replace(block.machine, tiers=(unbounded, *deeper))
    return fits(Block(machine, block.rates, block.held, block.chains, block.index))
