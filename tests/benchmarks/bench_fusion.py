"""Fusion on whole graphs: energy, latency and traffic of the outermost memory beside the plan without fusion; seconds.

    make bench          or          pytest -m bench -s tests/benchmarks/bench_fusion.py

ResNet-50 comes from its ONNX graph through the compiler; an encoder of BERT-base's size (12 layers of 512 tokens) is
written down here. One thread, process time of mapping and fusing from nothing known; nothing is asserted.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

import intaglio
from intaglio.backends.accelerator.fusion import FusedPlan, Read, Step, fuse, steps_of
from intaglio.backends.accelerator.fusion.steps import layout_of, rowwise
from intaglio.backends.accelerator.layer import Layer, gemm
from intaglio.backends.accelerator.presets import preset
from intaglio.backends.accelerator.resolve import fitted, hierarchy_of, rates_of, units_of
from intaglio.backends.accelerator.vector import Vector
from intaglio.backends.accelerator.workload import Work

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
