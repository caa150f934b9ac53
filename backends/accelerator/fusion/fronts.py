"""Fronts of (energy, cycles), reduced to their convex hulls, and their sums.

Energy and cycles of steps that run one after the other add up. Energy, latency and their product are all least at a
vertex of the lower left hull of all sums (the product is quasi-concave), and a vertex of a sum of sets is a sum of
vertices. So nothing but hulls has to be kept, and the joined optimum is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ORIGIN", "Front", "Point", "best", "hull", "joined", "useful"]


@dataclass(frozen=True)
class Point:
    """pJ and cycles, and what was chosen to have them (for a sum: the pair of what was summed)."""

    energy: float
    cycles: float
    choice: Any = None

    def moved(self, energy: float, cycles: float, times: int = 1) -> Point:
        return Point(self.energy * times + energy, self.cycles * times + cycles, self.choice)


Front = tuple[Point, ...]
"""Vertices by ascending energy and descending cycles."""
ORIGIN: Front = (Point(0.0, 0.0),)
TIE = 1e-12  # relative: a gain below it is rounding


def hull(points: Iterable[Point]) -> Front:
    """The vertices of the lower left hull; of equal points the first stays."""
    front: list[Point] = []
    for p in sorted(points, key=lambda p: (p.energy, p.cycles)):
        if front and p.cycles >= front[-1].cycles * (1 - TIE):
            continue
        while len(front) > 1 and _above(front[-2], front[-1], p):
            front.pop()
        front.append(p)
    return tuple(front)


def _above(a: Point, b: Point, c: Point) -> bool:
    """Whether b is not below the line from a to c."""
    return (b.energy - a.energy) * (a.cycles - c.cycles) >= (c.energy - a.energy) * (a.cycles - b.cycles)


def joined(a: Front, b: Front) -> Front:
    """The hull of all sums of a point of each: steepest edges first, as the sum of two convex polygons is found."""
    if not a or not b:
        return ()
    i = j = 0
    found = [_sum(a[0], b[0])]
    while i + 1 < len(a) or j + 1 < len(b):
        if j + 1 == len(b) or (i + 1 < len(a) and _slope(a, i) >= _slope(b, j)):
            i += 1
        else:
            j += 1
        found.append(_sum(a[i], b[j]))
    return hull(found)


def _sum(a: Point, b: Point) -> Point:
    return Point(a.energy + b.energy, a.cycles + b.cycles, (a.choice, b.choice))


def _slope(front: Front, i: int) -> float:
    """Cycles saved for a pJ between a vertex and the next."""
    a, b = front[i], front[i + 1]
    return (a.cycles - b.cycles) / max(b.energy - a.energy, 1e-300)


def useful(energy: float, cycles: float, front: Sequence[Point], weights: tuple[float, float] | None = None) -> bool:
    """Whether a point at or beyond (energy, cycles) can be better than all of a front.

    By `weights` of pJ and cycles if there are any, else: outside of what the front and all above it cover.
    """
    if weights is not None:
        least = min((weights[0] * p.energy + weights[1] * p.cycles for p in front), default=float("inf"))
        return weights[0] * energy + weights[1] * cycles < least * (1 - TIE)
    if not front or energy < front[0].energy or cycles < front[-1].cycles:
        return True
    for a, b in itertools.pairwise(front):
        if a.energy <= energy <= b.energy:
            line = a.cycles + (b.cycles - a.cycles) * (energy - a.energy) / (b.energy - a.energy)
            return cycles < line
    return False


def best(front: Front, objective: str) -> Point:
    """The point of least energy, latency or product of both."""
    keys = {"energy": lambda p: (p.energy, p.cycles), "latency": lambda p: (p.cycles, p.energy)}
    return min(front, key=keys.get(objective, lambda p: (p.energy * p.cycles, p.energy)))
