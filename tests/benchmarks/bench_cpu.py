"""How fast compiled models run on the CPU, beside ONNX Runtime and OpenVINO: `make bench-cpu`.

    python -P tests/benchmarks/bench_cpu.py --models resnet18,minilm_l6 --peers-venv .venv-peers

Every runtime gets the same ONNX file with fixed shapes (batch 1) and runs in a process of its own, all on the same core
(or cores). They take turns: a round lets each run for some 30 ms, and what counts is the median over the rounds. One
thread is measured in processor time, which other work on the machine disturbs little; several in wall time.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TURN = 0.03  # seconds
PAGE = ROOT / "docs" / "benchmarks.md"
KERNELS = Path(__file__).with_name("bench_lowbit.py")
BUSY = 1.5
"""Load average of five minutes above which wall time is no measure; the benchmark itself makes 1."""

SEVERAL_THREADS = ("resnet18", "resnet50", "minilm_l6")


def main() -> int:
    args = _arguments()
    if (models := args.peers_venv / "models").is_dir():
        sys.path.append(str(models))  # packages of weights only
    from .cpu_table import NUMBERS, goals_table, memory_table, speed_table
    from .int8 import INT8
    from .models import BF16, MODELS

    everything = (*MODELS, *BF16, *INT8)
    chosen = [m for m in everything if not args.models or any(part in m.name for part in args.models)]
    python = args.peers_venv / "bin" / "python"
    if not python.is_file():
        sys.exit(f"{args.peers_venv} is no virtual environment: `make .venv-peers/installed` makes it")
    if not chosen:
        sys.exit(f"no such model; there are {', '.join(m.name for m in everything)}")
    tables, versions, failed, single = [], {}, False, []
    for threads in args.threads:
        rows = []
        load = os.getloadavg()[1]
        if threads > 1 and load > BUSY and not args.models:
            print(f"{threads} threads: skipped, the load average is {load:.1f}", file=sys.stderr)
            continue
        for model in chosen if args.models or threads == 1 else [m for m in chosen if m.name in SEVERAL_THREADS]:
            if missing := model.missing():
                print(f"{model.name}: skipped, {missing}", file=sys.stderr)
                continue
            row = measure(model, python, threads, args, versions)
            rows.append(row)
            for name, reason in row.errors.items():
                print(f"{model.name}: {name} failed: {reason}", file=sys.stderr)
            if len(chosen) > 1:
                print(speed_table([row]).splitlines()[-1], flush=True)
            failed = failed or row.failed
        plural = "thread" if threads == 1 else "threads"
        for kind in NUMBERS:
            some = [r for r in rows if r.numbers == kind]
            if some:
                tables.append(f"## {kind}, {threads} {plural}\n\n{speed_table(some)}\n\n{memory_table(some)}")
        single += rows
    if not args.models:
        kernels = kernel_ratios(_cores(1, args.core))
        tables.append(f"## Goals\n\n{goals_table(single, kernels)}")
    text = "\n\n".join(tables)
    print(f"\n{_machine(versions)}\n\n{text}")
    if args.write:
        _write(text, versions)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    numbers = lambda text: [int(t) for t in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--models", type=lambda t: t.split(","), default=[], help="parts of names; default: all")
    several = f"1, 2 or 1,2 (default); without --models, more than one run {', '.join(SEVERAL_THREADS)} only"
    parser.add_argument("--threads", type=numbers, default=[1, 2], help=several)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--peers", default="onnxruntime,openvino", help="also torch; default: %(default)s")
    parser.add_argument("--peers-venv", type=Path, default=ROOT / ".venv-peers", help="where the peers are installed")
    parser.add_argument("--core", type=int, help="the first core to use; default: the last ones there are")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser.parse_args()


def measure(model: Any, python: Path, threads: int, args: argparse.Namespace, versions: dict[str, str]) -> Any:
    """One row. A peer that fails is left out; where we fail or differ from ONNX Runtime, the row has failed."""
    import onnx

    from .cpu_table import OURS, Measured, Row
    from .peers import WorkerFailed, WorkerProcess

    row = Row(model.name, model.title, threads)
    cores = _cores(threads, args.core)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path, inputs = f"{folder}/model.onnx", f"{folder}/inputs.npz"
        proto = model.build()
        onnx.save(proto, path)
        np.savez(inputs, **model.inputs(proto))
        workers, loads, outputs = {}, {}, {}
        for name in [*args.peers.split(","), OURS]:
            try:
                where = Path(sys.executable) if name == OURS else python
                settings = {**model.settings, "passes": model.passes}
                request = {"inputs": inputs, "threads": threads, "settings": settings}
                if name == OURS:
                    with WorkerProcess(where, cores) as compiler:
                        compiled = compiler.ask("load", engine="intaglio-compile", model=path, **request)
                worker = stack.enter_context(WorkerProcess(where, cores))
                target = f"{path}.artifact" if name == OURS else path
                loaded = worker.ask("load", engine=name, model=target, **request)
                worker.ask("outputs", path=f"{folder}/{name}.npz")
            except WorkerFailed as e:
                row.errors[name] = str(e)
                continue
            workers[name], loads[name] = worker, compiled if name == OURS else loaded
            versions[name] = loaded["version"]
            with np.load(f"{folder}/{name}.npz") as found:
                outputs[name] = list(found.values())
        for name in [n for n in outputs if n != "onnxruntime" and "onnxruntime" in outputs]:
            differs = difference(outputs["onnxruntime"], outputs[name])
            if name == OURS:
                row.difference = differs
            if not differs <= model.agree:
                row.errors[name] = f"its outputs differ from ONNX Runtime's by {differs:.1e} of the largest"
        timed = {n: w for n, w in workers.items() if n not in row.errors and n not in model.untimed}
        times = _rounds(timed, threads, args.rounds)
        for name, found in times.items():
            low, middle, high = statistics.quantiles(found, n=4)
            peak = workers[name].ask("memory")["peak"]
            load = loads[name]
            row.found[name] = Measured(middle, low, high, load["cpu"], load["peak"], peak)
    return row


def kernel_ratios(cores: list[int]) -> dict[str, float]:
    """What bench_lowbit.py says of kernels that no model here consists of; nothing where it fails."""
    command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-P", str(KERNELS), "--goals"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{KERNELS.name} failed: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}", file=sys.stderr)
        return {}
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _rounds(workers: dict[str, Any], threads: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a run, for every worker and round."""
    clock = "cpu" if threads == 1 else "wall"
    times: dict[str, list[float]] = {name: [] for name in workers}
    turns = {}
    for name, worker in workers.items():
        worker.ask("run", times=3)
        turns[name] = max(1, min(5000, round(TURN / worker.ask("run", times=3)["wall"])))
    for _ in range(rounds):
        for name, worker in workers.items():
            if threads > 1:
                time.sleep(0.01)  # until the threads of the last one have stopped spinning
            times[name].append(worker.ask("run", times=turns[name])[clock])
    return times


def difference(want: Sequence[Any], got: Sequence[Any]) -> float:
    """max|a - b| / max|b| over the outputs; infinite where shapes differ or one is not a number."""
    if len(want) != len(got) or any(a.shape != b.shape for a, b in zip(want, got, strict=True)):
        return float("inf")
    worst = 0.0
    for a, b in zip(want, got, strict=True):
        scale = max(float(np.abs(a).max(initial=0)), 1e-30)
        found = float(np.abs(a.astype(np.float64) - b).max(initial=0)) / scale
        worst = max(worst, found if np.isfinite(found) else float("inf"))
    return worst


def _cores(threads: int, first: int | None) -> list[int]:
    there = sorted(os.sched_getaffinity(0))
    if threads > len(there):
        sys.exit(f"{threads} threads are asked for, there are {len(there)} cores")
    start = len(there) - threads if first is None else there.index(first)
    return there[start : start + threads]


def _machine(versions: dict[str, str]) -> str:
    """Where and when, and of what."""
    cpu = platform.processor() or platform.machine()
    flags: list[str] = []
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
        if line.startswith("flags"):
            flags = line.partition(":")[2].split()
            break
    day = datetime.date.today().strftime("%-d %B %Y")
    made = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    load = f"load average {os.getloadavg()[0]:.1f}"
    units = [u for u in ("avx512_vnni", "avx512_bf16", "amx_bf16") if u in flags] or ["no units for small numbers"]
    return f"{cpu} ({', '.join(units)}), {len(os.sched_getaffinity(0))} cores, {day}, {load}; {made}."


def _write(text: str, versions: dict[str, str]) -> None:
    """Replace what follows the page's marker."""
    marker = "<!-- measured -->"
    before = PAGE.read_text(encoding="utf-8").partition(marker)[0]
    made = PAGE.with_suffix(".tmp")
    made.write_text(f"{before}{marker}\n\nMeasured on {_machine(versions)}\n\n{text}\n", encoding="utf-8")
    made.replace(PAGE)
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    # A package `tests` without the repository's root on the path, whose folders are no top-level modules.
    package = types.ModuleType("tests")
    package.__path__ = [str(ROOT / "tests")]
    sys.modules["tests"] = package
    __package__ = "tests.benchmarks"
    sys.exit(main())
