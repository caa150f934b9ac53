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
from ..passes.quantize.kv_cache import encoded_caches
from ..passes.syntax import Step
from .calibration import Batch, compare, first, fit, labels_of, outputs
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
        if contract == "exact":
            measure.exact(module, after)
        measured = measure.step(module, after) if contract != "exact" else {}
        claimed = total({c.metric: c.loss} for c in told.claims)
        notes = (*(c.note for c in told.claims if c.note), *told.notes, *(measure.note() if measured else ()))
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
            batches = [encoded_caches(b, graph) for b in fit(calibration, graph)] if name == "main" else ()
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


STEP_SAMPLES = 1024
"""Samples on which single steps are measured; from end to end it is all there are."""


class _Measure:
    """Errors on calibration data: of each pass that may have one, and of all together.

    Both sides run on batches that fit the later graph, which takes what the earlier one takes or less. What single
    steps cost is measured on the first samples, what all of them cost on all: that is what a budget is held against.
    Outputs are kept while they are good for the next step; an exact step keeps those of the graph before it.
    """

    def __init__(self, module: Module, batches: Sequence[Batch]) -> None:
        self.source, self.batches = module, batches
        self.known: tuple[Graph, list[int], list[Any]] | None = None

    def step(self, before: Module, after: Module) -> dict[str, float]:
        """Of one pass."""
        if not self.batches:
            return {}
        batches = first(fit(self.batches, after.main), after.main, STEP_SAMPLES)
        old = self._outputs(before.main, batches)
        return _compared(before.main, old, after.main, self._outputs(after.main, batches), batches)

    def exact(self, before: Module, after: Module) -> None:
        """What is known of one module holds for the other."""
        if self.known is not None and self.known[0] is before.main:
            self.known = (after.main, *self.known[1:])

    def whole(self, after: Module, entries: Sequence[Entry]) -> dict[str, float]:
        """From end to end, of the last graph itself; nothing to measure where every step was exact."""
        if not self.batches or all(e.contract == "exact" for e in entries):
            return {}
        batches = fit(self.batches, after.main)
        old, new = (outputs(m.main, batches) for m in (self.source, after))
        return _compared(self.source.main, old, after.main, new, batches)

    def note(self) -> tuple[str, ...]:
        """Of a step that was measured on a part of the data."""
        count = sum(_samples(b) for b in self.batches)
        return (f"measured on the first {STEP_SAMPLES} of {count} samples",) if count > STEP_SAMPLES else ()

    def _outputs(self, graph: Graph, batches: Sequence[Batch]) -> list[Any]:
        # the same data cut into as many batches are the same batches
        counts = [_samples(b) for b in batches]
        if self.known is None or self.known[0] is not graph or self.known[1] != counts:
            self.known = (graph, counts, outputs(graph, batches))
        return self.known[2]


def _samples(batch: Batch) -> int:
    return max((len(a) for a in batch.values() if a.ndim), default=1)


def _compared(
    before: Graph, old: list[Any], after: Graph, new: list[Any], batches: Sequence[Batch]
) -> dict[str, float]:
    """Losses at the outputs that both have: a pass may store some in another form (`kv_cache`)."""
    if len(old) != len(new):
        named = dict(zip(after.output_names, new, strict=True))
        both = [(x, named[n]) for n, x in zip(before.output_names, old, strict=True) if n in named]
        both = [(x, y) for x, y in both if x.dtype == y.dtype]
        old, new = [x for x, _ in both], [y for _, y in both]
    return compare(old, new, labels_of(batches)) if old else {}
