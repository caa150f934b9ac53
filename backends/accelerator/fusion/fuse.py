"""Which steps of a graph run together: the best of all cuts of its order into segments.

    best(0 .. j)  =  min over i of  best(0 .. i) + segment(i .. j)      over fronts of (energy, cycles): fronts.py

A segment is tried against the best that its own steps reach in shorter ones, so the bound leaves most of it out. Single
steps are segments too: the result is never worse than running one layer after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..cost import Cost
from ..hierarchy import Hierarchy, Rates
from ..layer import Layer
from ..mapper import search
from ..mapping import Mapping
from ..plan import Units
from .candidate import Candidate
from .coarse import coarser
from .fronts import ORIGIN, Front, Point, best, hull, joined
from .partial import Find, Partials
from .segments import Segments
from .stay import staying
from .steps import Step

__all__ = ["FusedCertificate", "FusedPlan", "Segment", "fuse"]

LONGEST = 4
"""Steps of a segment at most."""
PASSES = 4
SETTLED = 1e-3  # relative: a smaller gain of edp ends the search for its price


@dataclass(frozen=True)
class Segment:
    """Steps that run together (one: as ever), each with its mapping on a stripe; energy [pJ], cycles, bits in all."""

    names: tuple[str, ...]
    candidate: Candidate
    mappings: tuple[tuple[Mapping, Cost] | None, ...]
    energy: float
    cycles: float
    outer_bits: float

    @property
    def fused(self) -> bool:
        return len(self.names) > 1

    def __str__(self) -> str:
        c = self.candidate
        kept = [self.names[i - c.steps.start] for i in c.resident]
        extra = f"; weights of {', '.join(kept)} stay" if kept else ""
        extra += "; shared input loaded once" if c.loaded else ""
        return f"{' + '.join(self.names)}: {c.stripes}{extra}"


@dataclass(frozen=True)
class FusedCertificate:
    """What was searched, in the space that docs/accelerator-fusion.md states.

    `price` [pJ a cycle]: the segments minimise energy + price x cycles; None where they minimise the objective itself.
    """

    objective: str
    optimum: float
    unfused: float
    longest: int
    segments: int  # of different kinds
    candidates: int
    over_capacity: int
    bounded: int
    joined: int
    searches: int
    mappings: int
    price: float | None = None

    def __str__(self) -> str:
        what = "is optimal" if self.price is None else f"(least energy + {self.price:.4g} pJ x cycles, then remapped)"
        return (
            f"{self.objective} {self.optimum:.4g} {what} among cuts into segments of at most {self.longest} steps "
            f"(unfused {self.unfused:.4g}): of {self.candidates} ways to run {self.segments} kinds of segments "
            f"{self.over_capacity} do not fit, {self.bounded} have a bound that helps nowhere, {self.joined} were "
            f"joined from {self.searches} searches over {self.mappings:.4g} mappings"
        )


@dataclass(frozen=True)
class FusedPlan:
    """All segments in order, and the best plan without fusion."""

    segments: tuple[Segment, ...]
    unfused: tuple[Segment, ...]
    certificate: FusedCertificate

    @property
    def energy(self) -> float:
        return sum(s.energy for s in self.segments)

    @property
    def cycles(self) -> float:
        return sum(s.cycles for s in self.segments)

    @property
    def outer_bits(self) -> float:
        return sum(s.outer_bits for s in self.segments)


def fuse(
    steps: Sequence[Step],
    machine: Hierarchy,
    rates: Callable[[Layer], Rates],
    units: Units,
    objective: str = "edp",
    *,
    longest: int = LONGEST,
    fronts: bool = False,
    find: Find = search,
) -> FusedPlan:
    """The best plan of `steps` (in an order that can run) in segments of at most `longest` steps; edp, energy, latency.

    `fronts`: joins whole Pareto fronts, which is exact for edp too. Without, the segments for edp are those that
    minimise energy + price x cycles, exactly, at the price of the best plan without fusion (its energy by its cycles);
    their mappings are then chosen at the price of the plan itself. IG0530 where a step fits nowhere even alone.
    """
    state = _Fusion(Segments(steps, machine, Partials(machine, rates, find), units))
    price = None
    weights = {"energy": (1.0, 0.0), "latency": (0.0, 1.0)}.get(objective)
    if fronts or weights is not None:
        state.price(None if fronts else weights)
        unfused, fused = (state.best(objective, n) for n in (1, longest))
    else:
        energy, cycles = state.segments.usual()
        state.price((1.0, energy / cycles))
        unfused = _settled(state, objective, state.best(objective, 1))
        price = _price(unfused)
        state.price((1.0, price))
        fused = _settled(state, objective, state.best(objective, longest))
    fused = tuple(_coarse(s, state.segments) for s in fused)
    partials, tally = state.segments.partials, state.segments.tally
    certificate = FusedCertificate(
        objective,
        _score(fused, objective),
        _score(unfused, objective),
        longest,
        tally.segments,
        tally.candidates,
        tally.full,
        tally.bounded,
        tally.joined,
        partials.searches,
        partials.points,
        price,
    )
    return FusedPlan(fused, unfused, certificate)


def _settled(state: _Fusion, objective: str, before: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """The same segments with other mappings, of falling edp, until the price of a cycle is the plan's own."""
    for _ in range(PASSES):
        state.price((1.0, _price(before)))
        total = ORIGIN
        for s in before:
            total = joined(total, state.segments.again(s.candidate))
        found = _segments(best(total, objective), state.segments)
        gain = 1 - _score(found, objective) / _score(before, objective)
        before = found if gain > 0 else before
        if gain < SETTLED:
            break
    return before


def _price(segments: Sequence[Segment]) -> float:
    """pJ a cycle at which energy + price x cycles and their product fall alike."""
    return sum(s.energy for s in segments) / sum(s.cycles for s in segments)


class _Fusion:
    """Fronts of segments, those of one kind found once; `reach` is the best that any cut of a range gives."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self._kinds: dict[Any, tuple[int, Front]] = {}
        self._fronts: dict[tuple[int, int], Front] = {}
        self._reach: dict[tuple[int, int], Front] = {}

    def price(self, weights: tuple[float, float] | None) -> None:
        """What a pJ and a cycle count from now on."""
        self.segments.partials.weights = weights
        for known in (self._kinds, self._fronts, self._reach):
            known.clear()

    def best(self, objective: str, longest: int) -> tuple[Segment, ...]:
        """The best plan in segments of at most `longest` steps."""
        reached = [ORIGIN]
        for j in range(1, len(self.segments.steps) + 1):
            ways: list[Point] = []
            for i in range(max(0, j - longest), j):
                ways += joined(reached[i], self.front(i, j))
            reached.append(hull(ways))
        return _segments(best(reached[-1], objective), self.segments)

    def front(self, a: int, b: int) -> Front:
        """The front of steps a .. b-1 as one segment; empty if they cannot be one or never gain by it."""
        if (a, b) not in self._fronts:
            self._fronts[a, b] = self._found(a, b)
        return self._fronts[a, b]

    def _found(self, a: int, b: int) -> Front:
        if b - a > 1 and not self.segments.fusible(a, b):
            return ()
        kind = self._kind(a, b)
        if kind in self._kinds:
            at, front = self._kinds[kind]
            return tuple(_shifted(p, a - at) for p in front)
        made = self.segments.single(a) if b - a == 1 else self.segments.front(a, b, self.reach(a, b, whole=False))
        self._kinds[kind] = (a, made)
        return made

    def reach(self, a: int, b: int, *, whole: bool = True) -> Front:
        """The hull over all cuts of steps a .. b-1; without the one segment that is all of them unless `whole`."""
        if a == b:
            return ORIGIN
        if whole and (a, b) in self._reach:
            return self._reach[a, b]
        ways: list[Point] = list(self.front(a, b)) if whole else []
        for k in range(a + 1, b):
            ways += joined(self.front(a, k), self.reach(k, b))
        found = hull(ways)
        if whole:
            self._reach[a, b] = found
        return found

    def _kind(self, a: int, b: int) -> Any:
        """All that the front of a segment depends on; layers are compared by shape, tensors by their distance."""
        found: list[Any] = []
        steps = self.segments.steps
        for i in range(a, b):
            s = steps[i]
            reads = []
            for r in s.reads:
                outside = (steps[r.tensor].bits, steps[r.tensor].layout) if 0 <= r.tensor < a else None
                reads.append((r.tensor - a if r.tensor >= 0 else None, r.role, r.bits, r.rowwise, outside))
            key = (s.layer.key(), s.layer.kind) if s.layer is not None else None
            found.append((key, s.work.vectors, tuple(reads), s.bits, s.layout, self.segments.last[i] >= b, s.fusible))
        return tuple(found)


def _shifted(point: Point, by: int) -> Point:
    candidate, choices = point.choice
    steps = range(candidate.steps.start + by, candidate.steps.stop + by)
    moved = {name: tuple(i + by for i in getattr(candidate, name)) for name in ("resident", "loaded")}
    return Point(point.energy, point.cycles, (replace(candidate, steps=steps, **moved), choices))


def _segments(point: Point, of: Segments) -> tuple[Segment, ...]:
    """The segments of a joined point, in order."""
    found = []
    choice = point.choice
    while choice is not None:
        choice, (candidate, mappings) = choice
        found.append(_segment(of, candidate, mappings))
    return tuple(reversed(found))


def _segment(of: Segments, candidate: Candidate, choices: tuple[tuple[Mapping, Cost] | None, ...]) -> Segment:
    parts = of.parts(candidate)
    assert parts is not None
    energy, cycles, bits = of.loads(candidate)
    times = candidate.stripes.count
    for part, choice in zip(parts, choices, strict=True):
        product = Point(choice[1].energy, choice[1].cycles) if choice is not None else Point(0.0, 0.0)
        spent = of.spent(part, times, product)
        energy, cycles = energy + spent.energy, cycles + spent.cycles
        bits += ((choice[1].outer_bits if choice is not None else 0.0) + part.read + part.written) * times
    names = tuple(of.steps[i].work.name for i in candidate.steps)
    return Segment(names, candidate, choices, energy, cycles, bits)


def _coarse(segment: Segment, of: Segments) -> Segment:
    """The segment with mappings of fewer steps, where that costs nothing: alone, layers keep those that were found."""
    parts = of.parts(segment.candidate)
    if not segment.fused or parts is None:
        return segment
    found: list[tuple[Mapping, Cost] | None] = []
    for part, choice in zip(parts, segment.mappings, strict=True):
        if choice is not None and part.layer is not None:
            machine = staying(of.machine, part.stay, part.reserved)
            choice = coarser(part.layer, machine, of.partials.rates(part.layer), *choice)
        found.append(choice)
    return _segment(of, segment.candidate, tuple(found))


def _score(segments: Sequence[Segment], objective: str) -> float:
    energy, cycles = sum(s.energy for s in segments), sum(s.cycles for s in segments)
    return {"energy": energy, "latency": cycles}.get(objective, energy * cycles)
