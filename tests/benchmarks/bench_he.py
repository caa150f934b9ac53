"""Encrypted inference beside Orion v2: the same models and weights, the same run, one thread each.

    make bench-he       or      python tests/benchmarks/bench_he.py [--peers-venv DIR] [--models mlp,lola,lenet]

Rotations, plaintext products, keys and their bytes, peak memory of the process that makes keys and computes, CPU
seconds of a forward pass (the better of two, after one that encodes) and what was told of it beforehand (by figures of
this machine after `intaglio he calibrate`), bits of the result that are right. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
PEERS = ("orion-v2-compiler", "orion-v2-evaluator", "orion-v2-lattigo")

MODELS: dict[str, tuple[tuple[int, ...], list[list[Any]]]] = {
    "mlp": (
        (1, 1, 28, 28),
        [["flatten"], ["dense", 784, 128], ["square"], ["dense", 128, 128], ["square"], ["dense", 128, 10]],
    ),
    "lola": (
        (1, 1, 28, 28),
        [["conv", 1, 5, 2, 2, 0], ["square"], ["flatten"], ["dense", 980, 100], ["square"], ["dense", 100, 10]],
    ),
    "lenet": (
        (1, 1, 28, 28),
        [
            ["conv", 1, 32, 5, 2, 2],
            ["square"],
            ["conv", 32, 64, 5, 2, 2],
            ["square"],
            ["flatten"],
            ["dense", 3136, 512],
            ["square"],
            ["dense", 512, 10],
        ],
    ),
}
ORION = {  # log2 N, Q, P, scale: its published sets for these models
    "mlp": [13, [29, 26, 26, 26, 26, 26], [29, 29], 26],
    "lola": [13, [29, 26, 26, 26, 26, 26], [29, 29], 26],
    "lenet": [14, [55, 40, 40, 40, 40, 40, 40, 40], [55], 40],
}
"""Its moduli are within our table for uniform ternary secrets; its secret has h = 192 all the same."""


def weights(name: str) -> dict[str, Any]:
    """Random, of a size that keeps every layer's values near 1."""
    rng = np.random.default_rng(0)
    shape, layers = MODELS[name]
    made: dict[str, Any] = {"x": rng.uniform(0, 1, shape)}
    for i, (kind, *sizes) in enumerate(layers):
        if kind in ("conv", "dense"):
            full = (sizes[1], sizes[0], sizes[2], sizes[2]) if kind == "conv" else (sizes[1], sizes[0])
            made[f"layer{i}.w"] = rng.normal(0, 1 / math.sqrt(math.prod(full[1:])), full)
            made[f"layer{i}.b"] = rng.normal(0, 0.1, full[0])
    return made


def graph(name: str, given: dict[str, Any]) -> Any:
    """The model as a graph of the IR."""
    import torch

    import intaglio

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i, (kind, *sizes) in enumerate(MODELS[name][1]):
                if kind == "conv":
                    self.add_module(f"layer{i}", torch.nn.Conv2d(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]))
                elif kind == "dense":
                    self.add_module(f"layer{i}", torch.nn.Linear(*sizes))

        def forward(self, x: Any) -> Any:
            for i, (kind, *_) in enumerate(MODELS[name][1]):
                if kind == "square":
                    x = x * x
                else:
                    x = torch.flatten(x, 1) if kind == "flatten" else getattr(self, f"layer{i}")(x)
            return x

    net = Net().eval()
    with torch.no_grad():
        for key, value in given.items():
            if key != "x":
                layer, part = key.split(".")
                getattr(getattr(net, layer), {"w": "weight", "b": "bias"}[part]).copy_(torch.tensor(value))
        module = intaglio.load(net, example_inputs=(torch.tensor(given["x"], dtype=torch.float32),))
        clear = net(torch.tensor(given["x"], dtype=torch.float32)).numpy()
    return intaglio.optimize(module, "freeze,canonicalize,fold").main, clear


def build(name: str, engine: str, folder: Path) -> None:
    """Compile a model into a folder, with its input, its clear result and the time that it took."""
    from intaglio.backends.he.compile import compile_graph
    from intaglio.backends.he.program import HeProgram

    given = weights(name)
    found, clear = graph(name, given)
    start = time.process_time()
    made = compile_graph(found, engine)
    spent = time.process_time() - start
    HeProgram(made.circuit, made.interface).save(folder)
    np.savez(folder / "sample.npz", x=given["x"].astype(np.float32), y=clear, seconds=spent)


def measure(folder: Path) -> dict[str, Any]:
    """Our figures of a compiled model, in a process that has loaded nothing else. The forward pass alone is timed."""
    from intaglio.backends.he import layouts
    from intaglio.backends.he.execute import execute
    from intaglio.backends.he.owner import local
    from intaglio.backends.he.program import load_program

    program = load_program(folder, {})
    facts, interface = program.facts(), program.interface
    with np.load(folder / "sample.npz") as given:
        array, clear, compile_seconds = given["x"], given["y"], float(given["seconds"])
    sides = local(interface.engine, interface.parameters, interface.manifest)
    cpu = sides.engine.cpu_seconds
    (tensor,), (result,) = interface.inputs, interface.outputs
    vectors = layouts.pack(tensor.layout, array, interface.parameters.slots)
    inputs = [sides.encrypt(v, m.level, m.scale) for v, m in zip(vectors, tensor.ciphertexts, strict=True)]
    times, answers = [], []
    for _ in range(3):
        start = cpu()
        answers = execute(program.circuit, sides.engine, inputs)
        times.append(cpu() - start)
    y = layouts.unpack(result.layout, result.shape, [sides.decrypt(a) for a in answers])
    sides.close()
    # Lattigo computes in a process of its own
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    parameters = interface.parameters
    return {
        "rotations": facts["rotations"],
        "products": facts["plaintext_products"],
        "keys": facts["keys"],
        "key_bytes": facts["key_bytes"],
        "peak_bytes": peak << 10,
        "compile_seconds": compile_seconds,
        "first_seconds": times[0],
        "seconds": min(times[1:]),
        "told": facts["predicted_seconds"],
        "bits": -math.log2(float(np.abs(y - clear).max() / np.abs(clear).max())),
        "parameters": f"N=2^{parameters.ring_degree.bit_length() - 1}, {parameters.log_qp} bits, {parameters.secret}",
    }


def compare(names: list[str], peers: Path | None) -> None:
    """One line for each model and contestant."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GOMAXPROCS": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    columns = (("rot", 6), ("prod", 7), ("keys", 6), ("key MB", 8), ("peak MB", 9), ("compile", 9), ("first", 8))
    print("\n" + " " * 16 + "".join(f"{c:>{w}}" for c, w in (*columns, ("CPU-s", 8), ("told", 8), ("bits", 6))))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for engine in ("seal", "lattigo"):
                place = Path(folder) / engine
                place.mkdir()
                mine = [sys.executable, "-P", __file__, "--folder", str(place)]
                built = run([*mine, "--build", name, engine], environment)
                line(f"{name} {engine}", built if built.returncode else run([*mine, "--measure"], environment))
            if peers is not None:
                np.savez(file := Path(folder) / "weights.npz", **weights(name))
                settings = [json.dumps(MODELS[name][1]), str(file), json.dumps(ORION[name])]
                command = [str(peers / "bin" / "python"), str(HERE / "orion_worker.py"), *settings]
                line(f"{name} Orion v2", run(command, {**os.environ, **threads}))


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def line(title: str, done: subprocess.CompletedProcess[str]) -> None:
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        print(f"{title:16}  {(done.stderr.strip().splitlines() or ['nothing was printed'])[-1][:100]}")
        return
    f = json.loads(last)
    numbers = f"{f['rotations']:6}{f['products']:7}{f['keys']:6}{f['key_bytes'] / 1e6:8.0f}{f['peak_bytes'] / 1e6:9.0f}"
    times = f"{f['compile_seconds']:9.2f}{f['first_seconds']:8.2f}{f['seconds']:8.3f}"
    times += f"{f.get('told', 0):8.3f}" if "told" in f else " " * 8
    times += f"{f['bits']:6.1f}"
    print(f"{title:16}{numbers}{times}  {f['parameters']}", flush=True)


@pytest.mark.bench
def test_encrypted_models() -> None:
    """Ours alone; `make bench-he` has Orion beside it."""
    pytest.importorskip("seal")
    compare(list(MODELS), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-venv", type=Path, help=f"an environment with {', '.join(PEERS)}")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build(*args.build, args.folder)
    elif args.measure:
        print(json.dumps(measure(args.folder)))
    else:
        compare(args.models.split(","), args.peers_venv)


if __name__ == "__main__":
    main()
