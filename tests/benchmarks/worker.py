"""A process that runs one model in one runtime, on behalf of bench_cpu.py: `worker.py CORE...`.

One JSON object a line on standard input, one in reply on standard output:

    {"do": "load", "engine": "onnxruntime", "model": PATH, "inputs": FILE.npz, "threads": 1, "settings": {}}
        -> {"cpu": s, "wall": s, "peak": bytes, "version": "..."}
        settings: "precision" (f32, bf16: OpenVINO), "accuracy_level" (of ONNX Runtime's MatMulNBits: 1 sums floats,
        4 rounds activations to bytes), "passes" (ours)
    {"do": "run", "times": 20}          -> {"cpu": s a run, "wall": s a run}
    {"do": "outputs", "path": FILE}     -> {}           the outputs of one run, in the model's order
    {"do": "memory"}                    -> {"peak": bytes}    since the load
    anything that fails                 -> {"error": "..."}

It needs NumPy and the one runtime, and so runs in the environment of whichever peer it measures. `cpu` is the time that
all threads of the process spend.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]
Settings = dict[str, str]
Run = Callable[[], list[Any]]
"""One inference, through the call that a user of the runtime would make."""


def load_onnxruntime(model: str, feed: Feed, threads: int, settings: Settings) -> tuple[Run, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if "accuracy_level" in settings:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", settings["accuracy_level"])
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: list(session.run(None, feed)), onnxruntime.__version__


def load_openvino(model: str, feed: Feed, threads: int, settings: Settings) -> tuple[Run, str]:
    import openvino

    told = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": settings.get("precision", "f32"),  # or it takes bf16 where the machine has it
    }
    compiled = openvino.Core().compile_model(model, "CPU", told)
    request = compiled.create_infer_request()

    def run() -> list[Any]:
        found = request.infer(feed, share_inputs=True, share_outputs=True)
        return [found[port] for port in compiled.outputs]

    return run, openvino.__version__


def load_torch(model: str, feed: Feed, threads: int, settings: Settings) -> tuple[Run, str]:
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    from onnx_torch import OnnxModule

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    module = torch.compile(OnnxModule(model), mode="max-autotune-no-cudagraphs", dynamic=False)
    given = [torch.from_numpy(a) for a in feed.values()]

    def run() -> list[Any]:
        with torch.inference_mode():
            return [t.numpy() for t in module(*given)]

    run()  # compiles
    return run, torch.__version__


def load_intaglio(model: str, feed: Feed, threads: int, settings: Settings) -> tuple[Run, str]:
    """`model` is the folder of an artifact."""
    import intaglio
    from intaglio.compiler.api import load_artifact

    compiled = load_artifact(model)
    return lambda: list(compiled.run(feed).values()), intaglio.__version__


def compile_intaglio(model: str, feed: Feed, threads: int, settings: Settings) -> tuple[Run, str]:
    """Write the artifact of an ONNX file beside it: MODEL.onnx.artifact."""
    import intaglio
    from intaglio.compiler.api import compile

    compiled = compile(model, "cpu", threads=threads, passes=settings.get("passes", ""))
    compiled.save(f"{model}.artifact")
    return lambda: list(compiled.run(feed).values()), intaglio.__version__


ENGINES = {
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "torch": load_torch,
    "intaglio": load_intaglio,
    "intaglio-compile": compile_intaglio,
}


def peak() -> int:
    """The process's largest resident set so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not report VmHWM")


def forget_peak() -> None:
    """Start to count again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


class Worker:
    def __init__(self) -> None:
        self.run: Run = lambda: []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "load":
                return self.load(**{k: v for k, v in request.items() if k != "do"})
            case "run":
                return self.time(request["times"])
            case "outputs":
                np.savez(request["path"], *self.run())
                return {}
            case "memory":
                return {"peak": peak()}
            case other:
                raise ValueError(f"there is no request {other!r}")

    def load(
        self, engine: str, model: str, inputs: str, threads: int, settings: Settings | None = None
    ) -> dict[str, Any]:
        cores = os.sched_getaffinity(0)
        with np.load(inputs) as stored:
            feed = dict(stored)
        cpu, wall = time.process_time(), time.perf_counter()
        self.run, version = ENGINES[engine](model, feed, threads, settings or {})
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        found = {"cpu": cpu, "wall": wall, "peak": peak(), "version": version}
        os.sched_setaffinity(0, cores)  # a runtime may have moved this thread
        forget_peak()
        return found

    def time(self, times: int) -> dict[str, Any]:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(times):
            self.run()
        return {"cpu": (time.process_time() - cpu) / times, "wall": (time.perf_counter() - wall) / times}


def main() -> None:
    os.sched_setaffinity(0, [int(core) for core in sys.argv[1:]])
    # Runtimes print what they like on standard output: it goes to standard error, the replies to a copy.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            found = worker.answer(json.loads(line))
        except Exception as e:
            found = {"error": f"{type(e).__name__}: {e}"}
        replies.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
