"""Other tools' quantizers on a row of bench_quantization.py: onnxruntime here, the others in environments of their own.

`.venv-quantizers` has one environment a tool (nncf, brevitas, aimet), because each pins other versions of the same
packages. A worker is given the model, calibration inputs and test inputs, and leaves outputs or a model behind.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Bits", "Quantised", "onnxruntime_session", "quantised_by_others"]

HERE = Path(__file__).parent
Run = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Bits:
    """Of weights, of activations, and of the weights of the first and the last layer."""

    weights: int
    activations: int
    edges: int

    @property
    def bytes_only(self) -> bool:
        return (self.weights, self.activations) == (8, 8)


@dataclass(frozen=True)
class Quantised:
    """What a tool made of a network: its outputs for the test inputs, and the processor time that took."""

    tool: str
    outputs: Any
    seconds: float


def quantised_by_others(
    source: Any,
    calibration: Mapping[str, Any],
    test: Mapping[str, Any],
    bits: Bits,
    environments: Path,
    batch: int,
    quick: bool = False,
) -> Iterator[Quantised | str]:
    """Every tool that is installed, in its settings; a line of text where one fails. `source` is an ONNX model.

    `quick` leaves out what takes a tool many minutes: learned rounding, and all but the best known setting of those
    that go over the data once for each layer, which get 256 samples then.
    """
    import onnx

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "source.onnx"
        onnx.save(source, path)
        yield from _onnxruntime_all(path, calibration, test, bits, batch)
        np.savez(folder / "calibration.npz", **calibration)  # type: ignore[arg-type]
        if bits.bytes_only and (python := _python(environments, "nncf")):
            yield from _nncf(python, path, folder, test, batch, quick)
        if len(test) != 1:  # the others take networks of images and the like
            return
        np.savez(folder / "test.npz", **test)  # type: ignore[arg-type]
        if quick:
            np.savez(folder / "calibration.npz", **{k: v[:256] for k, v in calibration.items()})  # type: ignore[arg-type]
        options = [f"--{k}={v}" for k, v in vars(bits).items()]
        options += ["--quick"] * quick + ["--deep"] * _has_groups(source)
        for tool in ("brevitas", "aimet"):
            if python := _python(environments, tool):
                yield from _worker(tool, python, path, folder, options)


def _python(environments: Path, tool: str) -> Path | None:
    found = environments / tool / "bin" / "python"
    return found if found.is_file() else None


def _has_groups(source: Any) -> bool:
    """Whether an ONNX model has depthwise convolutions, or others in groups: those that equalisation is for."""
    convolutions = [n for n in source.graph.node if n.op_type == "Conv"]
    return any(a.name == "group" and a.i > 1 for n in convolutions for a in n.attribute)


def _worker(tool: str, python: Path, source: Path, folder: Path, options: Sequence[str]) -> Iterator[Quantised | str]:
    """Outputs by setting, as the tool's own simulation computes them."""
    command = [str(python), "-P", str(HERE / f"{tool}_worker.py"), str(source), str(folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    before = _children()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = _children() - before
    lines = [line for line in done.stdout.splitlines() if line.startswith("= ") or line.startswith("! ")]
    told = [line[2:] for line in lines if line.startswith("= ")]
    for line in told:
        yield Quantised(f"{tool}: {line}", np.load(folder / f"{line}.npy"), seconds / max(1, len(told)))
    yield from (f"{tool}: {line[2:]}" for line in lines if line.startswith("! "))
    if done.returncode:
        yield f"{tool} failed: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}"


def _nncf(
    python: Path, source: Path, folder: Path, test: Mapping[str, Any], batch: int, quick: bool
) -> Iterator[Quantised | str]:
    """NNCF with its full and its fast bias correction."""
    for option in ((), ("--fast",))[quick:]:
        made = folder / "nncf.onnx"
        before = _children()
        command = [str(python), "-P", str(HERE / "nncf_worker.py"), str(source), str(folder / "calibration.npz")]
        done = subprocess.run([*command, str(made), *option], capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"nncf failed: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}"
            continue
        seconds = _children() - before
        name = "nncf: fast bias correction" if option else "nncf: bias correction layer by layer"
        yield Quantised(name, _run(made, test, batch), seconds)


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


# --- onnxruntime ------------------------------------------------------------------------------------------------------

SETTINGS = ((False, "MinMax"), (True, "MinMax"), (True, "Entropy"), (True, "Percentile"))


def _onnxruntime_all(
    source: Path, calibration: Mapping[str, Any], test: Mapping[str, Any], bits: Bits, batch: int
) -> Iterator[Quantised | str]:
    if bits.activations != 8 or bits.weights not in (4, 8):
        return
    for per_channel, method in SETTINGS:
        # it has one number of bits for all layers
        width = f"W{bits.weights} everywhere, " if bits.edges != bits.weights else ""
        name = f"onnxruntime: {width}per {'channel' if per_channel else 'tensor'} {method}"
        made = source.with_name("onnxruntime.onnx")
        start = time.process_time()
        try:
            _onnxruntime(source, made, calibration, per_channel, method, bits.weights)
            seconds = time.process_time() - start
            yield Quantised(name, _run(made, test, batch), seconds)
        except Exception as e:  # whatever it is, the tool did not do it
            yield f"{name} failed: {type(e).__name__}: {(str(e).splitlines() or [''])[0][:120]}"


def _onnxruntime(
    source: Path, made: Path, inputs: Mapping[str, Any], per_channel: bool, method: str, bits: int
) -> None:
    import contextlib
    import io
    import logging

    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            count = len(next(iter(inputs.values())))
            step = max(d for d in range(1, 17) if count % d == 0)  # histograms are of batches of one shape
            self.left = iter([{k: v[i : i + step] for k, v in inputs.items()} for i in range(0, count, step)])

        def get_next(self) -> Any:
            return next(self.left, None)

    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ready = source.with_name("ready.onnx")
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            if bits == 4:
                onnx.save(onnx.version_converter.convert_version(onnx.load(ready), 21), ready)
            quantize_static(
                str(ready), str(made), Reader(), per_channel=per_channel,
                weight_type=QuantType.QInt8 if bits == 8 else QuantType.QInt4,
                activation_type=QuantType.QUInt8, calibrate_method=getattr(CalibrationMethod, method),
            )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)


def onnxruntime_session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, dict(batch))[0]


def _run(path: Path, test: Mapping[str, Any], batch: int) -> Any:
    run = onnxruntime_session(path)
    count = len(next(iter(test.values())))
    return np.concatenate([run({k: v[i : i + batch] for k, v in test.items()}) for i in range(0, count, batch)])
