"""Mappings for other tools: Timeloop's text form of a mapping, a table as CSV, and JSON.

Timeloop (Parashar et al., ISPASS 2019) names the loops of a convolution N C M P Q R S, M our K; its groups G are its
own problem dimension. A mapping is a list of levels from the innermost outwards; each has the factors of a loop at that
level (`P=4,3`: four, but three in the last tile around), and the order of the loops, innermost first.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from .layer import DIMS
from .mapping import Mapping
from .plan import Plan, Step

__all__ = ["to_csv", "to_json", "to_timeloop"]

NAMES = {"K": "M"}


def to_timeloop(mapping: Mapping) -> str:
    """One mapping as the YAML that `timeloop-model` reads, levels from the outside in."""
    lines = ["mapping:"]
    levels = len(mapping.orders)
    for t in range(levels):
        order = list(reversed(mapping.orders[t].loops))
        factors = [_factor(mapping, d, t) for d in order]
        for name in mapping.memories[t]:
            lines += _level(name, "temporal", factors if name == mapping.memories[t][-1] else [], order)
    spatial = {d: f for d, f in (*mapping.rows, *mapping.cols)}
    order = [d for d, _ in mapping.rows] + [d for d, _ in mapping.cols if d not in dict(mapping.rows)]
    order += [d for d in DIMS if d not in order]
    factors = [f"{NAMES.get(d, d)}={spatial.get(d, 1)}" for d in order]
    lines += _level(mapping.memories[-1][-1], "spatial", factors, order, split=len(mapping.rows))
    inner = [f"{NAMES.get(d, d)}={mapping.tiles[d][-1]}" for d in DIMS]
    lines += _level("element", "temporal", inner, list(DIMS))
    return "\n".join(lines) + "\n"


def _factor(mapping: Mapping, d: str, t: int) -> str:
    """`P=4,3`: four iterations, three in the last tile around."""
    last = size = mapping.sizes[DIMS.index(d)]
    for tile in mapping.tiles[d][:t]:
        last, size = (last - 1) % tile + 1, tile
    tile = mapping.tiles[d][t]
    trips, edge = -(-size // tile), -(-last // tile)
    return f"{NAMES.get(d, d)}={trips}" + (f",{edge}" if edge != trips else "")


def _level(target: str, kind: str, factors: Sequence[str], order: Sequence[str], split: int | None = None) -> list[str]:
    lines = [f"  - target: {target}", f"    type: {kind}"]
    lines.append(f"    factors: {' '.join(factors) if factors else ' '.join(f'{NAMES.get(d, d)}=1' for d in order)}")
    lines.append(f"    permutation: {''.join(NAMES.get(d, d) for d in order)}")
    if split is not None:
        lines.append(f"    split: {split}")
    return lines


HEADS: tuple[str, ...] = ("step", "op", *DIMS, "macs", "dataflow", "rows", "cols", "cycles", "steps", "utilisation")
HEADS += ("energy_pj", "vector_cycles", "vector_energy_pj")


def to_csv(plan: Plan) -> str:
    """One row a step, with a column of energy for every memory and operand."""
    stores = sorted({(e.store, e.operand) for s in plan.steps if s.cost for e in s.cost.entries})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*HEADS, *(f"{s}_{x}_pj" for s, x in stores)])
    for step in plan.steps:
        writer.writerow([*_row(step), *_energies(step, stores)])
    return out.getvalue()


def _row(step: Step) -> list[Any]:
    cost, layer = step.cost, step.work.layer
    if cost is None or layer is None or step.result is None:
        return [step.work.name, step.work.op, *[""] * 12, step.cycles, "", "", step.energy, *_vector(step)]
    m = step.result.mapping
    sides = [" ".join(f"{d}{f}" for d, f in side) for side in (m.rows, m.cols)]
    return [
        step.work.name,
        step.work.op,
        *layer.sizes,
        layer.macs,
        m.dataflow,
        *sides,
        step.cycles,
        cost.steps,
        round(cost.utilisation, 6),
        step.energy,
        *_vector(step),
    ]


def _vector(step: Step) -> list[float]:
    return [step.vector_cycles, step.vector_energy]


def _energies(step: Step, stores: Sequence[tuple[str, str]]) -> list[float]:
    found = {(e.store, e.operand): e.energy for e in step.cost.entries} if step.cost else {}
    return [found.get(s, 0.0) for s in stores]


def to_json(plan: Plan) -> str:
    """Everything: mapping, certificate and counts of every step."""
    from .cache import cost_to_json

    steps = []
    for step in plan.steps:
        entry: dict[str, Any] = {
            "name": step.work.name,
            "op": step.work.op,
            "bound": step.bound,
            "cycles": step.cycles,
            "energy_pj": step.energy,
            "vector_cycles": step.vector_cycles,
            "vector_energy_pj": step.vector_energy,
            "vector": [v.__dict__ for v in step.work.vectors],
        }
        layer = step.work.layer
        if step.work.host:
            entry["host"] = True
        if step.result is not None and layer is not None:
            entry["layer"] = {
                "sizes": dict(zip(DIMS, layer.sizes, strict=True)),
                "strides": layer.strides,
                "dilations": layer.dilations,
                "pads": layer.pads,
                "image": layer.image,
                "bits": layer.bits,
                "density": layer.density,
                "pattern": layer.pattern,
            }
            entry["mapping"] = step.result.mapping.to_json()
            entry["cost"] = cost_to_json(step.result.cost)
            entry["certificate"] = step.result.certificate.__dict__
        steps.append(entry)
    data = {
        "version": 1,
        "machine": plan.machine.name,
        "clock_hz": plan.machine.clock,
        "cycles": plan.cycles,
        "energy_pj": plan.energy,
        "seconds": plan.seconds,
        "peak_macs_per_cycle": plan.machine.rows * plan.machine.cols,
        "outer_bits_per_cycle": min(plan.machine.outer.bandwidth, 1e30),
        "notes": list(plan.notes),
        "steps": steps,
    }
    return json.dumps(data, indent=1) + "\n"
