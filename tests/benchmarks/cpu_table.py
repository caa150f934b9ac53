"""The tables of bench_cpu.py: rows of measurements in, Markdown out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "GOALS",
    "KERNEL_GOALS",
    "NUMBERS",
    "Goal",
    "Measured",
    "Row",
    "geomean",
    "goals_table",
    "memory_table",
    "speed_table",
]

OURS = "intaglio"
PEERS = ("onnxruntime", "openvino", "torch")
NUMBERS = ("fp32", "bf16", "int8", "int4")
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "torch.compile", OURS: "ours"}


@dataclass(frozen=True)
class Measured:
    """One runtime on one model: seconds of a run, seconds and peak bytes of compiling (or loading) and running.

    `low` and `high` are the quartiles of the run's time over the rounds.
    """

    time: float
    low: float
    high: float
    compile_cpu: float
    compile_peak: int
    run_peak: int


@dataclass
class Row:
    """One model: what each runtime took, by name; `errors` says why one has no figures."""

    model: str
    title: str
    threads: int
    found: dict[str, Measured] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    difference: float = math.nan  # ours from ONNX Runtime's, as a part of the largest magnitude

    @property
    def failed(self) -> bool:
        return OURS in self.errors

    @property
    def numbers(self) -> str:
        """What the model computes with, one of `NUMBERS`: its name ends with it, unless that is fp32."""
        last = self.model.rpartition("_")[2]
        return last if last in NUMBERS else NUMBERS[0]

    def without(self, name: str) -> str:
        """What stands in place of a time."""
        return "failed" if name in self.errors else "-"

    def ratio(self, peer: str) -> float | None:
        """How many times longer the peer takes than we do; `best` is the better of ONNX Runtime and OpenVINO."""
        if OURS not in self.found:
            return None
        names = ("onnxruntime", "openvino") if peer == "best" else (peer,)
        times = [self.found[n].time for n in names if n in self.found]
        return min(times) / self.found[OURS].time if times else None


def geomean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def speed_table(rows: Sequence[Row]) -> str:
    """Milliseconds and ratios; one thread in processor time, more in wall time."""
    peers = [p for p in PEERS if any(p in r.found for r in rows)]
    ratios = [*peers, "best"] if {"onnxruntime", "openvino"} <= set(peers) else peers
    clock = "processor" if rows[0].threads == 1 else "wall"
    head = [f"ms ({clock} time)", *(TITLES[p] for p in peers), "ours", *(_against(p) for p in ratios), "difference"]
    body = []
    for r in rows:
        cells = [f"{r.found[n].time * 1e3:.3f}" if n in r.found else r.without(n) for n in (*peers, OURS)]
        difference = "" if math.isnan(r.difference) else f"{r.difference:.0e}"
        body.append([r.title, *cells, *(_times(r.ratio(p)) for p in ratios), difference])
    if len(rows) > 1:
        means = [_times(geomean(r.ratio(p) for r in rows)) for p in ratios]
        body.append(["geometric mean", *([""] * (len(peers) + 1)), *means, ""])
    return _markdown(head, body)


def memory_table(rows: Sequence[Row]) -> str:
    """Compile time, and the processes' peak memory while they compile (or load) and while they run."""
    peer = "onnxruntime"
    head = ["", "compile s, ours", "load s, ONNX Runtime", "compile MB, ours", "load MB, ONNX Runtime"]
    head += ["run MB, ours", "run MB, ONNX Runtime"]
    body = []
    for r in rows:
        pair = [r.found.get(OURS), r.found.get(peer)]
        cells = [f"{m.compile_cpu:.2f}" if m else "" for m in pair]
        cells += [f"{m.compile_peak / 1e6:.0f}" if m else "" for m in pair]
        cells += [f"{m.run_peak / 1e6:.0f}" if m else "" for m in pair]
        body.append([r.title, *cells])
    return _markdown(head, body)


@dataclass(frozen=True)
class Goal:
    """What we want: `bar` times faster than the peer on every one of `models`; without models there is no path yet.

    With `mean` on their geometric mean.
    """

    text: str
    models: tuple[str, ...] = ()
    bars: Mapping[str, float] = field(default_factory=dict)
    mean: bool = False


FP32 = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v1_075_224",
    "efficientnet_lite0",
    "squeezenet1_1",
    "resnet8_cifar10",
    "resnet20_cifar10",
    "resnet56_cifar10",
    "dscnn_kws",
    "ad01_autoencoder",
    "minilm_l6",
    "chargpt",
)

INT8_ZOO = (
    "resnet8_cifar10_int8",
    "resnet20_cifar10_int8",
    "resnet56_cifar10_int8",
    "mobilenet_v1_075_224_int8",
    "squeezenet1_1_int8",
    "efficientnet_lite0_int8",
    "dscnn_kws_int8",
    "ad01_autoencoder_int8",
)

GOALS = (
    Goal("ResNet-18 fp32", ("resnet18",), {"onnxruntime": 1.7}),
    Goal("ResNet-20 fp32", ("resnet20_cifar10",), {"onnxruntime": 2.0}),
    Goal("MiniLM fp32", ("minilm_l6",), {"onnxruntime": 1.15, "openvino": 1.0}),
    Goal(
        "MobileNetV2, MobileNetV1, EfficientNet-Lite fp32",
        ("mobilenet_v2", "mobilenet_v1_075_224", "efficientnet_lite0"),
        {"best": 1.0},
    ),
    Goal("fp32, geometric mean", FP32, {"best": 1.3}, mean=True),
    Goal("fp32, every model", FP32, {"best": 0.95}),
    Goal("ResNet-18 int8", ("resnet18_int8",), {"onnxruntime": 1.12, "openvino": 1.0}),
    Goal("MiniLM int8", ("minilm_int8",), {"onnxruntime": 1.5, "openvino": 1.0}),
    Goal("MobileNetV2, MobileNetV1 int8", ("mobilenet_v2_int8", "mobilenet_v1_075_224_int8"), {"best": 1.0}),
    Goal("zoo int8, geometric mean", INT8_ZOO, {"best": 1.1}, mean=True),
    Goal("ResNet-18 bf16", ("resnet18_bf16",), {"openvino": 1.0}),
    Goal("int4 group-32 GEMV, sums of floats", ("gemv_2048_int4", "gemv_4096_int4"), {"onnxruntime": 2.0}),
)

KERNEL_GOALS = (
    ("int4 group-32 GEMV, activations as bytes", "ONNX Runtime / ours", 2.0),
    ("block-sparse fp32, 75 % zeros", "our dense / ours", 3.5),
    ("block-sparse int8, 75 % zeros", "our dense / ours", 3.0),
)
"""Kernels, measured one by one: what, the ratio, the bar. bench_lowbit.py tells them by these names."""

TWO_THREADS = 1.8
COMPILE = 8.0  # seconds


def goals_table(rows: Sequence[Row], kernels: Mapping[str, float]) -> str:
    """The goals, and for those of speed the least ratio measured on the models of each, with one thread.

    `kernels` has ratios by the names of `KERNEL_GOALS`.
    """
    by_model = {r.model: r for r in rows if r.threads == 1}
    body = []
    for goal in GOALS:
        for peer, bar in goal.bars.items():
            found = [by_model[m].ratio(peer) for m in goal.models if m in by_model]
            known = [f for f in found if f is not None]
            complete = bool(known) and len(known) == len(goal.models)
            value = (geomean(known) if goal.mean else min(known)) if known else None
            verdict = "" if value is None or not complete else "yes" if value >= bar else "no"
            least = "not measured" if value is None else _times(value)
            body.append([goal.text, _against(peer), f">= {bar:g}", least, verdict])
    for what, ratio, bar in KERNEL_GOALS:
        value = kernels.get(what)
        verdict = "" if value is None else "yes" if value >= bar else "no"
        body.append([what, ratio, f">= {bar:g}", "not measured" if value is None else _times(value), verdict])
    body += [_threads_goal(rows), _compile_goal(by_model)]
    return _markdown(["goal", "", "bar", "measured", "met"], body)


def _threads_goal(rows: Sequence[Row]) -> list[str]:
    """Two threads in wall time against one in processor time, the geometric mean over the models."""
    times = {(r.model, r.threads): r.found[OURS].time for r in rows if OURS in r.found}
    found = geomean(times[m, 1] / t for (m, threads), t in times.items() if threads == 2 and (m, 1) in times)
    verdict = "" if found is None else "yes" if found >= TWO_THREADS else "no"
    return ["two threads", "one / two", f">= {TWO_THREADS:g}", _times(found) or "not measured", verdict]


def _compile_goal(by_model: Mapping[str, Row]) -> list[str]:
    row = by_model.get("resnet18")
    found = row.found[OURS].compile_cpu if row is not None and OURS in row.found else None
    verdict = "" if found is None else "yes" if found <= COMPILE else "no"
    measured = "not measured" if found is None else f"{found:.1f} s"
    return ["compile ResNet-18", "processor time", f"<= {COMPILE:g} s", measured, verdict]


def _against(peer: str) -> str:
    return "the better / ours" if peer == "best" else f"{TITLES[peer]} / ours"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, body)])
