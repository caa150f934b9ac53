"""Time: medians of interleaved runs, so that whatever else the machine does hits every contender alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.diagnostics import error
from ..ir.dims import Dim, substitute, symbols
from ..ir.graph import Module
from ..ir.types import Bool, Float, Tensor

__all__ = ["Contender", "Result", "measure", "onnxruntime_contender", "random_inputs", "table"]

WARM_UP = 3
LEAST = 5  # runs, however long they take


@dataclass(frozen=True)
class Contender:
    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Result:
    """Milliseconds of one run."""

    name: str
    median: float
    low: float  # 10 % of the runs were faster
    high: float  # 10 % of the runs were slower
    runs: int


def measure(contenders: Sequence[Contender], seconds: float = 2.0) -> list[Result]:
    """Run all in turn, about `seconds` for each."""
    for contender in contenders:
        for _ in range(WARM_UP):
            contender.run()
    times: list[list[float]] = [[] for _ in contenders]
    end = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < end or len(times[-1]) < LEAST:
        for contender, found in zip(contenders, times, strict=True):
            start = time.perf_counter()
            contender.run()
            found.append(1e3 * (time.perf_counter() - start))
    return [_result(c.name, found) for c, found in zip(contenders, times, strict=True)]


def _result(name: str, times: list[float]) -> Result:
    tenths = statistics.quantiles(times, n=10)
    return Result(name, statistics.median(times), tenths[0], tenths[-1], len(times))


def table(results: Sequence[Result]) -> str:
    """The results as text; the ratio says how much longer than the first each takes."""
    rows = [["", "median ms", "10 %", "90 %", "runs", "ratio"]]
    for r in results:
        rows.append(
            [
                r.name,
                f"{r.median:.3f}",
                f"{r.low:.3f}",
                f"{r.high:.3f}",
                str(r.runs),
                f"{r.median / results[0].median:.2f}",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def random_inputs(module: Module, seed: int = 0) -> dict[str, Any]:
    """Inputs of the right types and sizes; symbols take their smallest size."""
    rng = np.random.default_rng(seed)
    sizes = {s: max(1, module.dims.get(s, (1, None))[0]) for v in module.main.inputs for s in symbols(v.type.shape)}
    found = {}
    for v in module.main.inputs:
        assert isinstance(v.type, Tensor)
        shape = [1 if isinstance(n, Dim) else n for n in (substitute(d, sizes) for d in v.type.shape)]
        if isinstance(v.type.elem, Float):
            found[v.name] = rng.standard_normal(shape).astype(v.type.dtype)
        else:
            found[v.name] = rng.integers(0, 2, shape).astype(bool if isinstance(v.type.elem, Bool) else v.type.dtype)
    return found


def onnxruntime_contender(model: Path, inputs: Mapping[str, Any], threads: int) -> Contender:
    """The model in ONNX Runtime on the CPU; IG0011 where that is missing, or does not take the model or the inputs."""
    try:
        import onnxruntime
    except ImportError:
        raise error("IG0011", "onnxruntime is not installed", hint="pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        feed = {i.name: inputs[i.name] for i in session.get_inputs() if i.name in inputs}
        session.run(None, feed)
    except Exception as e:
        raise error("IG0011", f"onnxruntime does not run `{model}`: {str(e).splitlines()[0]}") from None
    return Contender(f"onnxruntime {onnxruntime.__version__}", lambda: session.run(None, feed))
