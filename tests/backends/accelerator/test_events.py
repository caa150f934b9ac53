"""The event simulator and the analytic model: accesses are equal, and time is nearly the same."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from intaglio.backends.accelerator.cost import cost_of
from intaglio.backends.accelerator.emit.contraction import (
    Activation,
    Buffers,
    Contraction,
    Packed,
    emit,
    sizes,
)
from intaglio.backends.accelerator.emit.stream import Writer
from intaglio.backends.accelerator.emit.weights import packed_weights
from intaglio.backends.accelerator.mapper import search
from intaglio.backends.accelerator.simulate.events import simulate_layer
from intaglio.backends.accelerator.timeline import cycles_of

from .hardware import RATES, draw_layer, draw_machine


def channels_last(groups: int, channels: int, image: tuple[int, int]) -> Activation:
    pixel = groups * channels
    return Activation(0, (image[0] * image[1] * pixel, channels, 1, image[1] * pixel, pixel))


def outcome(seed: int) -> tuple[Any, float, Any]:
    """What the analytic model says of a drawn layer on a drawn machine, and what the simulator does."""
    rng = random.Random(seed)
    layer, machine = draw_layer(rng), draw_machine(rng)
    mapping = search(layer, machine, RATES, rng.choice(["edp", "energy", "latency"])).mapping
    flow = machine.dataflows[0]
    tiles = {d: list(t) for d, t in mapping.tiles.items()}
    cost = cost_of(machine, RATES, flow, layer, tiles, mapping.orders)
    first = {d: t[0] for d, t in mapping.tiles.items()}
    e = layer.extent
    source, result = channels_last(e["G"], e["C"], layer.image), channels_last(e["G"], e["K"], (e["P"], e["Q"]))
    contraction = Contraction(layer, first, mapping.orders[0], source, Packed(0), result, 0, 0, 255)
    _, places = packed_weights(np.ones((e["G"], e["K"], e["C"], e["R"], e["S"]), np.int8), first, 8)
    at, buffers = 0, {}
    for x, size in sizes(contraction).items():
        size = -(-size // 8) * 8
        buffers[x] = Buffers(at, 2, size)
        at += 2 * size
    writer = Writer()
    emit(contraction, buffers, places, writer)
    along = 2 * layer.words("O") / 16  # a product and a shift for each result, by the 16 lanes of the simulator
    cycles = cycles_of(layer, mapping, machine, RATES, flow, cost, along=along)
    return cost, cycles, simulate_layer(writer.finished(), layer, mapping, machine, RATES, flow)


def compare(seeds: range) -> Any:
    """Accesses of all cases are equal; relative errors of the latency."""
    errors = []
    for seed in seeds:
        cost, cycles, found = outcome(seed)
        expected = {}
        for entry in cost.entries:
            expected[entry.store, entry.operand, "read"] = entry.reads
            expected[entry.store, entry.operand, "write"] = entry.writes
        assert {k: n for k, n in found.counts.items() if n} == {k: n for k, n in expected.items() if n}, seed
        errors.append(abs(cycles - found.cycles) / found.cycles)
    return np.array(errors)


def test_accesses_are_equal_and_latency_agrees() -> None:
    errors = compare(range(24))
    assert errors.mean() <= 0.02 and errors.max() <= 0.05, errors


@pytest.mark.deep
def test_a_thousand_cases() -> None:
    errors = compare(range(1000))
    print(f"latency: mean {errors.mean():.6f}, worst {errors.max():.4f}, exact {(errors < 1e-9).sum()}")
    assert errors.mean() <= 0.02 and errors.max() <= 0.05
