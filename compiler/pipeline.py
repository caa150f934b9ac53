"""Running passes: verify, run, verify, book; with timings, snapshots, and a reproducer when one breaks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..ir.diagnostics import IntaglioError
from ..ir.dims import symbols
from ..ir.graph import Graph, Module
from ..ir.target import Target
from ..ir.verify import check, verify
from ..passes.definition import Context
from ..passes.syntax import Step
from .calibration import Batch, compare, fit, labels_of, outputs
from .crash import InternalError
from .ledger import Entry, Ledger, total

__all__ = ["Observe", "Outcome", "Timing", "run_pipeline"]

Observe = Callable[[str], None]  # told the name of each step before it runs, and what it is at (`Stage`)


@dataclass(frozen=True)
class Timing:
    """How long a step took, and the number of nodes before and after; constants are no nodes here."""

    step: str
    seconds: float
    nodes_before: int
    nodes_after: int


@dataclass(frozen=True)
class Outcome:
    """What a pipeline made of a module."""

    module: Module
    ledger: Ledger
    timings: tuple[Timing, ...]


def run_pipeline(
    module: Module,
    steps: Sequence[Step],
    *,
    target: Target | None = None,
    calibration: Sequence[Batch] = (),
    snapshots: Path | None = None,
    observe: Observe | None = None,
) -> Outcome:
    """Run the steps on every graph of the module.

    Raises `IntaglioError` for what the user can do something about and `InternalError` for a pass that breaks.
    `snapshots` is a folder for the module after each step, as NN-pass.ig.
    """
    verify(module)
    measure = _Measure(module, calibration)
    entries: list[Entry] = []
    timings: list[Timing] = []
    _snapshot(snapshots, 0, "input", module)
    for number, step in enumerate(steps, 1):
        if observe is not None:
            observe(str(step))
        start = time.perf_counter()
        after, told = _run(module, step, target, calibration, observe)
        seconds = time.perf_counter() - start
        contract = step.rewrite.contract if _changed(module, after) else "exact"
        measured = measure.step(module, after) if contract != "exact" else {}
        claimed = total({c.metric: c.loss} for c in told.claims)
        notes = (*(c.note for c in told.claims if c.note), *told.notes)
        entries.append(Entry(str(step), contract, claimed, measured, notes))
        timings.append(Timing(str(step), seconds, _size(module), _size(after)))
        module = after
        _snapshot(snapshots, number, step.rewrite.name, module)
    return Outcome(module, Ledger(tuple(entries), measure.whole(module, entries)), tuple(timings))


def _run(
    module: Module, step: Step, target: Target | None, calibration: Sequence[Batch], observe: Observe | None
) -> tuple[Module, Context]:
    """One step on every graph, and what it told; calibration data are inputs of the entry graph only."""
    told = Context(target, module.dims, observe=observe)
    graphs: dict[str, Graph] = {}
    try:
        for name, graph in module.graphs.items():
            batches = fit(calibration, graph) if name == "main" else ()
            context = replace(told, calibration=batches)  # claims and notes go to the same lists
            graphs[name] = step.rewrite.run(graph, step.options, context)
        after = replace(module, graphs=graphs, dims=_used(module.dims, graphs))
        findings = check(after)
    except (IntaglioError, KeyboardInterrupt):
        raise
    except Exception as e:
        raise InternalError(str(step), module) from e
    if findings:
        raise InternalError(str(step), module, findings)
    return after, told


def _changed(before: Module, after: Module) -> bool:
    """Whether a pass did anything: one that had nothing to do returns the graphs that it got."""
    return any(before.graphs.get(name) is not graph for name, graph in after.graphs.items())


def _used(dims: Mapping[str, tuple[int, int | None]], graphs: Mapping[str, Graph]) -> dict[str, tuple[int, int | None]]:
    """The dimensions that an input still has."""
    free = {s for g in graphs.values() for v in g.inputs for s in symbols(v.type.shape)}
    return {name: span for name, span in dims.items() if name in free}


def _size(module: Module) -> int:
    return sum(node.op.name != "const" for g in module.graphs.values() for node in g.nodes)


def _snapshot(folder: Path | None, number: int, name: str, module: Module) -> None:
    if folder is None:
        return
    from ..ir.text import write_file

    folder.mkdir(parents=True, exist_ok=True)
    write_file(module, folder / f"{number:02}-{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.ig")


class _Measure:
    """Errors on calibration data: of each pass that may have one, and of all together.

    Both sides run on batches that fit the later graph, which takes what the earlier one takes or less. The
    interpreter is slow, so outputs are kept while they are good for the next step.
    """

    def __init__(self, module: Module, batches: Sequence[Batch]) -> None:
        self.source, self.batches = module, batches
        self.known: tuple[Graph, int, list[Any]] | None = None

    def step(self, before: Module, after: Module) -> dict[str, float]:
        """Of one pass."""
        if not self.batches:
            return {}
        batches = fit(self.batches, after.main)
        old = self._outputs(before.main, batches)
        return compare(old, self._outputs(after.main, batches), labels_of(batches))

    def whole(self, after: Module, entries: Sequence[Entry]) -> dict[str, float]:
        """From end to end; nothing to measure where every step was exact."""
        if not self.batches or all(e.contract == "exact" for e in entries):
            return {}
        batches = fit(self.batches, after.main)
        new = self._outputs(after.main, batches)
        return compare(outputs(self.source.main, batches), new, labels_of(batches))

    def _outputs(self, graph: Graph, batches: Sequence[Batch]) -> list[Any]:
        # the same data cut into as many batches are the same batches
        if self.known is None or self.known[0] is not graph or self.known[1] != len(batches):
            self.known = (graph, len(batches), outputs(graph, batches))
        return self.known[2]
