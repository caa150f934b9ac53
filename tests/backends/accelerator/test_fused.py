"""Fused segments as programs: bit for bit the interpreter's result, DRAM moves what the plan says, never worse."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.backends.accelerator.emit.fused import Fusion
from intaglio.backends.accelerator.execute import Executable, emitted
from intaglio.backends.accelerator.fusion import fuse
from intaglio.backends.accelerator.fusion.judge import judged
from intaglio.backends.accelerator.hierarchy import Hierarchy, Rates
from intaglio.backends.accelerator.plan import Units
from intaglio.backends.accelerator.simulate.events import simulate_program
from intaglio.ir import Graph, Tensor, evaluate
from intaglio.ir.edit import Editor
from intaglio.ir.graph import Value
from intaglio.ir.ops.quant_integer import fixed_point
from intaglio.ir.types import Int

from ...zoo.models import MODELS, Model
from .hardware import RATES, finder, systolic

U8 = Int("u8")


def small(kib: float) -> Hierarchy:
    """The systolic machine with a smaller scratchpad."""
    machine = systolic(64)
    spad, acc = machine.tiers[0]
    return replace(machine, tiers=((replace(spad, capacity=kib * 8192), acc),))


def fusion(machine: Hierarchy, *, always: bool = False, longest: int = 4) -> Fusion:
    """Fusion on a machine without a description; `always`: also where it is slower."""

    def rates(layer: Any) -> Rates:
        return RATES

    def judge(alone: Any, together: Any) -> Any:
        found = judged(alone, together, machine, rates)
        return replace(found, alone=(1e12, 1e12)) if always else found

    return Fusion(
        lambda layer: layer, lambda steps: fuse(steps, machine, rates, Units(), "energy", longest=longest), judge
    )


def drawn(rng: random.Random, depth: int) -> Graph:
    """Convolutions of 1x1, 3x3 and 5x5, depthwise ones, strides, and sums with what came before."""
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    e = Editor()
    side, channels = rng.choice([9, 12, 16, 20]), rng.choice([3, 8, 12, 16])
    x = e.input("x", Tensor((1, channels, side, rng.choice([side, side - 3])), "u8"))
    values: list[Value] = [x]
    for _ in range(depth):
        source = values[-1] if rng.random() < 0.8 else rng.choice(values)
        c = source.type.shape[1]
        window, stride = rng.choice([1, 3, 3, 5]), rng.choice([1, 1, 1, 2])
        groups = c if rng.random() < 0.25 else 1
        k = c if groups > 1 or rng.random() < 0.4 else rng.choice([8, 12, 16, 24])
        if min(source.type.shape[2:]) <= window:
            window, stride = 1, 1
        zero = rng.randrange(256)
        w = e.constant(numbers.integers(-127, 128, (k, c // groups, window, window)).astype(np.int8))
        bias = e.constant(numbers.integers(-500, 500, k).astype(np.int32))
        pad = window // 2
        sums = e.emit("quant.conv", source, w, bias, strides=(stride,) * 2, pads=(pad,) * 4, g=groups, zero=zero)
        factors = fixed_point(0.02 / (window * (c // groups) ** 0.5) * numbers.uniform(0.5, 1.5, k))
        y = e.emit("quant.requantize", sums, *map(e.constant, factors), to=U8, axis=1, zero=rng.randrange(256))
        others = [v for v in values if v.type.shape == y.type.shape]
        if others and rng.random() < 0.7:
            a, b = (y, rng.choice(others)) if rng.random() < 0.5 else (rng.choice(others), y)
            y = e.emit(
                "quant.add", a, b, to=U8, a_multiplier=200, b_multiplier=150, shift=8, a_zero=3, b_zero=9, zero=7
            )
        values.append(y)
    e.output(values[-1], "y")
    if rng.random() < 0.3 and len(values) > 2:
        e.output(values[-2], "z")
    return e.freeze()


def programs(graph: Graph, machine: Hierarchy, how: Fusion | None) -> Executable:
    return emitted(graph, machine, finder(machine), fusion=how)


def check(graph: Graph, executable: Executable, inputs: list[Any]) -> None:
    for mine, theirs in zip(executable.run(inputs), evaluate(graph, inputs), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def moved(executable: Executable, machine: Hierarchy) -> tuple[float, float]:
    """Cycles and bits of DRAM on the event simulator."""
    outcomes = [
        o for p in executable.programs if p is not None for o in simulate_program(p, machine, lambda layer: RATES)
    ]
    return sum(o.cycles for o in outcomes), sum(o.outer_bits for o in outcomes)


def ways_of(seed: int) -> set[str]:
    """Check a drawn network, fused wherever the plan says so; the kinds of segments in it."""
    rng = random.Random(seed)
    graph = drawn(rng, rng.choice([2, 3, 4]))
    machine = small(rng.choice([3, 6, 12]))
    executable = programs(graph, machine, fusion(machine, always=True))
    shape = graph.inputs[0].type.shape
    check(graph, executable, [np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)])
    ways = set()
    for s in (s for p in executable.programs if p is not None for s in p.segments if not s.why):
        # all stripes are costed alike: the first and the last read less of a halo, the first makes more of it
        assert s.together[1] == pytest.approx(s.predicted[1], rel=1e-9 if "whole" in s.way else 0.2)
        ways.add("whole" if "whole" in s.way else "cached" if "cached" in s.way else "stripes")
        ways |= {"weights stay"} if "stay" in s.way else set()
    return ways


def test_drawn_networks_are_bit_exact_and_move_no_more_than_the_plan_says() -> None:
    ways: set[str] = set()
    for seed in (38, 40, 44, 48, 50):
        ways |= ways_of(seed)
    assert ways == {"whole", "stripes", "cached", "weights stay"}


@pytest.mark.deep
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_many_drawn_networks(first: int) -> None:
    ways: set[str] = set()
    for seed in range(first, first + 20):
        ways |= ways_of(seed)
    assert {"whole", "stripes", "cached", "weights stay"} <= ways


# --- networks ---------------------------------------------------------------------------------------------------------


def models(*names: str) -> list[Any]:
    return [
        pytest.param(m, id=m.name, marks=pytest.mark.skipif(bool(m.missing), reason=m.missing))
        for m in MODELS
        if m.name in names
    ]


def check_model(model: Model, longest: int = 4) -> None:
    data = model.data()
    batches = [dict(data.batch(i, i + 1)) for i in range(4)]
    passes = "freeze{N=1},quantize,integer,fold,dce"
    graph = intaglio.optimize(intaglio.load(model.proto()), passes, calibration=batches).main
    machine = systolic()
    alone, together = (programs(graph, machine, how) for how in (None, fusion(machine, longest=longest)))
    check(graph, together, [data.batch(100, 101)[v.name] for v in graph.inputs])
    (cycles, bits), (fused_cycles, fused_bits) = moved(alone, machine), moved(together, machine)
    assert fused_cycles <= cycles
    assert fused_bits < 0.9 * bits
    (program,) = (p for p in together.programs if p is not None)
    segments = program.segments
    outcomes = list(zip(program.pieces, simulate_program(program, machine, lambda layer: RATES), strict=True))
    assert any(not s.why for s in segments)
    for s in segments:
        if not s.why:
            assert s.together[1] <= s.alone[1]
            assert s.together[1] == pytest.approx(s.predicted[1], rel=0.02)
    for n, s in enumerate(s for s in segments if not s.why):  # in the program as by itself
        assert sum(o.outer_bits for piece, o in outcomes if piece.segment == n) == pytest.approx(s.together[1])


@pytest.mark.parametrize("model", models("resnet8_cifar10"))
def test_a_residual_network_runs_fused_bit_for_bit_with_less_of_dram(model: Model) -> None:
    check_model(model, longest=3)


@pytest.mark.deep
@pytest.mark.parametrize("model", models("resnet20_cifar10", "mobilenet_v1_075_224"))
def test_larger_networks_run_fused(model: Model) -> None:
    check_model(model)
