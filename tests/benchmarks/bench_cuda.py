"""How fast compiled models run on a GPU, beside torch (eager, compiled) and ONNX Runtime, in one process on one GPU.

    python -P tests/benchmarks/bench_cuda.py --models resnet18,mobilenet --fp16 --write

It takes an NVIDIA GPU, and torch and onnxruntime-gpu for the peers; a peer that is not there is left out, and said to
be. Inputs and results stay on the GPU. The contestants take turns; a turn is so many runs that it lasts some 20 ms,
from an idle GPU until it is idle again, and what counts is the median over the turns.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cuda.md"
MARKER = "<!-- measured -->"
TURN = 0.02  # seconds
OURS = "intaglio"
AGREE = {False: 1e-3, True: 3e-2}  # from torch in f32, as a part of the largest magnitude, by --fp16


@dataclass(frozen=True)
class Contestant:
    """`run` starts a run, `wait` returns when the GPU is idle, `outputs` are arrays of the last run."""

    name: str
    version: str
    run: Callable[[], Any]
    wait: Callable[[], None]
    outputs: Callable[[Any], Sequence[Any]]

    def seconds(self, times: int) -> float:
        """Of one run, in a turn of so many."""
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            self.run()
        self.wait()
        return (time.perf_counter() - start) / times


# --- who takes part ---------------------------------------------------------------------------------------------------


def intaglio(path: str, feed: dict[str, Any], fp16: bool, arch: str) -> Iterator[Contestant]:
    """What is compiled for the GPU; arguments are copied to it once."""
    import intaglio as package
    from intaglio.backends.tvm import runtime
    from intaglio.compiler.api import compile as compile_model

    program: Any = compile_model(path, "cuda", arch=arch, fp16=fp16).program
    main = program.loaded.function("main")
    arguments = program.arguments([feed[v.name] for v in program.module.main.inputs])
    synchronize = runtime.ffi().get_global_func("runtime.Device_StreamSync")
    device = runtime.ffi().device("cuda", 0)
    yield Contestant(
        OURS,
        package.__version__,
        lambda: main(*arguments),
        lambda: synchronize(device, 0),
        lambda made: [program.array(x) for x in made],
    )


def torch_modes(path: str, feed: dict[str, Any], fp16: bool, device: str = "cuda") -> Iterator[Contestant]:
    """Eager and compiled, cuDNN searching its algorithms; f32 products in f32 (no TF32), or the whole model in f16."""
    import torch

    from .onnx_torch import OnnxModule

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    module = OnnxModule(path).to(device).eval()
    inputs = [torch.from_numpy(feed[name]).to(device) for name in module.inputs]
    if fp16:
        module = module.half()
        inputs = [x.half() if x.is_floating_point() else x for x in inputs]

    def contestant(name: str, model: Any) -> Contestant:
        def run() -> Any:
            with torch.inference_mode():
                return model(*inputs)

        def outputs(made: Any) -> list[Any]:
            return [x.float().cpu().numpy() for x in made]

        return Contestant(name, torch.__version__, run, torch.cuda.synchronize if device == "cuda" else int, outputs)

    yield contestant("torch", module)
    yield contestant("torch.compile", torch.compile(module, mode="max-autotune"))


def onnxruntime(path: str, feed: dict[str, Any], fp16: bool) -> Iterator[Contestant]:
    """ONNX Runtime's CUDA provider, in f32 as the file is (TF32 off), bound to memory of the GPU."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError("this onnxruntime has no CUDA: pip install onnxruntime-gpu")
    session = ort.InferenceSession(path, providers=[("CUDAExecutionProvider", {"use_tf32": 0})])
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")
    yield Contestant(
        "onnxruntime",
        ort.__version__,
        lambda: session.run_with_iobinding(binding),
        binding.synchronize_outputs,
        lambda made: binding.copy_outputs_to_cpu(),
    )


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    title: str
    seconds: dict[str, float]
    difference: float
    missing: dict[str, str]


def measure(model: Any, batch: int, fp16: bool, arch: str, rounds: int, versions: dict[str, str]) -> Row:
    """One model: everybody on the same inputs, taking turns."""
    import onnx

    from .bench_cpu import difference
    from .models import fix_dims

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        proto = fix_dims(model.proto(), {**model.dims, "N": batch})
        onnx.save(proto, path)
        feed = model.inputs(proto)
        there: list[Contestant] = []
        missing: dict[str, str] = {}
        sources: dict[str, Callable[[], Iterator[Contestant]]] = {
            "torch": lambda: torch_modes(path, feed, fp16),
            "onnxruntime": lambda: onnxruntime(path, feed, fp16),
            OURS: lambda: intaglio(path, feed, fp16, arch),
        }
        results: dict[str, Sequence[Any]] = {}
        for name, source in sources.items():
            try:
                for contestant in source():
                    results[contestant.name] = contestant.outputs(contestant.run())
                    versions[name] = contestant.version
                    there.append(contestant)
            except Exception as e:
                missing[name] = f"{type(e).__name__}: {str(e).partition(chr(10))[0]}"
        turns = {c.name: max(1, min(1000, round(TURN / max(c.seconds(3), 1e-6)))) for c in there}
        times: dict[str, list[float]] = {c.name: [] for c in there}
        for _ in range(rounds):
            for c in there:
                times[c.name].append(c.seconds(turns[c.name]))
        against = next((n for n in ("onnxruntime", "torch") if n in results), None)
        differs = difference(results[against], results[OURS]) if against and OURS in results else float("nan")
    return Row(model.title, {n: statistics.median(t) for n, t in times.items()}, differs, missing)


COLUMNS = (OURS, "torch", "torch.compile", "onnxruntime")


def table(rows: Sequence[Row]) -> str:
    """Milliseconds, and the best of the others over ours."""
    lines = [f"| ms | {' | '.join(COLUMNS)} | best other / ours | difference |", "|---|" + "---:|" * (len(COLUMNS) + 2)]
    for row in rows:
        cells = [f"{row.seconds[n] * 1e3:.3f}" if n in row.seconds else "-" for n in COLUMNS]
        others = [s for n, s in row.seconds.items() if n != OURS]
        ratio = f"{min(others) / row.seconds[OURS]:.2f}" if others and OURS in row.seconds else "-"
        lines.append(f"| {row.title} | {' | '.join(cells)} | {ratio} | {row.difference:.0e} |")
    return "\n".join(lines)


def main() -> int:
    from intaglio.backends.cuda import driver

    args = _arguments()
    problem = driver.gpu_problem(args.arch)
    if problem:
        print(f"no GPU to measure on: {problem}. Nothing was measured; run this where there is one.")
        return 0
    from .models import MODELS

    versions: dict[str, str] = {}
    rows = []
    for model in MODELS:
        if args.models and not any(part in model.name for part in args.models):
            continue
        if reason := model.missing():
            print(f"{model.name}: skipped, {reason}", file=sys.stderr)
            continue
        rows.append(measure(model, args.batch, args.fp16, args.arch, args.rounds, versions))
        for name, reason in rows[-1].missing.items():
            print(f"{model.name}: {name} did not run: {reason}", file=sys.stderr)
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    day = datetime.date.today().strftime("%-d %B %Y")
    made = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    kind = "f32 products in f16, torch all in f16" if args.fp16 else "f32, no TF32"
    text = f"{driver.gpu_name()}, {day}; {made}; batch {args.batch}; {kind}.\n\n{table(rows)}"
    print(f"\n{text}")
    if args.write:
        before = PAGE.read_text(encoding="utf-8").partition(MARKER)[0]
        PAGE.write_text(f"{before}{MARKER}\n\n{text}\n", encoding="utf-8")
    bound = AGREE[args.fp16]
    return 1 if any(OURS in row.missing or row.difference > bound for row in rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--models", type=lambda t: t.split(","), default=[], help="parts of names; default: all")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--arch", default="sm_80", help="what is compiled for; default: %(default)s")
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--write", action="store_true", help="put the table into docs/cuda.md")
    return parser.parse_args()


if __name__ == "__main__":
    # A package `tests` without the repository's root on the path, whose folders are no top-level modules.
    package = types.ModuleType("tests")
    package.__path__ = [str(ROOT / "tests")]
    sys.modules["tests"] = package
    __package__ = "tests.benchmarks"
    sys.exit(main())
