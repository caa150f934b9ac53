"""The demonstration: `make demo` compiles a trained network, runs it on real data, and compares it with ONNX Runtime.

The network that ships classifies 8x8 images of handwritten digits; tests/tools/train_digits.py says where it and its
data come from. Where the project's data folder is at hand (INTAGLIO_DATA, or ../shared/data), ResNet-20 on CIFAR-10
follows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.diagnostics import IntaglioError
from .api import Compiled
from .api import compile as compile_model
from .measure import Contender, Result, measure, onnxruntime_contender

__all__ = ["main"]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """A model, its test set, and the passes that make it a program for one image."""

    title: str
    model: Path
    images: Any
    labels: Any
    passes: str


@dataclass(frozen=True)
class Row:
    name: str
    accuracy: float
    milliseconds: float
    bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 when all went well."""
    parser = argparse.ArgumentParser(prog="python -m intaglio.compiler.demo", description=__doc__)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure each runtime")
    parser.add_argument("--report", type=Path, default=Path("report.html"), help="where the report goes")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for i, find in enumerate((_digits, _cifar)):
                task = find()
                if task is None:
                    continue
                compiled = _run(task, args.target, args.seconds, Path(folder) / str(i))
                if i == 0:
                    compiled.report(args.report)
                    print(f"\nwrote {args.report}\n")
    except IntaglioError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


def _run(task: Task, target: str, seconds: float, folder: Path) -> Compiled:
    """Compile, save, load, run, compare, print."""
    print(f"{task.title}: {len(task.images)} test images, one at a time, one thread")
    compile_model(task.model, target, task.passes).save(folder)
    compiled = Compiled.load(folder, threads=1)
    name = compiled.graph.inputs[0].name
    first = {name: task.images[:1]}
    contenders = [Contender(f"intaglio {target}", lambda: compiled.run(first))]
    answers: list[Callable[[Any], Any]] = [lambda x: next(iter(compiled.run({name: x}).values()))]
    sizes = [sum(f.stat().st_size for f in folder.rglob("*"))]
    try:
        other = onnxruntime_contender(task.model, first, 1)
    except IntaglioError as e:
        print(f"  (no comparison: {e.diagnostics[0].message})")
    else:
        contenders.append(other)
        answers.append(_session(task.model, name))
        sizes.append(task.model.stat().st_size)
    times = measure(contenders, seconds)
    scores = [np.concatenate([answer(task.images[i : i + 1]) for i in range(len(task.images))]) for answer in answers]
    rows = [_row(t, s, task.labels, size) for t, s, size in zip(times, scores, sizes, strict=True)]
    print(_table(rows))
    if len(scores) == 2:
        gap = float(np.abs(scores[0] - scores[1]).max())
        same = np.mean(scores[0].argmax(axis=1) == scores[1].argmax(axis=1))
        print(f"  largest difference of any score: {gap:.2g}; the same answer for {same:.2%}")
    return compiled


def _session(model: Path, name: str) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {name: x})[0]


def _row(time: Result, scores: Any, labels: Any, size: int) -> Row:
    return Row(time.name, float(np.mean(scores.argmax(axis=1) == labels)), time.median, size)


def _table(rows: Sequence[Row]) -> str:
    lines = [f"  {'':22} {'accuracy':>9} {'ms':>9} {'ratio':>7} {'kB':>8}"]
    for r in rows:
        ratio = r.milliseconds / rows[0].milliseconds
        lines.append(f"  {r.name:22} {r.accuracy:9.2%} {r.milliseconds:9.3f} {ratio:7.2f} {r.bytes / 1e3:8.0f}")
    return "\n".join(lines)


# --- data -----------------------------------------------------------------------------------------------------------


def _digits() -> Task:
    with np.load(HERE / "demo_digits.npz", allow_pickle=False) as data:
        images, labels = data["image"].astype(np.float32), data["labels"]
    return Task("handwritten digits", HERE / "demo_digits.onnx", images, labels, "freeze{N=1}")


def _cifar() -> Task | None:
    """ResNet-20 on CIFAR-10, where the data are at hand."""
    folder = Path(os.environ.get("INTAGLIO_DATA") or HERE.resolve().parents[1] / "shared" / "data")
    model, pictures = folder / "models" / "resnet20_cifar10.onnx", folder / "vision" / "cifar10_test.webp"
    if not (model.is_file() and pictures.is_file()):
        return None
    try:
        from PIL import Image
    except ImportError:
        print("ResNet-20 on CIFAR-10 needs pillow to read the images: pip install pillow")
        return None
    Image.MAX_IMAGE_PIXELS = None
    mosaic = np.asarray(Image.open(pictures).convert("RGB"))
    x = mosaic.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = np.ascontiguousarray(((x / 255.0 - mean) / deviation).transpose(0, 3, 1, 2), dtype=np.float32)
    with np.load(folder / "vision" / "cifar10_labels.npz", allow_pickle=False) as data:
        labels = data["test"]
    return Task("ResNet-20 on CIFAR-10", model, images, labels, "freeze")


if __name__ == "__main__":
    sys.exit(main())
