"""What fewer bits and zeros would change: the mappings that were found, costed again with other weights.

The tiles stay, so every line is an upper bound of what a search with these weights would find.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .cost import cost_of
from .machine import Machine, Sparsity
from .plan import Plan
from .resolve import fitted, rates_of

__all__ = ["what_if"]

BITS = (8, 4, 2)
DENSITIES = (1.0, 0.5, 0.25)
FORMATS = (("dense", "gate"), ("bitmask", "skip"), ("rlc:4", "skip"), ("nm:2:4", "skip"))


def what_if(plan: Plan, machine: Machine) -> list[dict[str, Any]]:
    """Cycles and pJ of all products for every choice of weight bits, density, format; those of the model come first."""
    kinds: dict[Any, list[Any]] = {}
    for step in plan.steps:
        if step.result is not None and step.work.layer is not None:
            kinds.setdefault(step.work.layer.key(), [step.work.layer, step.result, 0])[2] += 1
    rows = [_row("as compiled", "", "", kinds, lambda layer: layer, machine, plan)]
    for bits in BITS:
        for density in DENSITIES:
            for form, action in FORMATS:
                if (form == "dense") != (density == 1.0) or (form == "nm:2:4" and density > 0.5):
                    continue

                def thinner(layer: Any, bits: int = bits, density: float = density) -> Any:
                    w, *others = layer.bits
                    return replace(layer, bits=(min(w, bits), *others), density=(density, 1.0), nonzeros=())

                other = replace(machine, sparsity=(("W", Sparsity(form, action)),))
                rows.append(_row(str(bits), f"{density:g}", f"{form}, {action}", kinds, thinner, other, plan))
    return rows


def _row(
    bits: str, density: str, form: str, kinds: dict[Any, list[Any]], change: Any, machine: Machine, plan: Plan
) -> dict[str, Any]:
    cycles = energy = 0.0
    flows = {f.name: f for f in plan.machine.dataflows}
    for layer, result, times in kinds.values():
        changed, _ = fitted(change(layer), machine)
        m = result.mapping
        cost = cost_of(plan.machine, rates_of(changed, machine), flows[m.dataflow], changed, dict(m.tiles), m.orders)
        cycles, energy = cycles + times * cost.cycles, energy + times * cost.energy
    return {"weight bits": bits, "density": density, "format": form, "cycles": cycles, "energy_pj": energy}
