"""The mappings that are searched: unrollings of the array, and for each the tile sizes of every loop.

    unrolling   one or two loops over the rows, one or two over the columns, as many of each as fit
    tiles       of shared memories: whole array tiles along unrolled loops, the smallest size for every number of tiles
                (`tiling.sizes_of`), so 55, 13 or 1000 need no divisors; windows whole or single elements
    orders      `counting.ORDERS` for the outermost nest, `INNER_ORDERS` for those below

The space is a table per loop; a mapping is a choice of one row of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .chains import Chains
from .hierarchy import Dataflow, Hierarchy
from .layer import DIMS, Layer
from .orders import INNER_ORDERS, ORDERS, Order
from .tiling import Array, sizes_of

__all__ = ["Space", "Unrolling", "unrollings"]


@dataclass(frozen=True)
class Unrolling:
    """Factors of loops over the rows and over the columns; a loop may be on both."""

    rows: tuple[tuple[str, int], ...]
    cols: tuple[tuple[str, int], ...]

    @cached_property
    def factors(self) -> dict[str, int]:
        found = dict.fromkeys(DIMS, 1)
        for d, f in (*self.rows, *self.cols):
            found[d] *= f
        return found

    def __str__(self) -> str:
        sides = [" x ".join(f"{d}{f}" for d, f in side) or "-" for side in (self.rows, self.cols)]
        return f"rows {sides[0]}, columns {sides[1]}"


def unrollings(layer: Layer, flow: Dataflow, machine: Hierarchy, parts: int = 1) -> list[Unrolling]:
    """All of them that no other one contains, on the whole array or on each `1/parts` of it (a power of two)."""
    if flow.pinned:
        return [_pinned(layer, flow)] if parts == 1 else []
    found: dict[Unrolling, None] = {}
    for across in (1 << i for i in range(parts.bit_length())):
        height, width = max(machine.rows // across, 1), max(machine.cols * across // parts, 1)
        for rows in _side(layer.extent, flow.rows, height):
            left = {d: -(-n // dict(rows).get(d, 1)) for d, n in layer.extent.items()}
            for cols in _side(left, flow.cols, width):
                found[Unrolling(rows, cols)] = None
    return list(found)


def _pinned(layer: Layer, flow: Dataflow) -> Unrolling:
    factors = tuple((d, min(f, layer.extent[d])) for d, f in flow.pinned)
    return Unrolling(tuple(f for f in factors if f[0] in flow.rows), tuple(f for f in factors if f[0] not in flow.rows))


def _side(extent: Mapping[str, int], dims: tuple[str, ...], size: int) -> list[tuple[tuple[str, int], ...]]:
    """Factors of at most two loops with a product within `size`."""
    usable = [d for d in dims if extent[d] > 1] if size > 1 else []
    found: list[dict[str, int]] = [{d: min(size, extent[d])} for d in usable]
    for a, b in itertools.combinations(usable, 2):
        for f in sizes_of(extent[a]):
            g = min(extent[b], size // f)
            if f > 1 and g > 1:
                found.append({a: f, b: g})
    kept = [
        x
        for x in found
        if not any(y is not x and y != x and all(y.get(d, 1) >= f for d, f in x.items()) for y in found)
    ]
    unique = sorted({tuple(sorted(x.items(), key=lambda item: DIMS.index(item[0]))) for x in kept})
    return unique or [()]


class Space:
    """The mappings of one layer with one dataflow and one unrolling."""

    def __init__(
        self, layer: Layer, machine: Hierarchy, flow: Dataflow, unrolling: Unrolling, *, divisors: bool = False
    ) -> None:
        self.layer, self.machine, self.flow, self.unrolling = layer, machine, flow, unrolling
        self.deep = len(machine.tiers) > 1  # more tiers than one
        files = any(s.holds & flow.held for s in machine.element)
        self.outer: dict[str, Array] = {}  # tile of tier 1 by loop
        self.inner: dict[str, Array] = {}  # [tiers 2.. J and element, candidates] by loop
        for d, extent in layer.extent.items():
            step = unrolling.factors[d]
            whole = -(-extent // step)
            units = (1, whole) if d in "RS" and whole > 1 else sizes_of(whole, divisors=divisors)
            self.outer[d] = np.unique(np.minimum(np.array(units) * step, extent))
            element = units if files and not self._shares(d) else (1,)
            levels = [[min(u * step, extent) for u in units] for _ in machine.tiers[1:]]
            rows = [
                (*tiers, r)
                for *tiers, r in itertools.product(*levels, element)
                if all(a >= b for a, b in itertools.pairwise(tiers)) and (not tiers or r <= -(-tiers[-1] // step))
            ]
            self.inner[d] = np.array(sorted(rows)).reshape(len(rows), -1).T
        self.orders = (ORDERS if machine.halo else INNER_ORDERS, *[INNER_ORDERS] * len(machine.tiers))

    def _shares(self, d: str) -> bool:
        """Whether elements that stream I would share it along a diagonal (P with R, Q with S): one step at a time."""
        pair = next((p for p in ("PR", "QS") if d in p), "")
        return "I" not in self.flow.held and bool(pair) and all(self.unrolling.factors[x] > 1 for x in pair)

    @cached_property
    def valid(self) -> dict[str, Array]:
        """[outer, inner] by loop: whether the inner tiles lie within the outer one."""
        found = {}
        for d, inner in self.inner.items():
            outer = self.outer[d][:, None]
            found[d] = (
                inner[0][None] <= outer if len(inner) > 1 else inner[0][None] <= -(-outer // self.unrolling.factors[d])
            )
        return found

    @cached_property
    def chains(self) -> Chains:
        """Tables of all (outer, inner) pairs: the entry of outer i and inner j is i * (number of inner) + j."""
        tiles = {}
        for d in DIMS:
            outer, inner = self.outer[d], self.inner[d]
            o = np.repeat(outer, inner.shape[1])
            i = np.tile(inner, len(outer))
            shared = [o, *i[:-1]]
            element = np.minimum(i[-1], -(-shared[-1] // self.unrolling.factors[d]))
            array = np.minimum(self.unrolling.factors[d] * element, shared[-1])
            tiles[d] = np.stack([*shared, array, element])
        return Chains(self.layer, tiles)

    @cached_property
    def coarse(self) -> Chains:
        """Tables of the outer tiles alone, everything below as coarse as it can be: what bounds are computed from."""
        tiles = {}
        for d in DIMS:
            outer, step = self.outer[d], self.unrolling.factors[d]
            tiles[d] = np.stack([outer, np.minimum(outer, step), np.ones_like(outer)])
        return Chains(self.layer, tiles)

    @property
    def sequences(self) -> list[tuple[Order, ...]]:
        """Every choice of an order for every nest."""
        return list(itertools.product(*self.orders))

    @cached_property
    def inside(self) -> dict[str, Array]:
        """How many inner choices each outer tile has, by loop."""
        return {d: v.sum(1) for d, v in self.valid.items()}

    @property
    def points(self) -> int:
        """All mappings, those that do not fit included."""
        total = len(self.sequences)
        for v in self.inside.values():
            total *= int(v.sum())
        return total

    def all_outer(self) -> dict[str, Array]:
        """Index arrays over every combination of outer tiles."""
        sizes = [len(self.outer[d]) for d in DIMS]
        grid: Any = np.unravel_index(np.arange(int(np.prod(sizes))), sizes)
        return dict(zip(DIMS, grid, strict=True))
