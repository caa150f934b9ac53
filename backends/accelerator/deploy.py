"""What of a compiled model runs as programs: emission with the plan's own mappings, and their time on the simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import IntaglioError
from ...ir.edit import Editor
from ...ir.graph import Graph, Node, Value
from .cache import cached_search
from .emit.groups import stages
from .emit.network import Program
from .execute import Executable, borders, emitted
from .files import load_program, save_program
from .formats import DENSE, Format
from .fusion.judge import fusion_for
from .layer import Layer
from .mapping import Mapping as LayerMapping
from .resolve import fitted, hierarchy_of, rates_of, units_of
from .simulate.events import Outcome, chrome_trace, simulate_program

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Deployment", "deployed", "loaded"]

TRACE = "trace.json"


@dataclass
class Deployment:
    """An executable, and what its layers took on the event simulator: (name, op, cycles), products marked.

    `fused`: of each segment of a fused plan what was predicted and simulated, and whether it runs together.
    """

    executable: Executable
    machine: Machine | None = None
    times: list[dict[str, Any]] = field(default_factory=list)
    fused: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def programs(self) -> list[Program]:
        return [p for p in self.executable.programs if p is not None]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        return self.executable.run(arrays)

    def save(self, folder: Path) -> dict[str, Any]:
        """Every program's files, and one Chrome trace of all of them."""
        events: list[Any] = []
        for i, program in enumerate(self.programs):
            save_program(program, folder, f"program{i}")
            events += self._traced[i]
        (folder / TRACE).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}), encoding="utf-8")
        return {"programs": len(self.programs), "layers": self.times, "fused": self.fused}

    @cached_property
    def _traced(self) -> list[list[Any]]:
        found = []
        for program, outcomes in zip(self.programs, self._outcomes, strict=True):
            found.append(chrome_trace(program, outcomes)["traceEvents"])
        return found

    @cached_property
    def _outcomes(self) -> list[list[Outcome]]:
        assert self.machine is not None
        machine, units = self.machine, units_of(self.machine)
        hierarchy = hierarchy_of(machine)
        return [simulate_program(p, hierarchy, lambda layer: rates_of(layer, machine), units) for p in self.programs]

    def simulate(self) -> None:
        """Fill in `times`, the bands of a fused layer as one, and `fused`."""
        for program, outcomes in zip(self.programs, self._outcomes, strict=True):
            bands: dict[tuple[int, str], dict[str, Any]] = {}
            for piece, outcome in zip(program.pieces, outcomes, strict=True):
                product = piece.layer is not None
                entry = {"name": piece.name, "op": piece.op, "cycles": outcome.cycles, "product": product}
                entry |= {"array": outcome.array, "dram": outcome.dram, "segment": piece.segment}
                known = bands.get((piece.segment, piece.name)) if piece.segment >= 0 else None
                if known is None:
                    self.times.append(entry)
                    bands[piece.segment, piece.name] = entry
                else:
                    known |= {what: known[what] + entry[what] for what in ("cycles", "array", "dram")}
            run = [n for n, s in enumerate(program.segments) if not s.why]
            sums = [[0.0, 0.0] for _ in run]
            for piece, outcome in zip(program.pieces, outcomes, strict=True):
                if piece.segment >= 0:
                    sums[piece.segment][0] += outcome.cycles
                    sums[piece.segment][1] += outcome.outer_bits
            told = [asdict(s) for s in program.segments]
            for n, total in zip(run, sums, strict=True):
                told[n]["together"] = tuple(total)
            self.fused += told

    def gain(self) -> str:
        """What fusion brings, in words; empty where nothing was fused."""
        run = [s for s in self.fused if not s["why"]]
        if not self.fused:
            return ""
        alone, together = ([sum(s[what][i] for s in run) for i in (0, 1)] for what in ("alone", "together"))
        return (
            f"fused in {len(run)} segments of several layers (of {len(self.fused)} in the plan, the others are no "
            f"better): simulated {together[0]:.6g} cycles and {together[1] / 8e3:.6g} KB of DRAM instead of "
            f"{alone[0]:.6g} and {alone[1] / 8e3:.6g}"
        )


def deployed(graph: Graph, machine: Machine, objective: str, *, fuse: bool = False) -> tuple[Deployment | None, str]:
    """The programs of a graph; none where the accelerator runs nothing of it as a program, and then why.

    `fuse`: layers run in segments whose tensors stay on the chip, where that is better.
    """
    hierarchy = hierarchy_of(machine)

    def find(layer: Layer) -> LayerMapping:
        made, _ = fitted(layer, machine)
        return cached_search(made, hierarchy, rates_of(made, machine), objective).mapping

    flat = inlined(graph)
    if not runs(flat):
        return None, "no program: only integer graphs of one sample have one (`freeze{N=1},quantize`)"
    try:
        fusion = fusion_for(machine, objective) if fuse else None
        found = Deployment(emitted(flat, hierarchy, find, stream_format(machine), fusion), machine)
        found.simulate()
    except IntaglioError as e:
        if e.diagnostics[0].code != "IG0585":  # a layer that does not fit; anything else is not to be hidden
            raise
        return None, f"no program: {e.diagnostics[0].message}"
    return found, ""


def runs(graph: Graph) -> bool:
    """Whether the accelerator runs some of a graph as a program."""
    return any(stage.groups for stage in stages(inlined(graph)))


def stream_format(machine: Machine) -> Format:
    """How the machine stores sparse weights, where a program can."""
    from .formats import parse_format

    form = parse_format(machine.sparse("W").format)
    return form if form.kind in ("bitmask", "rlc", "nm") else DENSE


def loaded(graph: Graph, folder: Path, info: Mapping[str, Any]) -> Deployment:
    """The deployment of an artifact; IG0586 for damaged programs."""
    flat = inlined(graph)
    parts = stages(flat)
    programs = iter(load_program(folder, f"program{i}") for i in range(info["programs"]))
    every = tuple(next(programs) if stage.groups else None for stage in parts)
    made = Executable(flat, tuple(parts), tuple(borders(flat, parts)), every)
    return Deployment(made, None, list(info["layers"]), list(info.get("fused", ())))


def inlined(graph: Graph) -> Graph:
    """The graph with the bodies of its kernels in place of them."""
    if all(n.op.name != "tile.kernel" for n in graph.nodes):
        return graph
    editor = Editor(name=graph.name)
    known: dict[Value | None, Value | None] = {None: None}
    for v in graph.inputs:
        known[v] = editor.input(v.name, v.type)
    for node in graph.nodes:
        if node.op.name != "tile.kernel":
            _copy(node, known, editor)
            continue
        body: Graph = node.attrs["body"]
        inner: dict[Value | None, Value | None] = {None: None}
        inner.update((b, known[v]) for b, v in zip(body.inputs, node.inputs, strict=True))
        names = {v: out.name for v, out in zip(body.outputs, node.outputs, strict=True)}
        for one in body.nodes:
            _copy(one, inner, editor, names)
        known.update(zip(node.outputs, (inner[v] for v in body.outputs), strict=True))
    for v in graph.outputs:
        value = known[v]
        assert value is not None
        editor.output(value, v.name)
    return editor.freeze()


def _copy(
    node: Node, known: dict[Value | None, Value | None], editor: Editor, names: Mapping[Value, str] | None = None
) -> None:
    if node.constant is not None:
        known[node.output] = editor.constant(node.constant, node.constant.name, type=node.output.type)
        return
    types = tuple(v.type for v in node.outputs) if node.op.declared is not None else None
    called = tuple((names or {}).get(v) or v.name for v in node.outputs)
    inputs = [known[v] for v in node.inputs]
    made = editor.apply(node.op, inputs, node.attrs, types=types, loc=node.loc, names=called)
    known.update(zip(node.outputs, made.outputs, strict=True))
