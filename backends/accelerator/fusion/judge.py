"""What a segment takes, fused and its layers one by one: both programs on the event simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..emit.fused import Fusion, Verdict
from ..emit.pieces import Program
from ..hierarchy import Hierarchy, Rates
from ..layer import Layer
from ..machine import Machine
from ..resolve import fitted, hierarchy_of, rates_of, units_of
from ..simulate.events import simulate_program
from .fuse import fuse

__all__ = ["fusion_for", "judged"]


def fusion_for(machine: Machine, objective: str) -> Fusion:
    """Fusion on a described machine."""
    hierarchy, units = hierarchy_of(machine), units_of(machine)
    dense = all(machine.sparse(x).action == "none" and machine.sparse(x).format == "dense" for x in "WI")

    def fit(layer: Layer) -> Layer:
        made, _ = fitted(layer, machine)
        # where zeros bring nothing, layers of one shape are alike
        return replace(made, density=(1.0, 1.0), nonzeros=(), pattern="") if dense else made

    def rates(layer: Layer) -> Rates:
        return rates_of(layer, machine)

    return Fusion(
        fit,
        lambda steps: fuse(steps, hierarchy, rates, units, objective),
        lambda alone, together: judged(alone, together, hierarchy, rates, units.alu[0]),
        slower=objective != "latency",
    )


def judged(
    alone: Program, together: Program, machine: Hierarchy, rates: Callable[[Layer], Rates], lanes: float = 16.0
) -> Verdict:
    """Cycles and bits of DRAM of both."""
    found = []
    for program in (alone, together):
        outcomes = simulate_program(program, machine, rates, lanes)
        pairs = list(zip(program.pieces, outcomes, strict=True))
        found.append((sum(p.times * o.cycles for p, o in pairs), sum(p.times * o.outer_bits for p, o in pairs)))
    return Verdict(*found)
