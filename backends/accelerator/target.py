"""The accelerator as passes see it, and the plan of a graph: workload, machine, mappings."""

from __future__ import annotations

import functools
import importlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import error
from ...ir.dims import symbols
from ...ir.graph import Graph, Node
from ...ir.target import Cost, node_cost
from .cache import cached_search
from .deploy import runs
from .machine import Machine
from .plan import Plan, plan
from .resolve import fitted, hierarchy_of, rates_of, units_of
from .workload import Work, work_of

if TYPE_CHECKING:
    from . import AcceleratorOptions
    from .fusion import FusedPlan
    from .hierarchy import Hierarchy

__all__ = ["AcceleratorTarget", "machine_named", "planned"]


READERS = {".toml": "description", ".yaml": "zigzag", ".yml": "zigzag", ".cfg": "scalesim"}
"""Which module reads a description, by the file's ending."""


@dataclass
class AcceleratorTarget:
    """Runs every op (what is no product on its vector units); costs are those of the best mappings."""

    options: AcceleratorOptions
    name: str = "accelerator"

    def legal(self, node: Node) -> str:
        return ""

    def cost(self, graph: Graph) -> Cost:
        made = planned(graph, self.options)
        flops = sum(node_cost(n).flops for n in graph.nodes)
        outer = made.machine.outer.name
        read = write = 0.0
        for step in made.steps:
            read += sum(v.read_bits for v in step.work.vectors) / 8
            write += sum(v.write_bits for v in step.work.vectors) / 8
            if step.cost is not None and step.work.layer is not None:
                width = dict(zip("WIO", step.work.layer.bits, strict=False))
                entries = [e for e in step.cost.entries if e.store == outer]
                read += sum(e.reads * width[e.operand] / 8 for e in entries)
                write += sum(e.writes * width[e.operand] / 8 for e in entries)
        notes = (f"{made.energy / 1e6:.4g} µJ and {made.cycles:.6g} cycles on {made.machine.name}", *made.notes)
        return Cost(flops, math.ceil(read), math.ceil(write), made.seconds, notes)


def machine_named(name: str) -> Machine:
    """A preset, or the machine that a file describes; IG0520 to IG0529 for what is wrong with it."""
    module = READERS.get(Path(name).suffix.lower())
    if module is not None:
        return importlib.import_module(f".{module}", __package__).load_machine(name)
    return importlib.import_module(".presets", __package__).preset(name)


@functools.lru_cache(maxsize=8)
def planned(graph: Graph, options: AcceleratorOptions) -> Plan:
    """The plan of a graph. Building and costing ask for the same one: it is kept."""
    from .deploy import inlined
    from .grouped import works_of_groups

    machine = machine_named(options.machine)
    notes: dict[str, int] = {}
    floats = 64 if any(m.w[0] not in "iu" for m in machine.modes) else max(max(m.bits) for m in machine.modes)
    hierarchy = hierarchy_of(machine)
    every = works_of_groups(inlined(graph), hierarchy, options.bits or floats) or work_of(graph, options.bits or floats)
    works = [_fitted(w, machine, options.bits, notes) for w in every]

    made = plan(
        works,
        hierarchy,
        lambda layer: rates_of(layer, machine),
        units_of(machine),
        lambda layer, h, rates: cached_search(layer, h, rates, options.objective),
    )
    free = sorted({n for v in graph.inputs for n in symbols(v.type.shape)})
    sizes = (f"{', '.join(free)} taken as 1: `freeze{{{free[0]}=…}}` maps for other sizes",) if free else ()
    told = sizes + tuple(f"{n} of {len(works)} steps {note}" for note, n in notes.items())
    if options.fuse and not runs(graph):  # what has a program is fused when that is made: deploy.py
        fused = _fused(graph, machine, hierarchy, options, options.bits or floats)
        told += (_gain(fused),)
        made = replace(made, fused=fused)
    return replace(made, notes=told, described=machine)


def _fused(graph: Graph, machine: Machine, hierarchy: Hierarchy, options: AcceleratorOptions, floats: int) -> FusedPlan:
    from .fusion import fuse, steps_of

    steps = steps_of(graph, floats, lambda work: _fitted(work, machine, options.bits, {}))
    return fuse(steps, hierarchy, lambda layer: rates_of(layer, machine), units_of(machine), options.objective)


def _gain(fused: FusedPlan) -> str:
    energy, cycles = (sum(getattr(s, what) for s in fused.unfused) for what in ("energy", "cycles"))
    together = sum(s.fused for s in fused.segments)
    return (
        f"fused in {together} segments of several steps: {fused.energy / 1e6:.4g} µJ and {fused.cycles:.6g} cycles "
        f"instead of {energy / 1e6:.4g} µJ and {cycles:.6g}"
    )


def _fitted(work: Work, machine: Machine, bits: int, notes: dict[str, int]) -> Work:
    layer = work.layer
    if layer is None:
        return work
    if bits:
        layer = replace(layer, bits=(bits, bits, bits, layer.bits[3]))
    made, note = fitted(layer, machine)
    if note:
        notes[note] = notes.get(note, 0) + 1
    if layer.macs < 1:
        raise error("IG0531", f"`{work.name}` multiplies nothing", hint="its extents are zero")
    return replace(work, layer=made)
