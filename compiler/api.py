"""The Python interface: `compile`, `load`, `optimize`, and what `compile` gives.

compiled = intaglio.compile("resnet20.onnx", target="cpu", passes="fold", budget=intaglio.Budget("top1", 0.005))
y = compiled(x)
compiled.save("out/")
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.backend import Backend, KernelCost, Profiled, Program, Sampled
from ..ir.diagnostics import IntaglioError, error
from ..ir.graph import Graph, Module
from ..ir.interpret import check_inputs
from ..passes.definition import Pass
from ..passes.options import keywords
from ..passes.syntax import Step, parse_pipeline
from . import artifact
from .calibration import as_batches
from .crash import InternalError, versions
from .ledger import Budget, Ledger
from .loading import load_module, origin_of
from .manifest import Manifest, Origin, Port
from .outline import Outline, outline
from .pipeline import Observe, Outcome, Timing, run_pipeline
from .specialise import specialised
from .targets import options_from_json, options_to_json, parse_target

__all__ = ["Compiled", "compile", "load", "load_artifact", "optimize"]

StrPath = str | os.PathLike[str]
Pipeline = str | Pass | Iterable[str | Pass]


def load(model: Any, *, example_inputs: Any = None, dynamic_batch: bool = False) -> Module:
    """The module of a model: a path (.onnx, .ig, an artifact's folder), an ONNX proto, a torch module, a module."""
    return load_module(model, example_inputs, dynamic_batch)


def optimize(
    module: Module,
    pipeline: Pipeline,
    *,
    target: str = "reference",
    calibration: Any = None,
    snapshots: StrPath | None = None,
) -> Module:
    """The module after a pipeline such as `"freeze{N=8},fold"`, a pass, or a list of both."""
    batches = as_batches(calibration, module.main) if calibration is not None else []
    backend, options = parse_target(target)
    where = Path(snapshots) if snapshots is not None else None
    return run_pipeline(
        module, _steps(pipeline), target=backend.target(options), calibration=batches, snapshots=where
    ).module


def compile(
    model: Any,
    target: str = "cpu",
    passes: Pipeline = "",
    calibration: Any = None,
    budget: Budget | str | None = None,
    *,
    name: str = "",
    example_inputs: Any = None,
    snapshots: StrPath | None = None,
    observe: Observe | None = None,
    specialise: int = 0,
    **options: Any,
) -> Compiled:
    """Compile a model for a target; `options` are the target's own, as in `compile(m, "cpu", threads=2)`.

    `calibration` holds inputs, as arrays by name, one array, or a list of such batches (with an array `labels`,
    accuracy is measured). `budget` is the loss that the passes may cost on it. `specialise` programs for given sizes
    of the symbolic dimensions are compiled and kept, as calls meet them. Raises `IntaglioError` for what the caller can
    change.
    """
    steps = _steps(passes)
    backend, made = parse_target(target, options)
    limit = Budget.parse(budget) if isinstance(budget, str) else budget
    if observe is not None:
        observe("load")
    source = load_module(model, example_inputs)
    source = replace(source, name=name) if name else source
    batches = as_batches(calibration, source.main)
    own = parse_pipeline(backend.pipeline(made), f"pipeline of target {backend.name}")
    outcome = run_pipeline(
        source,
        [*steps, *own],
        target=backend.target(made),
        calibration=batches,
        snapshots=Path(snapshots) if snapshots is not None else None,
        observe=observe,
    )
    outcome = replace(outcome, ledger=replace(outcome.ledger, budget=limit))
    outcome.ledger.check()
    if observe is not None:
        observe("build")
    built = _build(backend, outcome.module, made, batches)
    program = specialised(backend, outcome.module, made, built, specialise)
    text = ",".join(map(str, [*steps, *own]))
    return Compiled(
        outcome.module,
        outline(source.main),
        backend,
        made,
        program,
        _describe(outcome, backend, made, text, origin_of(model)),
    )


def load_artifact(folder: StrPath, *, specialise: int = 0) -> Compiled:
    """The compiled model in an artifact folder, every digest checked; `specialise` as in `compile`."""
    return Compiled.load(folder, specialise=specialise)


def _steps(pipeline: Pipeline) -> list[Step]:
    if isinstance(pipeline, str):
        return list(parse_pipeline(pipeline))
    if isinstance(pipeline, Pass):
        return [Step(pipeline, keywords(pipeline.options, {}, owner=f"pass `{pipeline.name}`"))]
    if not isinstance(pipeline, Iterable):
        raise error("IG0404", f"a pipeline is text, a pass, or a list of them, not {type(pipeline).__name__}")
    return [step for one in pipeline for step in _steps(one)]


def _build(backend: Backend, module: Module, options: Any, batches: Sequence[Mapping[str, Any]]) -> Program:
    try:
        if isinstance(backend, Sampled):
            return backend.build_on(module, options, batches)
        return backend.build(module, options)
    except (IntaglioError, KeyboardInterrupt):
        raise
    except Exception as e:
        raise InternalError(f"build for {backend.name}", module) from e


def _describe(outcome: Outcome, backend: Backend, options: Any, pipeline: str, origin: Origin | None) -> Manifest:
    graph = outcome.module.main
    return Manifest(
        name=outcome.module.name,
        digest=outcome.module.digest,
        target=backend.name,
        options=options_to_json(options),
        pipeline=pipeline,
        inputs=tuple(Port(v.name, str(v.type)) for v in graph.inputs),
        outputs=tuple(Port(n, str(v.type)) for n, v in zip(graph.output_names, graph.outputs, strict=True)),
        dims=dict(outcome.module.dims),
        ledger=outcome.ledger,
        cost=backend.target(options).cost(graph),
        timings=outcome.timings,
        origin=origin,
        versions=versions(),
    )


class _InputCheck:
    """`check_inputs` for a module; arrays of the types and shapes that were accepted last are accepted at a glance."""

    def __init__(self, module: Module) -> None:
        self._expected = [(v.name, v.type) for v in module.main.inputs]
        self._names = [v.name for v in module.main.inputs]
        self._dims = module.dims
        self._accepted: list[Any] = []

    def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
        if len(inputs) == len(self._names) and self._accepted:
            arrays = [inputs.get(name) for name in self._names]
            if [(type(a), a.dtype, a.shape) if type(a) is np.ndarray else None for a in arrays] == self._accepted:
                return arrays
        arrays = check_inputs(self._expected, inputs, self._dims)
        self._accepted = [(type(a), a.dtype, a.shape) for a in arrays]
        return arrays


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled model: call it, save it, ask it what it cost.

    `module` is the IR as compiled, `source` an outline of the graph before the passes.
    """

    module: Module
    source: Outline
    backend: Backend
    options: Any
    program: Program
    manifest: Manifest

    @property
    def ledger(self) -> Ledger:
        return self.manifest.ledger

    @property
    def timings(self) -> tuple[Timing, ...]:
        return self.manifest.timings

    @property
    def graph(self) -> Graph:
        return self.module.main

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The output for inputs by position or name: an array, or a tuple of them when the model has several."""
        names = [v.name for v in self.graph.inputs]
        if len(arrays) > len(names):
            raise error("IG0601", f"{len(arrays)} inputs are given, the model has {len(names)}: {', '.join(names)}")
        if twice := set(names[: len(arrays)]) & set(named):
            raise error("IG0601", f"input `{min(twice)}` is given twice")
        found = self.run({**dict(zip(names, arrays, strict=False)), **named})
        results = tuple(found.values())
        return results[0] if len(results) == 1 else results

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name for inputs by name; IG06xx when a name, type or shape is wrong."""
        arrays = self._checked(inputs)
        try:
            results = self.program.run(arrays)
        except (IntaglioError, KeyboardInterrupt, MemoryError):
            raise
        except Exception as e:
            raise InternalError(f"run on {self.backend.name}", self.module) from e
        return dict(zip(self.graph.output_names, results, strict=True))

    @functools.cached_property
    def _checked(self) -> _InputCheck:
        return _InputCheck(self.module)

    def save(self, folder: StrPath) -> Path:
        """Write the artifact; an older one of that name is replaced in one step."""
        path = Path(folder)
        describe: Callable[[dict[str, Any]], Manifest] = lambda info: replace(self.manifest, backend=info)  # noqa: E731
        artifact.write(path, self.module, self.source.dumps(), self.program.save, describe)
        return path

    @classmethod
    def load(cls, folder: StrPath, *, specialise: int = 0, **options: Any) -> Compiled:
        """Read an artifact, every digest checked; `options` override those of the target, for this program only.

        `specialise` as in `compile`.
        """
        from ..ir.text import parse_file

        path = Path(folder)
        manifest = artifact.read_manifest(path)
        artifact.verify_files(path, manifest)
        backend, _ = parse_target(manifest.target)
        made = options_from_json(
            backend, {**manifest.options, **{k: v for k, v in options.items() if k in manifest.options}}
        )
        module = parse_file(path / artifact.MODEL)
        if module.digest != manifest.digest:
            raise error("IG0507", f"{artifact.MODEL} in artifact `{path}` is not the module that was compiled")
        try:
            source = Outline.loads((path / artifact.SOURCE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            source = outline(module.main)
        general = backend.load(path, manifest.backend, module, made)
        program = specialised(backend, module, made, general, specialise)
        return cls(module, source, backend, made, program, manifest)

    def kernel_costs(self, *, measure: bool = False) -> list[KernelCost]:
        """The program's kernels in the order in which they run, each with the seconds that it should take.

        With `measure` also what it takes, on random inputs. Empty where the target does not tell its kernels apart.
        """
        if not isinstance(self.program, Profiled):
            return []
        if not measure:
            return self.program.kernel_costs()
        from .measure import random_inputs

        return self.program.kernel_costs(list(random_inputs(self.module).values()))

    def report(self, path: StrPath | None = None, *, measure: bool = False) -> str:
        """The report as one HTML page, with `measure` as in `kernel_costs`; written to `path` if given."""
        from .report import render

        text = render(self, self.kernel_costs(measure=measure))
        if path is not None:
            from .files import new_file

            with new_file(Path(path)) as made:
                made.write_text(text, encoding="utf-8")
        return text

    def __repr__(self) -> str:
        ports = ", ".join(f"{p.name}: {p.type}" for p in self.manifest.inputs)
        return f"<compiled {self.manifest.name} for {self.manifest.target}: {ports}>"
