"""A whole graph on a machine: the best mapping of every layer, the vector work beside it, and the sums.

Layers run one after the other, each from and to the outermost memory. What follows a product on its way to memory
(sums, activations, requantisation) overlaps with it: a step takes the longer of both. Operands that only the vector
work reads are loaded besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .cost import Cost
from .hierarchy import Hierarchy, Rates
from .layer import Layer
from .machine import Machine
from .mapper import Result
from .pieces import cycles_of_pieces
from .timeline import cycles_of
from .vector import Vector
from .workload import Work

if TYPE_CHECKING:
    from .fusion import FusedPlan

__all__ = ["Plan", "Step", "Units", "plan"]


@dataclass(frozen=True)
class Units:
    """Vector units: (operations a cycle, pJ an operation) of the ALU and of the special ones."""

    alu: tuple[float, float] = (16.0, 0.1)
    special: tuple[tuple[str, tuple[float, float]], ...] = ()

    def of(self, unit: str) -> tuple[float, float]:
        return dict(self.special).get(unit, self.alu)


@dataclass(frozen=True)
class Step:
    """A unit of work and what it costs: `cycles` and `energy` [pJ] in all, `vector_*` of what is no product."""

    work: Work
    result: Result | None
    cycles: float
    energy: float
    vector_cycles: float
    vector_energy: float

    @property
    def cost(self) -> Cost | None:
        return self.result.cost if self.result is not None else None

    @property
    def bound(self) -> str:
        """What takes longest: the array, its filling, a shared memory, the outermost memory, vector units."""
        cost = self.cost
        if cost is None or self.vector_cycles > cost.cycles:
            return "vector"
        if cost.outer_cycles > cost.work:
            return "memory"
        if cost.fill > cost.steps:
            return "fill"
        return "array" if cost.work <= (cost.array + cost.fill) * (1 + 1e-9) else "buffer"


@dataclass(frozen=True)
class Plan:
    """All steps in order; cycles, pJ."""

    machine: Hierarchy
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    described: Machine | None = None
    fused: FusedPlan | None = None

    @property
    def cycles(self) -> float:
        return sum(s.cycles for s in self.steps)

    @property
    def energy(self) -> float:
        return sum(s.energy for s in self.steps)

    @property
    def seconds(self) -> float:
        return self.cycles / self.machine.clock


def plan(
    works: Sequence[Work],
    machine: Hierarchy,
    rates: Callable[[Layer], Rates],
    units: Units,
    find: Callable[[Layer, Hierarchy, Rates], Result],
) -> Plan:
    """`find` searches a layer's mapping; layers that differ in name only are searched once."""
    known: dict[Any, Result] = {}
    steps = []
    for work in works:
        result, cycles = None, 0.0
        if work.pieces is not None:
            cycles = cycles_of_pieces(work.pieces, machine, lambda unit: units.of(unit)[0])
        if work.layer is not None:
            key = work.layer.key()
            if key not in known:
                known[key] = find(work.layer, machine, rates(work.layer))
            result = known[key]
            busy, _ = vector_cost(work.vectors, units)
            beside, tables = _moved(work, machine), _tables(work, machine)
            cycles = _timed(work.layer, result, machine, rates(work.layer), beside, busy, tables)
        steps.append(_step(work, result, cycles, machine, units))
    return Plan(machine, tuple(steps))


def _timed(
    layer: Layer, found: Result, machine: Hierarchy, rates: Rates, beside: float, along: float, tables: float
) -> float:
    """The time of a mapping with the tiles as they are (`timeline.py`), what goes along with its results included."""
    flow = next(f for f in machine.dataflows if f.name == found.mapping.dataflow)
    return tables + cycles_of(layer, found.mapping, machine, rates, flow, found.cost, beside, along)


def _tables(work: Work, machine: Hierarchy) -> float:
    """Cycles to read bias, multiplier and shift of every channel: 16 bytes, before the first result leaves."""
    if work.layer is None or all(v.op != "quant.requantize" for v in work.vectors):
        return 0.0
    return work.layer.extent["G"] * work.layer.extent["K"] * 128 / machine.outer.reading


def _moved(work: Work, machine: Hierarchy) -> float:
    """Cycles of the outermost memory for what only the vector work reads and writes."""
    return sum(v.read_bits + v.write_bits for v in work.vectors) / machine.outer.bandwidth


def _step(work: Work, result: Result | None, product: float, machine: Hierarchy, units: Units) -> Step:
    busy, energy = vector_cost(work.vectors, units)
    read = sum(v.read_bits for v in work.vectors)
    write = sum(v.write_bits for v in work.vectors)
    energy += read * machine.outer.read + write * machine.outer.write
    if result is None:
        moved = _moved(work, machine)
        cycles = product or (max(busy, moved) if machine.overlap else busy + moved)
        return Step(work, None, cycles, energy, cycles, energy)
    cycles = max(product, busy)
    return Step(work, result, cycles, result.cost.energy + energy, cycles - product, energy)


def vector_cost(vectors: Sequence[Vector], units: Units) -> tuple[float, float]:
    """Cycles and pJ of vector work; units of one kind are shared, units of different kinds work side by side."""
    time: dict[str, float] = {}
    energy = 0.0
    for v in vectors:
        for name, operations in ((v.unit, v.special), ("alu", v.simple)):
            if operations:
                rate, price = units.of(name)
                unit = name if name in dict(units.special) else "alu"
                time[unit] = time.get(unit, 0.0) + operations / rate
                energy += operations * price
    return max(time.values(), default=0.0), energy
