"""A mapping of a layer: tile sizes, unrolling, orders; and the certificate of the search that found it."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .layer import DIMS
from .orders import Order

if TYPE_CHECKING:
    from .space import Space, Unrolling

__all__ = ["Certificate", "Loop", "Mapping"]


@dataclass(frozen=True)
class Loop:
    """One loop of the nest: `trips` iterations in a full tile around it, each over `tile` of the loop's extent."""

    dim: str
    trips: int
    tile: int
    spatial: str = ""  # "rows", "cols" or "" for a loop in time


@dataclass(frozen=True)
class Mapping:
    """`tiles[loop]`: sizes from the first tier to the array and the element; `orders`: of nests 0 .. J.

    `memories[t]` names the memories of tier t, 0 the outermost one.
    """

    dataflow: str
    held: frozenset[str]
    rows: tuple[tuple[str, int], ...]
    cols: tuple[tuple[str, int], ...]
    sizes: tuple[int, ...]
    tiles: Dictionary[str, tuple[int, ...]]
    orders: tuple[Order, ...]
    memories: tuple[tuple[str, ...], ...]

    @classmethod
    def made(cls, space: Space, tiles: Dictionary[str, Any], orders: tuple[Order, ...]) -> Mapping:
        unrolling: Unrolling = space.unrolling
        machine = space.machine
        memories = ((machine.outer.name,), *(tuple(s.name for s in t) for t in machine.tiers))
        return cls(
            dataflow=space.flow.name,
            held=space.flow.held,
            rows=unrolling.rows,
            cols=unrolling.cols,
            sizes=space.layer.sizes,
            tiles={d: tuple(int(t) for t in tiles[d]) for d in DIMS},
            orders=orders,
            memories=memories,
        )

    def nest(self, t: int) -> tuple[Loop, ...]:
        """Loops of nest t from the outside in, those of one iteration left out."""
        found = []
        for d in self.orders[t].loops:
            around = self.tiles[d][t - 1] if t else self.sizes[DIMS.index(d)]
            tile = self.tiles[d][t]
            if around > tile:
                found.append(Loop(d, -(-around // tile), tile))
        return tuple(found)

    def spatial(self) -> tuple[Loop, ...]:
        found = []
        for side, factors in (("rows", self.rows), ("cols", self.cols)):
            found += [Loop(d, f, self.tiles[d][-1], side) for d, f in factors if f > 1]
        return tuple(found)

    def steps(self) -> tuple[Loop, ...]:
        """Loops inside an element."""
        return tuple(Loop(d, self.tiles[d][-1], 1) for d in DIMS if self.tiles[d][-1] > 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "dataflow": self.dataflow,
            "held": sorted(self.held),
            "rows": dict(self.rows),
            "cols": dict(self.cols),
            "sizes": dict(zip(DIMS, self.sizes, strict=True)),
            "tiles": {d: list(t) for d, t in self.tiles.items()},
            "orders": [[list(o.groups), o.last] for o in self.orders],
            "memories": [list(m) for m in self.memories],
        }

    @classmethod
    def from_json(cls, data: Dictionary[str, Any]) -> Mapping:
        return cls(
            dataflow=data["dataflow"],
            held=frozenset(data["held"]),
            rows=tuple((d, int(f)) for d, f in data["rows"].items()),
            cols=tuple((d, int(f)) for d, f in data["cols"].items()),
            sizes=tuple(int(data["sizes"][d]) for d in DIMS),
            tiles={d: tuple(int(t) for t in data["tiles"][d]) for d in DIMS},
            orders=tuple(Order((g[0], g[1], g[2]), last) for g, last in data["orders"]),
            memories=tuple(tuple(m) for m in data["memories"]),
        )

    def __str__(self) -> str:
        """The loop nest as text."""
        lines, depth = [], 0

        def add(loop: Loop) -> None:
            nonlocal depth
            word = f"spatial {loop.spatial}" if loop.spatial else "for"
            lines.append(f"{'  ' * depth}{word} {loop.dim} in {loop.trips} x {loop.tile}")
            depth += 1

        for t in range(len(self.orders)):
            lines.append(f"{'  ' * depth}[{', '.join(self.memories[t])}]")
            for loop in self.nest(t):
                add(loop)
        for loop in self.spatial():
            add(loop)
        for loop in self.steps():
            add(loop)
        return "\n".join(lines)


@dataclass(frozen=True)
class Certificate:
    """What was searched. `points` = `evaluated` + `over_capacity` (did not fit) + `bounded` (could not be better, or
    their tiles in the elements do not fit, which is found before they are counted).

    `bound` is the least bound of what was not evaluated, or the optimum: both are equal, or the search is wrong.
    """

    objective: str
    optimum: float
    bound: float
    points: int
    evaluated: int
    over_capacity: int
    bounded: int

    def __str__(self) -> str:
        return (
            f"{self.objective} {self.optimum:.6g} is optimal: of {self.points:.4g} mappings {self.evaluated:.4g} were "
            f"evaluated, {self.over_capacity:.4g} do not fit, {self.bounded:.4g} have a bound of at least "
            f"{self.bound:.6g} or do not fit further in"
        )
