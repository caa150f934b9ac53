"""Fusion on whole graphs: energy, latency and traffic of the outermost memory beside the plan without fusion; seconds.

    make bench          or          pytest -m bench -s tests/benchmarks/bench_fusion.py

ResNet-50 comes from its ONNX graph through the compiler; an encoder of BERT-base's size (12 layers of 512 tokens) is
written down here. One thread, process time from nothing known: of mapping and fusing as a plan, and of integer graphs
mapped, fused and emitted as programs. Nothing is asserted.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import intaglio
from intaglio.backends.accelerator.deploy import deployed
from intaglio.backends.accelerator.fusion import FusedPlan, Read, Step, fuse, steps_of
from intaglio.backends.accelerator.fusion.steps import layout_of, rowwise
from intaglio.backends.accelerator.layer import Layer, gemm
from intaglio.backends.accelerator.presets import preset
from intaglio.backends.accelerator.resolve import fitted, hierarchy_of, rates_of, units_of
from intaglio.backends.accelerator.vector import Vector
from intaglio.backends.accelerator.workload import Work
from intaglio.ir import Graph, Tensor
from intaglio.ir.edit import Editor
from intaglio.ir.graph import Value
from intaglio.ir.ops.quant_integer import fixed_point
from intaglio.ir.types import Int

__all__ = ["encoder", "resnet50_steps"]

MACHINE = "gemmini16"


def resnet50_steps() -> list[Step]:
    """Convolutions with what follows them, sums of the blocks included, as the compiler fuses them into kernels."""
    from .models import MODELS

    machine = preset(MACHINE)
    model = next(m for m in MODELS if m.name == "resnet50")
    graph = intaglio.optimize(intaglio.load(model.build()), "fold,cse,fuse").main
    return steps_of(
        graph,
        8,
        lambda w: (
            w
            if w.layer is None
            else replace(w, layer=fitted(replace(w.layer, density=(1.0, 1.0), nonzeros=()), machine)[0])
        ),
    )


def encoder(layers: int = 12, length: int = 512, width: int = 768, heads: int = 12) -> list[Step]:
    """Projections, attention, sums, norms and the two products between, all with 8-bit tensors."""
    steps: list[Step] = []

    def vector(name: str, unit: str, elements: int, simple: int) -> Vector:
        return Vector(name, unit, elements, simple * elements)

    def product(
        layer: Layer, i: int, w: int = -1, same: bool = True, after: tuple[Vector, ...] = (), skip: int = -1
    ) -> int:
        bits = layer.words("O") * 8
        tied = same and i >= 0 and rowwise(steps[i].layout, layer)
        reads = [Read(i, "I", 0, tied), Read(w, "W")]
        if skip >= 0:
            reads.append(Read(skip, "V", bits, True))
            after = (*after, Vector("math.add", "alu", 0, layer.words("O"), bits))
        work = Work(layer.name, "nn.matmul", layer, after, layer.words("O"))
        steps.append(Step(work, tuple(reads), bits, layout_of(layer)))
        return len(steps) - 1

    def alone(name: str, of: int, unit: str, special: int, simple: int) -> int:
        bits = steps[of].bits
        v = Vector(name, unit, special, simple * bits // 8, bits, bits)
        steps.append(Step(Work(name, name, None, (v,)), (Read(of, "V", bits, True),), bits, steps[of].layout))
        return len(steps) - 1

    x = -1
    for n in range(layers):
        q, k, v = (product(gemm(f"{n}.{name}", length, width, width), x) for name in ("q", "k", "v"))
        scores = product(gemm(f"{n}.qk", length, width // heads, length, batch=heads), q, k, same=False)
        shares = alone(f"{n}.softmax", scores, "exp", steps[scores].bits // 8, 4)
        mixed = product(gemm(f"{n}.pv", length, length, width // heads, batch=heads), shares, v)
        out = product(gemm(f"{n}.out", length, width, width), mixed, same=False, skip=x)
        norm = alone(f"{n}.norm1", out, "sqrt", length, 7)
        up = product(
            gemm(f"{n}.up", length, width, 4 * width), norm, after=(vector("nn.gelu", "gelu", 4 * length * width, 0),)
        )
        down = product(gemm(f"{n}.down", length, 4 * width, width), up, skip=norm)
        x = alone(f"{n}.norm2", down, "sqrt", length, 7)
    steps[-1] = replace(steps[-1], kept=True)
    return steps


def report(title: str, plan: FusedPlan, seconds: float, clock: float) -> None:
    energy, cycles, bits = (sum(getattr(s, x) for s in plan.unfused) for x in ("energy", "cycles", "outer_bits"))
    print(f"\n{title}: {len(plan.unfused)} steps in {len(plan.segments)} segments, {seconds:.1f} CPU-s")
    for name, before, after, unit in (
        ("energy", energy * 1e-9, plan.energy * 1e-9, "mJ"),
        ("latency", cycles / clock * 1e3, plan.cycles / clock * 1e3, "ms"),
        ("outermost memory", bits / 8e6, plan.outer_bits / 8e6, "MB"),
    ):
        print(f"  {name:17} {before:9.3f} -> {after:9.3f} {unit}   x {after / before:.3f}")
    print(f"  {plan.certificate}")
    for s in dict.fromkeys(str(s) for s in plan.segments if s.fused):
        print(f"    {s}")


@pytest.mark.bench
def test_fusion() -> None:
    machine = preset(MACHINE)
    for title, steps in (("ResNet-50", resnet50_steps()), ("BERT-base, 512 tokens", encoder())):
        begin = time.process_time()
        plan = fuse(steps, hierarchy_of(machine), lambda layer: rates_of(layer, machine), units_of(machine))
        report(f"{title} on {MACHINE}", plan, time.process_time() - begin, machine.clock)


# --- programs ---------------------------------------------------------------------------------------------------------


def resnet50_integer() -> Graph:
    """ResNet-50 in 8 bits; ranges of two random images, the shapes are what counts."""
    from .models import MODELS

    model = next(m for m in MODELS if m.name == "resnet50")
    module = intaglio.load(model.build())
    v = module.main.inputs[0]
    shape = [d if isinstance(d, int) else 1 for d in v.type.shape]
    rng = np.random.default_rng(0)
    batches = [{v.name: rng.normal(size=shape).astype(np.float32)} for _ in range(2)]
    freeze = "" if v.type.static else "freeze{N=1},"
    return intaglio.optimize(module, f"{freeze}quantize,integer,fold,dce", calibration=batches).main


def encoder_integer(layers: int = 12, length: int = 512, width: int = 768, heads: int = 12) -> Graph:
    """An encoder of BERT-base's size in integers, its softmax, norms and GELU included; numbers are drawn."""
    from ..backends.accelerator.attention import norm

    rng = np.random.default_rng(0)
    e = Editor()
    depth, codes, wide = width // heads, Int("u8"), Int("i32")

    def scaled(v: Value, factor: float, to: Int = codes, zero: int = 0) -> Value:
        return e.emit("quant.requantize", v, *map(e.constant, fixed_point(factor)), to=to, zero=zero)

    def product(v: Value, columns: int, to: Int = codes) -> Value:
        w = e.constant(rng.integers(-127, 128, (v.type.shape[-1], columns)).astype(np.int8))
        return scaled(e.emit("quant.matmul", v, w, a_zero=128), 2e-4, to, 128 if to is codes else 0)

    def heads_of(v: Value, perm: tuple[int, ...]) -> Value:
        return e.emit("shape.transpose", e.emit("shape.reshape", v, shape=(1, length, heads, depth)), perm=perm)

    def added(y: Value, v: Value) -> Value:
        sums = e.emit("quant.add", y, scaled(e.emit("math.cast", v, to=wide), 16.0, wide), to=wide,
                      a_multiplier=256, b_multiplier=250, shift=8, b_zero=2048)  # fmt: skip
        return norm(e, sums, width)

    def softmax(scores: Value) -> Value:
        below = e.emit("math.sub", e.emit("math.reduce_max", scores, axes=(3,)), scores)
        powers = np.rint(np.exp(-np.arange(256) / 16) * (1 << 15)).astype(np.int32)
        power = e.emit("quant.table", below, e.constant(powers), first=0)
        share = e.emit("math.mul", power, e.constant(np.int32(1 << 14)))
        return scaled(e.emit("math.div", share, e.emit("math.reduce_sum", power, axes=(3,))), 1 / 64)

    x = e.input("x", Tensor((1, length, width), "u8"))
    gelu = e.constant(rng.integers(0, 256, 256).astype(np.uint8))
    for _ in range(layers):
        q, k, v = (heads_of(product(x, width), perm) for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
        scores = scaled(e.emit("quant.matmul", q, k, a_zero=128, b_zero=128), 1e-3, wide)
        mixed = scaled(e.emit("quant.matmul", softmax(scores), v, b_zero=128), 1 / 256, codes, 128)
        joined = e.emit("shape.reshape", e.emit("shape.transpose", mixed, perm=(0, 2, 1, 3)), shape=(1, length, width))
        x = added(product(joined, width, wide), x)
        x = added(product(e.emit("quant.table", product(x, 4 * width), gelu), width, wide), x)
    e.output(x, "y")
    return e.freeze()


@pytest.mark.bench
@pytest.mark.parametrize("machine", [MACHINE, "eyeriss"])
def test_mapped_fused_and_emitted(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an integer graph to a program, nothing known before; the judgement on the event simulator included."""
    for title, graph in (("ResNet-50", resnet50_integer()), ("BERT-base, 512 tokens", encoder_integer())):
        monkeypatch.setenv("INTAGLIO_CACHE", str(tmp_path / title))
        begin = time.process_time()
        found, why = deployed(graph, preset(machine), "edp", fuse=True)
        seconds = time.process_time() - begin
        print(f"\n{title} on {machine}: {seconds:.1f} CPU-s {why}")
        if found is not None:
            count = sum(len(p.queues[q]) for p in found.programs for q in p.queues)
            print(f"  {count} instructions, {sum(t['cycles'] for t in found.times):,.0f} cycles; {found.gain()}")
