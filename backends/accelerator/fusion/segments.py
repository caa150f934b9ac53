"""The cost of steps that run together, stripe by stripe, with the tensors between them on the chip.

    for a group of heads, for an image, for a stripe of rows:  step 1, step 2, ...     each a nest of its own

*On the chip.* A tensor made and read inside stays in the memory of the first tier that holds inputs, from the step
that makes it to the last that reads it; the outermost memory sees it only if steps outside read it too. While a product
makes it where its sums complete, it takes the accumulator's bits. What others hold is room that a step's tiles lack.

*Weights* come again for every stripe, or are loaded once for all stripes and stay besides; every choice for every layer
is tried. A tensor from outside that several steps read can be loaded once a stripe in the same way. Such loads are not
overlapped with anything.

*Steps* follow one another: the first load and the last store of each are waited for, as between layers that are not
fused. Vector work overlaps with the product that it follows, and moves what stays over the port of its memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ..hierarchy import Hierarchy, Store
from ..plan import Units, vector_cost
from .bands import bands_of, rings_of
from .candidate import Candidate, Part, Tally
from .fronts import Front, Point, hull, joined, useful
from .partial import Partials
from .stay import home_of
from .steps import Step
from .stripes import Stripes, choices, rows_of, stripe_layer

__all__ = ["Segments"]


TALLEST = 2
"""Heights tried of each kind of stripes: the tallest for which what stays fits."""


class Segments:
    """Fronts of single steps and of segments of a list of steps."""

    def __init__(self, steps: Sequence[Step], machine: Hierarchy, partials: Partials, units: Units) -> None:
        self.steps, self.machine, self.partials, self.units = steps, machine, partials, units
        self.home = home_of(machine, "I")
        self.weights = home_of(machine, "W")
        self.tally = Tally()
        self._found: dict[Any, tuple[list[int], dict[int, tuple[int, int]]]] = {}
        self.last = [0] * len(steps)  # the last step that reads each result
        for i, s in enumerate(steps):
            for r in s.reads:
                if r.tensor >= 0:
                    self.last[r.tensor] = i
        for i, s in enumerate(steps):
            if s.kept:
                self.last[i] = len(steps)

    def single(self, i: int) -> Front:
        """A step by itself, from and to the outermost memory."""
        part = self.parts(self.alone(i))
        assert part is not None, "nothing is reserved"
        return tuple(Point(p.energy, p.cycles, (self.alone(i), (p.choice,))) for p in self._costed(part[0], 1))

    def usual(self) -> tuple[float, float]:
        """pJ and cycles of the plan without fusion in which every layer has the least energy times latency."""
        energy = cycles = 0.0
        for i in range(len(self.steps)):
            parts = self.parts(self.alone(i))
            assert parts is not None, "nothing is reserved"
            layer = parts[0].layer
            product = Point(0.0, 0.0) if layer is None else self.partials.usual(layer)
            spent = self.spent(parts[0], 1, product)
            energy, cycles = energy + spent.energy, cycles + spent.cycles
        return energy, cycles

    def alone(self, i: int) -> Candidate:
        return Candidate(range(i, i + 1), Stripes(1, 1, 1, False, (1, 1, 1), True))

    def fusible(self, a: int, b: int) -> bool:
        """Whether steps a .. b-1 can run together: on a limited memory, each of them tied to another."""
        if self.home is None or self.home.capacity == float("inf"):
            return False
        if not all(s.fusible for s in self.steps[a:b]):
            return False
        tied: set[int] = set()
        for i in range(a, b):
            for r in self.steps[i].reads:
                if r.tensor >= a:
                    tied |= {i, r.tensor}
                    if r.role == "W" and self.weights is not self.home:
                        return False
        return len(tied) == b - a

    def front(self, a: int, b: int, known: Front) -> Front:
        """The hull of all candidates of a segment that may improve on `known`."""
        self.tally.segments += 1
        found: list[Point] = []
        for _, candidate, parts in sorted(self._fitting(a, b), key=lambda t: t[0]):
            points = self._joined(candidate, parts, known)
            found += points
            known = hull([*known, *points])
        return hull(found)

    def _fitting(self, a: int, b: int) -> Iterator[tuple[float, Candidate, list[Part]]]:
        """The tallest candidates for which what stays fits, each with a bound to sort them by."""
        for cuts in choices(self.steps[a:b], a):
            fit: dict[Any, int] = {}
            for cut in cuts:
                for candidate in self.candidates(a, b, cut):
                    which = (candidate.resident, candidate.loaded)
                    if fit.get(which, 0) < TALLEST:
                        self.tally.candidates += 1
                        parts = self.parts(candidate)
                        if parts is None:
                            self.tally.full += 1
                            continue
                        fit[which] = fit.get(which, 0) + 1
                        energy, cycles = self._bound(candidate, parts)
                        weights = self.partials.weights or (1.0, 0.0)
                        yield weights[0] * energy + weights[1] * cycles, candidate, parts

    def candidates(self, a: int, b: int, cut: Stripes) -> Iterator[Candidate]:
        """Every choice of weights that stay and of shared inputs that are loaded once."""
        again = cut.bands > 1 or cut.images < cut.of[0]
        own = [i for i in range(a, b) if not cut.single and again and self._weight_bits(i, a) > 0]
        readers: dict[int, int] = {}
        for s in self.steps[a:b]:
            for r in s.reads:
                if 0 <= r.tensor < a and r.role in "IV" and (cut.single or r.rowwise):
                    readers[r.tensor] = readers.get(r.tensor, 0) + 1
        shared = tuple(t for t, n in readers.items() if n > 1 and self._all_alike(t, a, b, cut))
        for loaded in ((), shared) if shared else ((),):
            for n in range(len(own), -1, -1):
                for resident in itertools.combinations(own, n):
                    yield Candidate(range(a, b), cut, resident, loaded)

    def _all_alike(self, t: int, a: int, b: int, cut: Stripes) -> bool:
        reads = [r for s in self.steps[a:b] for r in s.reads if r.tensor == t]
        return all(r.role in "IV" and (cut.single or r.rowwise) for r in reads)

    def _weight_bits(self, i: int, a: int) -> float:
        """Bits of the weights of a step that come from outside."""
        layer = self.steps[i].layer
        if layer is None or self.weights is None or any(r.role == "W" and r.tensor >= a for r in self.steps[i].reads):
            return 0.0
        return layer.words("W") * self.partials.rates(layer).bits["W"]

    # --- one candidate ------------------------------------------------------------------------------------------------

    def _bound(self, candidate: Candidate, parts: Sequence[Part]) -> tuple[float, float]:
        energy, cycles, _ = self.loads(candidate)
        least = [self._least(p, candidate.stripes.count) for p in parts]
        return energy + sum(e for e, _ in least), cycles + sum(c for _, c in least)

    def _joined(self, candidate: Candidate, parts: Sequence[Part], known: Front) -> Front:
        """The sums of all its steps; empty if they do not fit or cannot be of use."""
        times = candidate.stripes.count
        energy, cycles, _ = self.loads(candidate)
        rest_energy, rest_cycles = self._bound(candidate, parts)
        rest_energy, rest_cycles = rest_energy - energy, rest_cycles - cycles
        total: Front = (Point(energy, cycles),)
        for part in parts:
            if not useful(total[0].energy + rest_energy, total[-1].cycles + rest_cycles, known, self.partials.weights):
                self.tally.bounded += 1
                return ()
            e, c = self._least(part, times)
            rest_energy, rest_cycles = rest_energy - e, rest_cycles - c
            total = joined(total, self._costed(part, times))
            if not total:
                self.tally.full += 1
                return ()
        self.tally.joined += 1
        return tuple(Point(p.energy, p.cycles, (candidate, _unpaired(p.choice, len(parts)))) for p in total)

    def parts(self, candidate: Candidate) -> list[Part] | None:
        """Every step with what stays and what is reserved; None where the reserved bits alone do not fit."""
        a, b, cut = candidate.steps.start, candidate.steps.stop, candidate.stripes
        rows, tensors = self._rows(candidate)
        on_chip = {t for t in tensors if t >= a} | set(candidate.loaded)
        always = {s.name: 0.0 for s in self.machine.tiers[0]}
        for i in candidate.resident:
            assert self.weights is not None
            always[self.weights.name] += self._weight_bits(i, a) / cut.chunks
        sizes, grown = {}, {}
        home = self.home.name if self.home is not None else ""
        for t in on_chip:
            made, kept = (self._bits(t, n, cut) for n in tensors[t])
            sizes[t], grown[t] = made, made
            if cut.cached:  # a ring, as long as the segment runs
                always[home] += kept
                sizes[t] = 0.0
        found = []
        for i in range(a, b):
            step = self.steps[i]
            reserved = dict(always)
            for t in on_chip:
                reads = [j for j in range(a, b) if any(r.tensor == t for r in self.steps[j].reads)]
                if (t if t >= a else reads[0]) <= i <= reads[-1]:
                    reserved[home] += sizes[t] + (grown[t] * (self._grown(step) - 1.0) if t == i else 0.0)
            if any(bits > self.machine.store(name).capacity for name, bits in reserved.items()):
                return None
            found.append(self._part(i, a, b, candidate, rows[i - a], on_chip, reserved))
        return found

    def _part(
        self, i: int, a: int, b: int, candidate: Candidate, rows: int, on_chip: set[int], reserved: dict[str, float]
    ) -> Part:
        step, cut = self.steps[i], candidate.stripes
        layer = stripe_layer(step.layer, rows, cut) if step.layer is not None else None
        stay = {r.role for r in step.reads if r.tensor in on_chip and r.role in "IW"}
        if i in candidate.resident:
            stay.add("W")
        share = self._bits(i, rows, cut) / step.bits if step.bits else 1.0
        read = sum(v.read_bits for v in step.work.vectors)
        write = sum(v.write_bits for v in step.work.vectors)
        near = sum(r.bits for r in step.reads if r.tensor in on_chip and r.role == "V")
        chip_written = copied = 0.0
        leaves = self.last[i] >= b
        if i in on_chip:
            if step.layer is None:
                chip_written = step.bits * share
                write = write if leaves else 0
            elif leaves:
                copied = step.bits * share
            else:
                stay.add("O")
        outside = (read - near) * share, write * share
        return Part(step, layer, frozenset(stay), reserved, share, *outside, near * share, chip_written, copied)

    def _rows(self, candidate: Candidate) -> tuple[list[int], dict[int, tuple[int, int]]]:
        a, b, cut = candidate.steps.start, candidate.steps.stop, candidate.stripes
        key = (a, b, cut)
        if key not in self._found:
            leaving = {i for i in range(a, b) if self.last[i] >= b}
            rows, tensors = rows_of(self.steps[a:b], a, cut, leaving)
            if cut.cached:
                rings = rings_of(bands_of(self.steps[a:b], a, cut, leaving), set(tensors), cached=True)
                tensors = {t: (made, max(kept, rings[t])) for t, (made, kept) in tensors.items()}
            self._found[key] = rows, tensors
        return self._found[key]

    def _bits(self, t: int, rows: int, cut: Stripes) -> float:
        """Bits of so many rows of a tensor, for the images and groups of a stripe."""
        step = self.steps[t]
        if cut.single or step.layout is None:
            return float(step.bits)
        n, g, _, p, _ = step.layout
        groups = min(g, cut.groups) / g if cut.chunks > 1 else 1.0
        return step.bits * (rows / p) * (min(n, cut.images) / n) * groups

    def _grown(self, step: Step) -> float:
        """How much more room results take while their sums are not complete."""
        if step.layer is None or home_of(self.machine, "O") is not self.home:
            return 1.0
        rates = self.partials.rates(step.layer)
        return max(1.0, rates.accumulator / rates.bits["O"])

    # --- costs --------------------------------------------------------------------------------------------------------

    def loads(self, candidate: Candidate) -> tuple[float, float, float]:
        """pJ, cycles and bits of what is loaded once: weights for all stripes, shared inputs for each."""
        outer = self.machine.outer
        energy = cycles = total = 0.0
        for i in candidate.resident:
            assert self.weights is not None
            bits = self._weight_bits(i, candidate.steps.start)
            energy += bits * (outer.read + self.weights.write)
            cycles += bits / outer.reading
            total += bits
        cut = candidate.stripes
        _, tensors = self._rows(candidate)
        for t in candidate.loaded:
            assert self.home is not None
            bits = self._bits(t, tensors[t][1], cut) * cut.count
            energy += bits * (outer.read + self.home.write)
            cycles += bits / outer.reading
            total += bits
        return energy, cycles, total

    def _costed(self, part: Part, times: int) -> Front:
        """The front of a step in all stripes, its vector work included."""
        if part.layer is None:
            return (self.spent(part, times, Point(0.0, 0.0)),)
        busy, _ = vector_cost(part.step.work.vectors, self.units)
        moved = (part.read + part.written) / self.machine.outer.bandwidth
        floor = max(busy * part.share, self._port(part)) - moved
        front = self.partials.front(part.layer, part.stay, part.reserved, floor)
        return hull(self.spent(part, times, p) for p in front)

    def again(self, candidate: Candidate) -> Front:
        """A candidate at the prices of now."""
        parts = self.parts(candidate)
        return self._joined(candidate, parts, ()) if parts is not None else ()

    def spent(self, part: Part, times: int, product: Point) -> Point:
        """A step in all stripes when its product takes `product` in one."""
        busy, energy = vector_cost(part.step.work.vectors, self.units)
        energy = energy * part.share + self._beside(part)
        moved = (part.read + part.written) / self.machine.outer.bandwidth
        busy = max(busy * part.share, self._port(part))
        if part.layer is None and not self.machine.overlap:
            busy += moved
        cycles = max(product.cycles + moved, busy)
        return Point((product.energy + energy) * times, cycles * times, product.choice)

    def _beside(self, part: Part) -> float:
        """pJ a stripe of what the vector work moves."""
        home = self.home or Store("none", frozenset())
        outer = self.machine.outer
        near = part.chip_read * home.read + (part.chip_written + part.copied) * home.write
        return part.read * outer.read + part.written * outer.write + near

    def _port(self, part: Part) -> float:
        """Cycles a stripe that the memory of inputs is busy for the vector work."""
        if self.home is None:
            return 0.0
        return part.chip_read / self.home.reading + (part.chip_written + part.copied) / self.home.writing

    def _least(self, part: Part, times: int) -> tuple[float, float]:
        """A bound on pJ and cycles of a step in all stripes (on their weighted sum, where there are weights)."""
        moved = (part.read + part.written) / self.machine.outer.bandwidth
        busy, energy = vector_cost(part.step.work.vectors, self.units)
        busy, energy = max(busy * part.share, self._port(part)), energy * part.share + self._beside(part)
        if part.layer is None:
            return energy * times, max(busy, moved) * times
        known = self.partials
        (pj, cycles), (least, _) = (
            known.least(part.layer, part.stay),
            known.least(part.layer, part.stay, energy_only=True),
        )
        weights = known.weights
        if weights is None:
            return (pj + energy) * times, max(cycles + moved, busy) * times
        # with the vector work's time beside the product's, the weighted sum is at least each of these
        bounds = [(e, c + moved) for e, c in ((pj, cycles), *known.found(part.layer, part.stay, part.reserved))]
        bounds.append((least, max(busy, moved)))
        pj, cycles = max(bounds, key=lambda p: weights[0] * p[0] + weights[1] * p[1])
        return (pj + energy) * times, cycles * times


def _unpaired(choice: Any, count: int) -> tuple[Any, ...]:
    """The choices of the steps of a joined point, in order."""
    found: list[Any] = []
    for _ in range(count):
        choice, last = choice
        found.append(last)
    return tuple(reversed(found))
