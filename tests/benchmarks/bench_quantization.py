"""Accuracy of quantised networks on whole test sets, beside the float originals and other quantizers.

    make bench-quantization     or     python -P tests/benchmarks/bench_quantization.py --rows resnet20 --peers

What is scored is the compiled artifact on the CPU, not a simulation. Calibration data come from training splits, and
from the inputs of the test set where there is no other (keywords, the citation graph); labels are never used. A
difference to the original is given with McNemar's exact p: the chance that two equally good networks differ so much.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # a package `tests` without the repository's root on the path
    package = types.ModuleType("tests")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["tests"] = package
    __package__ = "tests.benchmarks"

from ..zoo import data
from ..zoo.models import MODELS, Model, top1
from .calibrate import training_inputs
from .quantizers import Bits, quantised_by_others


@dataclass(frozen=True)
class Row:
    """One line of the table: `bar` and `stretch` are the accuracies aimed at."""

    model: str
    what: str
    passes: str
    bar: float
    stretch: float | None = None
    samples: int = 1024

    @property
    def name(self) -> str:
        return f"{self.model} {self.what}"


W8 = "quantize{method=gptq}"
W4 = "quantize{weights=4,method=gptq}"
GROUPS = "quantize{weights=4,edges=4,per=group,activations=float,method=gptq}"
TOKENS = "quantize{weights=4,edges=4,dynamic=token,method=gptq}"
ROWS = (
    Row("resnet20_cifar10", "W8A8", W8, 0.917, 0.9175),
    Row("resnet20_cifar10", "W4A8, all layers", "quantize{weights=4,edges=4,method=gptq}", 0.916, 0.918),
    Row("resnet20_cifar10", "W4A4", "quantize{weights=4,activations=4,method=adaround}", 0.910, 0.913),
    Row("resnet20_cifar10", "W3A8", "quantize{weights=3,method=gptq}", 0.911, 0.914),
    Row("resnet20_cifar10", "W2A8", "quantize{weights=2,method=gptq}", 0.88, 0.89),
    Row("resnet8_cifar10", "W8A8", W8, 0.870),
    Row("resnet8_cifar10", "W4A8", W4, 0.86),
    Row("resnet8_cifar10", "W2A4", "quantize{weights=2,activations=4,method=gptq}", math.nan),
    Row("resnet8_cifar10", "W2A4, trained", "qat{weights=2,activations=4}", math.nan, None, 10000),
    Row("mobilenet_v1_075_224", "W8A8", f"equalize,{W8}", 0.778, 0.781, 256),
    Row("mobilenet_v1_075_224", "W8A8 per tensor", "equalize,quantize{per=tensor,method=gptq}", 0.74, 0.77, 256),
    Row("mobilenet_v1_075_224", "W4A8", W4, 0.745, 0.76, 128),
    Row("efficientnet_lite0", "W8A8", W8, 0.825, 0.827, 128),
    Row("dscnn_kws", "W8A8", W8, 0.910, 0.913, 100),
    Row("minilm_l6", "W8A8", "rotate,quantize{method=gptq,ranges=l2.4}", 0.818, None, 256),
    Row("minilm_l6", "W8A8 by token", "quantize{dynamic=token}", 0.818, None, 256),
    Row("minilm_l6", "W4A8 by token", f"rotate,{TOKENS}", math.nan, None, 256),
    Row("minilm_l6", "W4 in groups of 32", GROUPS, 0.810, None, 256),
    Row("gcn_cora", "W8A8", W8, 0.815),
    Row("gcn_cora", "W4A8", W4, 0.805),
    Row("ad01_autoencoder", "W8A8", W8, math.nan, None, 256),
)


@dataclass(frozen=True)
class Result:
    """What a network makes of the test set: all outputs, and the score."""

    outputs: Any
    score: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only rows whose name contains one of these, separated by commas")
    parser.add_argument("--passes", help="this pipeline instead of a row's own")
    parser.add_argument("--limit", type=int, help="only so many test samples")
    parser.add_argument("--peers", action="store_true", help="quantise with other tools as well")
    parser.add_argument("--quick", action="store_true", help="other tools without what takes them many minutes")
    parser.add_argument(
        "--quantizers", type=Path, default=Path(".venv-quantizers"), help="the folder with other tools' environments"
    )
    parser.add_argument("--packages", type=Path, help="a folder with the package that has MiniLM's weights")
    args = parser.parse_args(arguments)
    if args.packages is not None:
        sys.path.append(str(args.packages))
    with tempfile.TemporaryDirectory() as empty:  # what was quantised before would take no time
        os.environ["INTAGLIO_CACHE"] = empty
        return _rows(args)


def _rows(args: argparse.Namespace) -> int:
    wanted = [w for w in args.rows.split(",") if w]
    print(f"{'network':44} {'float':>7} {'bar':>7} {'got':>7} {'stretch':>7}  {'p':>6} {'CPU-s':>6}")
    original: dict[str, Result] = {}
    for row in ROWS:
        if wanted and not any(w in row.name for w in wanted):
            continue
        model = next(m for m in MODELS if m.name == row.model)
        if model.missing:
            print(f"{row.name:44} {model.missing}")
            continue
        if args.passes is not None:
            row = replace(row, passes=args.passes)
        if row.model not in original:
            original = {row.model: _score(model, _compiled(model, ""), args.limit)}
        _line(row, model, original[row.model], args)
    return 0


def _line(row: Row, model: Model, before: Result, args: argparse.Namespace) -> None:
    seconds, run, remark = _quantised(row, model)
    after = _score(model, run, args.limit)
    stretch = f"{row.stretch:7.2%}" if row.stretch is not None else " " * 7
    bar = f"{row.bar:7.2%}" if not math.isnan(row.bar) else " " * 7
    mark = "short, " if after.score < row.bar else ""
    p = f"{_mcnemar(model, before, after, args.limit):6.3f}" if model.score is top1 else " " * 6
    scores = f"{before.score:7.2%} {bar} {after.score:7.2%}"
    print(f"{row.name:44} {scores} {stretch}  {p} {seconds:6.1f}  {mark}{remark}", flush=True)
    if args.peers:
        _others(row, model, args)


Run = Callable[[Mapping[str, Any]], Any]


def _compiled(model: Model, passes: str) -> Run:
    import intaglio

    return intaglio.compile(model.proto(), "cpu", passes)


def _quantised(row: Row, model: Model) -> tuple[float, Run, str]:
    """CPU seconds of the passes, the network, and a remark."""
    import intaglio
    from intaglio.compiler.api import load_artifact
    from intaglio.compiler.crash import InternalError
    from intaglio.passes.definition import Context
    from intaglio.passes.quantize.evaluate import evaluate
    from intaglio.passes.syntax import parse_pipeline

    module = intaglio.load(model.proto())
    context = Context(calibration=[training_inputs(row.model, row.samples)], dims=module.dims)
    start = time.process_time()
    graph = module.main
    for step in parse_pipeline(row.passes):
        graph = step.rewrite.run(graph, step.options, context)
    seconds = time.process_time() - start
    try:
        compiled = intaglio.compile(module.with_main(graph), "cpu")
    except InternalError as e:
        simulated = lambda batch: evaluate(graph, [batch[v.name] for v in graph.inputs])[0]  # noqa: E731
        return seconds, simulated, f"SIMULATED: {e}"
    with tempfile.TemporaryDirectory() as folder:  # what is scored has been written and read
        run = load_artifact(compiled.save(Path(folder) / "made"))
    kernels = sum("quant." in k for node in compiled.graph.nodes for k in _ops(node))
    return seconds, run, f"{kernels} ops on codes"


def _ops(node: Any) -> list[str]:
    body = node.attrs.get("body")
    return [node.op.name] if body is None else [n.op.name for n in body.nodes]


def _score(model: Model, run: Any, limit: int | None) -> Result:
    found = model.data()
    count = _count(model, found, limit)
    parts = []
    for start in range(0, count, model.batch):
        batch = found.batch(start, min(start + model.batch, count))
        parts.append(run.run(batch)[run.manifest.outputs[0].name] if hasattr(run, "manifest") else run(batch))
    return _result(model, np.concatenate(parts), count)


def _count(model: Model, found: data.Data, limit: int | None) -> int:
    return min(found.count, (limit if model.score is top1 else None) or found.count)


def _result(model: Model, outputs: Any, count: int) -> Result:
    labels = model.data().labels
    labels = None if labels is None else labels[:count]
    if model.score is None:
        return Result(outputs, float("nan"))
    return Result(outputs, model.score(outputs, labels))


def _mcnemar(model: Model, before: Result, after: Result, limit: int | None) -> float:
    """Two-sided exact p of the samples that only one of two networks gets right."""
    from intaglio.passes.quantize.quantize import mcnemar

    labels = model.data().labels[: len(before.outputs)]
    chosen = labels >= 0
    right = [(r.outputs.argmax(-1) == labels)[chosen] for r in (before, after)]
    lost, won = int(np.sum(right[0] & ~right[1])), int(np.sum(~right[0] & right[1]))
    return mcnemar(lost, won)


# --- other tools ------------------------------------------------------------------------------------------------------


def _others(row: Row, model: Model, args: argparse.Namespace) -> None:
    """The same codes by other tools, on the same data: a line for each of their settings."""
    from intaglio.passes.syntax import parse_pipeline

    options = parse_pipeline(row.passes)[-1].options
    if not isinstance(options.weights, int) or options.activations == "float" or options.per != "channel":
        return
    if getattr(options, "dynamic", "none") != "none":
        return
    bits = Bits(options.weights, options.activations, max(options.edges, options.weights))
    found = model.data()
    count = _count(model, found, args.limit)
    parts = [found.batch(i, min(i + model.batch, count)) for i in range(0, count, model.batch)]
    test = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    calibration = training_inputs(row.model, row.samples)
    for made in quantised_by_others(model.proto(), calibration, test, bits, args.quantizers, model.batch, args.quick):
        if isinstance(made, str):
            print(f"  {made}", flush=True)
            continue
        score = _result(model, made.outputs.reshape(count, *made.outputs.shape[1:]), count).score
        print(f"  {made.tool:58} {score:7.2%} {'':15} {made.seconds:6.1f}", flush=True)


if __name__ == "__main__":
    if data.folder() is None:
        print(data.MISSING)
        sys.exit(0)
    sys.exit(main())
