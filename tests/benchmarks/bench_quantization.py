"""Accuracy of quantised networks on whole test sets, beside the float originals and other quantizers.

    make bench-quantization     or     python -P tests/benchmarks/bench_quantization.py --rows resnet20 --peers

What is scored is the compiled artifact on the CPU, not a simulation. Calibration data come from training splits, and
from the inputs of the test set where there is no other (keywords, the citation graph); labels are never used. A
difference to the original is given with McNemar's exact p: the chance that two equally good networks differ so much.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
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

NNCF = Path(__file__).with_name("nncf_worker.py")


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
    parser.add_argument("--peers", action="store_true", help="quantise with onnxruntime as well")
    parser.add_argument("--nncf", type=Path, metavar="PYTHON", help="quantise with NNCF, which this interpreter has")
    parser.add_argument("--packages", type=Path, help="a folder with the package that has MiniLM's weights")
    args = parser.parse_args(arguments)
    if args.packages is not None:
        sys.path.append(str(args.packages))
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
    if args.peers and "W8A8" in row.what:
        for name, made in _peers(row, model, args.nncf):
            found = _score(model, made, args.limit)
            print(f"  {name:42} {'':7} {'':7} {found.score:7.2%}", flush=True)


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
    count = min(found.count, (limit if model.score is top1 else None) or found.count)
    parts = []
    for start in range(0, count, model.batch):
        batch = found.batch(start, min(start + model.batch, count))
        parts.append(run.run(batch)[run.manifest.outputs[0].name] if hasattr(run, "manifest") else run(batch))
    outputs = np.concatenate(parts)
    labels = None if found.labels is None else found.labels[:count]
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


# --- peers ------------------------------------------------------------------------------------------------------------


def _peers(row: Row, model: Model, nncf: Path | None) -> Iterator[tuple[str, Run]]:
    """Other tools' networks, all run by onnxruntime."""
    import onnx

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.onnx"
        onnx.save(model.proto(), source)
        inputs = training_inputs(row.model, row.samples)
        for per_channel, method in ((False, "MinMax"), (True, "MinMax"), (True, "Entropy"), (True, "Percentile")):
            made = folder / "ort.onnx"
            _onnxruntime(source, made, inputs, per_channel, method)
            yield f"onnxruntime {'per channel' if per_channel else 'per tensor'} {method}", _session(made)
        if nncf is not None:
            np.savez(folder / "inputs.npz", **inputs)
            made = folder / "nncf.onnx"
            command = [str(nncf), "-P", str(NNCF), str(source), str(folder / "inputs.npz"), str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print("  NNCF:", (done.stderr.strip().splitlines() or ["nothing said"])[-1])
            else:
                yield "NNCF", _session(made)


def _onnxruntime(source: Path, made: Path, inputs: Mapping[str, Any], per_channel: bool, method: str) -> None:
    import contextlib
    import io
    import logging

    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            count = len(next(iter(inputs.values())))
            step = 16
            self.left = iter(
                [{k: v[i : i + step] for k, v in inputs.items()} for i in range(0, count - step + 1, step)]
            )

        def get_next(self) -> Any:
            return next(self.left, None)

    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        ready = source.with_name("ready.onnx")
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready), str(made), Reader(), per_channel=per_channel, weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8, calibrate_method=getattr(CalibrationMethod, method),
        )  # fmt: skip
    logging.disable(logging.NOTSET)


def _session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, dict(batch))[0]


if __name__ == "__main__":
    if data.folder() is None:
        print(data.MISSING)
        sys.exit(0)
    sys.exit(main())
