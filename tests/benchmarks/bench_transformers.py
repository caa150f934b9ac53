"""Scales found at run time and caches in bytes: MiniLM-L6 beside onnxruntime's `quantize_dynamic`, and a decoder.

    python -P tests/benchmarks/bench_transformers.py --packages .venv-peers/models

STS-B is scored over the whole test set, on the compiled programs. Times are processor time at batch 1 with 128 tokens
on one thread; all take turns, and what is told is the median over the rounds. The decoder is the zoo's, over its whole
validation text, one character after the other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # a package `tests` without the repository's root on the path
    package = types.ModuleType("tests")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["tests"] = package
    __package__ = "tests.benchmarks"

from ..zoo import data, models
from ..zoo.decoder import decode, gpt_step
from .models import fix_dims
from .quantizers import onnxruntime_session

TOKENS = 128
DYNAMIC = "quantize{dynamic=token}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="a folder with the package that has MiniLM's weights")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--windows", type=int, help="only so many pieces of text for the decoder")
    parser.add_argument("--only", choices=["speed", "scores", "decoder"])
    args = parser.parse_args(arguments)
    if args.packages is not None:
        sys.path.append(str(args.packages))
    if args.only in (None, "speed", "scores"):
        encoder(args.rounds, args.only)
    if args.only in (None, "decoder"):
        decoder(args.windows)
    return 0


# --- MiniLM -----------------------------------------------------------------------------------------------------------

Run = Callable[[Any], Any]


def encoder(rounds: int, only: str | None) -> None:
    model = next(m for m in models.MODELS if m.name == "minilm_l6")
    if model.missing:
        print(model.missing)
        return
    if only != "scores":
        runs = _contenders(fix_dims(model.proto(), {"N": 1, "T": TOKENS}))
        rng = np.random.default_rng(0)
        inputs = {"input_ids": rng.integers(1000, 20000, (1, TOKENS)), "attention_mask": np.ones((1, TOKENS), np.int64)}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds + 1):
            for name, run in runs.items():
                start = time.process_time()
                for _ in range(3):
                    run(inputs)
                times[name].append((time.process_time() - start) / 3)
        for name in runs:
            print(f"{name:34} {statistics.median(times[name][1:]) * 1e3:7.2f} ms", flush=True)
    if only != "speed":
        for name, run in _contenders(model.proto()).items():
            print(f"{name:34} {_spearman(model, run):.4f} Spearman", flush=True)


def _contenders(model: Any) -> dict[str, Run]:
    import intaglio

    runs: dict[str, Run] = {}
    for name, passes in (("ours, floats", ""), (f"ours, {DYNAMIC}", DYNAMIC)):
        made = intaglio.compile(model, "cpu", passes)
        runs[name] = lambda batch, made=made: next(iter(made.run(batch).values()))
    with tempfile.TemporaryDirectory() as folder:
        runs["onnxruntime, floats"] = _onnxruntime(model, Path(folder), quantised=False)
        runs["onnxruntime, quantize_dynamic"] = _onnxruntime(model, Path(folder), quantised=True)
        runs["the same, a scale for a channel"] = _onnxruntime(model, Path(folder), quantised=True, per_channel=True)
    return runs


def _onnxruntime(model: Any, folder: Path, quantised: bool, per_channel: bool = False) -> Run:
    import onnx

    path, ready, made = (folder / f"{name}.onnx" for name in ("model", "ready", "made"))
    onnx.save(model, path)
    if quantised:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)  # weights behind a transpose are folded
        quantize_dynamic(ready, made, per_channel=per_channel, weight_type=QuantType.QInt8)
    return onnxruntime_session(made if quantised else path)


def _spearman(model: models.Model, run: Run) -> float:
    found = model.data()
    parts = [run(found.batch(i, min(i + model.batch, found.count))) for i in range(0, found.count, model.batch)]
    assert model.score is not None
    return model.score(np.concatenate(parts), found.labels)


# --- the decoder ------------------------------------------------------------------------------------------------------


def decoder(windows: int | None) -> None:
    import intaglio
    from intaglio.passes.quantize.kv_cache import encoded_caches

    if data.folder() is None:
        print(data.MISSING)
        return
    weights, vocabulary = models._gpt()
    found = data.shakespeare(vocabulary, 64)
    count = min(windows or found.count, found.count)
    first = intaglio.compile(gpt_step(weights, 3, 4, first=True), "cpu")
    print(f"{'decoder of 3 layers, 64 tokens':44} {'nats':>8} {'|dy|/|y|':>9} {'bytes a sample':>15} {'CPU-s':>6}")
    reference = None
    for passes in ("", "kv_cache", DYNAMIC, f"{DYNAMIC},kv_cache"):
        made = intaglio.compile(gpt_step(weights, 3, 4), "cpu", passes)
        logits, size, seconds = [], 0, 0.0
        for start in range(0, count, 128):
            tokens = found.batch(start, min(start + 128, count))["tokens"]
            began = time.process_time()
            part, held = decode(first.run, made.run, lambda b, g=made.graph: encoded_caches(b, g), tokens)
            seconds += time.process_time() - began
            logits.append(part)
            size = held // len(tokens)
        y = np.concatenate(logits)
        reference = y if reference is None else reference
        gap = float(np.linalg.norm(y - reference) / np.linalg.norm(reference))
        nats = models.nats(y, found.labels[:count])
        print(f"{passes or 'floats':44} {nats:8.5f} {gap:9.5f} {size:15} {seconds:6.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
