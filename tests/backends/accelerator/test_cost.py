"""The cost model as a whole: published optimum, monotonicity, number formats and zeros, conservation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends.accelerator.formats import imbalance
from intaglio.backends.accelerator.hierarchy import Dataflow, Hierarchy, Rates, Store
from intaglio.backends.accelerator.layer import Layer, conv, gemm
from intaglio.backends.accelerator.machine import Array, Fill, Level, Machine, Mode, Sparsity
from intaglio.backends.accelerator.mapper import search
from intaglio.backends.accelerator.resolve import fitted, hierarchy_of, rates_of, uneven

from ...zoo import data

ALL = frozenset("WIO")
LAYER = conv("layer", 24, 12, (14, 14), (3, 3), pads=(1, 1, 1, 1))
GOLDEN = "accelerator/accelforge_golden.json"


def described(**levels: Any) -> Machine:
    """The simple machine of AccelForge's example: DRAM, a buffer for all, a register for weights, 32 x 32."""
    return Machine(
        "simple",
        Array(32, 32, ("ws",)),
        (
            Level("dram", bandwidth=16, read_energy=100, write_energy=100),
            Level("glb", 256 * 1024, read_energy=6, write_energy=6),
        ),
        modes=(Mode("i8", "i8", 1, 0.25),),
    )


@pytest.mark.skipif(data.folder() is None, reason=data.MISSING)
def test_the_published_optimum_of_another_mapper() -> None:
    """AccelForge (optimal, 52.6 CPU-s): 141.1712 µJ and 112.896 µs on its simple machine, with the same counts."""
    golden = json.loads(Path(data.file(GOLDEN)).read_text(encoding="utf-8"))
    machine = described()
    layer = conv("c", 64, 64, (58, 58), (3, 3), bits=(8, 8, 8, 8))
    found = search(layer, hierarchy_of(machine, ideal=True), rates_of(layer, machine))
    assert found.cost.energy * 1e-12 == pytest.approx(golden["energy_J"], rel=1e-6)
    assert found.cost.energy == golden["closed_form_pJ"]
    assert found.cost.cycles / machine.clock == pytest.approx(golden["latency_s"], rel=1e-6)
    counts = {(e.store, e.operand): e for e in found.cost.entries}
    words = golden["breakdown_words"]
    assert counts["dram", "W"].reads == words["dram_W"]
    assert counts["dram", "I"].reads == words["dram_I"]
    assert counts["dram", "O"].writes == words["dram_O"]
    assert counts["glb", "W"].writes == words["glb_fill_W"] and counts["glb", "W"].reads == words["glb_read_W"]
    assert counts["glb", "I"].writes == words["glb_fill_I"] and counts["glb", "I"].reads == words["glb_read_I"]
    assert counts["glb", "O"].writes == words["glb_psum_write"]
    assert counts["glb", "O"].reads == words["glb_psum_read"] + words["glb_drain_O"]


@pytest.mark.parametrize(
    ("rows", "cols", "m", "k", "n"), [(32, 32, 2916, 576, 64), (32, 32, 784, 576, 128), (16, 8, 100, 70, 30)]
)
def test_weight_stationary_cycles_of_scale_sim(rows: int, cols: int, m: int, k: int, n: int) -> None:
    """ceil(K/R) ceil(N/C) (2R + C + T - 2), SCALE-Sim's stall-free cycles but for its last one."""
    array = Array(rows, cols, ("ws",), Fill("2*row+col-2"))
    machine = Machine("scale", array, (Level("dram"),))
    layer = gemm("g", m, k, n)
    found = search(layer, hierarchy_of(machine, ideal=True), rates_of(layer, machine), "latency")
    assert found.cost.cycles == math.ceil(k / rows) * math.ceil(n / cols) * (2 * rows + cols + m - 2)


# --- monotonicity -----------------------------------------------------------------------------------------------------


@st.composite
def machines(draw: Any) -> Hierarchy:
    kib = draw(st.sampled_from([2, 6, 20])) * 8192.0
    double = draw(st.booleans())
    spad = Store("spad", frozenset("WI"), kib, 0.75, 0.75, draw(st.sampled_from([64.0, 512.0])), double)
    acc = Store("acc", frozenset("O"), kib, 0.5, 0.5, math.inf, double)
    return Hierarchy(
        "m",
        Store("dram", ALL, read=12.5, write=12.5, bandwidth=draw(st.sampled_from([8.0, 64.0]))),
        ((spad, acc),),
        rows=draw(st.sampled_from([4, 8])),
        cols=8,
        dataflows=(
            Dataflow("ws", frozenset("W"), ("C", "R", "S"), ("K",), fill=draw(st.sampled_from([0, 12]))),
            Dataflow("os", frozenset("O"), ("P", "Q"), ("K",)),
        ),
        overlap=double,
        static=draw(st.sampled_from([0.0, 2.0])),
    )


RATES = Rates(energy=0.3)


@settings(max_examples=12, deadline=None)
@given(machines(), st.sampled_from(["energy", "latency", "edp"]), st.floats(1.0, 4.0))
def test_more_memory_and_more_bandwidth_never_cost_more(machine: Hierarchy, objective: str, more: float) -> None:
    def best(m: Hierarchy) -> float:
        return search(LAYER, m, RATES, objective).certificate.optimum

    now = best(machine)
    spad, acc = machine.tiers[0]
    for better in (
        replace(machine, outer=replace(machine.outer, bandwidth=machine.outer.bandwidth * more)),
        replace(machine, tiers=((replace(spad, capacity=spad.capacity * more), acc),)),
        replace(machine, tiers=((spad, replace(acc, capacity=acc.capacity * more)),)),
        replace(machine, tiers=((replace(spad, bandwidth=spad.bandwidth * more), acc),)),
    ):
        assert best(better) <= now * (1 + 1e-9)


FORMATS = ["bitmask", "rlc:4", "csr"]


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(FORMATS), st.sampled_from(["gate", "skip"]), st.floats(0.02, 0.9), st.floats(0.1, 1.0))
def test_a_sparser_tensor_never_costs_more(form: str, action: str, density: float, less: float) -> None:
    machine = replace(described(), sparsity=(("W", Sparsity(form, action)),))
    hierarchy = hierarchy_of(machine)
    costs = []
    for d in (density, density * less):
        layer = replace(LAYER, density=(d, 1.0))
        costs.append(search(layer, hierarchy, rates_of(layer, machine)).cost.edp)
    assert costs[1] <= costs[0] * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 20), st.integers(1, 5))
def test_the_imbalance_of_known_weights_is_exact(seed: int, outputs: int, columns: int, lanes: int) -> None:
    mask = np.random.default_rng(seed).random((outputs, columns)) < 0.4
    layer = replace(LAYER, nonzeros=tuple(int(n) for n in mask.sum(1)))
    assert uneven(layer, lanes) == pytest.approx(imbalance(mask, lanes))


# --- number formats ---------------------------------------------------------------------------------------------------


def test_traffic_scales_with_bits_exactly() -> None:
    machine = described()
    full = search(LAYER, hierarchy_of(machine), rates_of(LAYER, machine))
    half = replace(LAYER, bits=(4, 8, 8, 32))
    rates = rates_of(half, machine)
    assert rates.bits == {"W": 4.0, "I": 8.0, "O": 8.0} and rates.energy == 0.25  # a fixed multiplier gains nothing
    energy = {e.operand: e.energy for e in full.cost.entries if e.store == "dram"}
    found = search(half, hierarchy_of(machine), rates)
    again = {e.operand: e.energy for e in found.cost.entries if e.store == "dram"}
    assert again["W"] == energy["W"] / 2


def test_composable_units_multiply_more_of_narrow_numbers() -> None:
    machine = replace(described(), array=Array(32, 32, ("ws",), bits="composable"))
    rates = rates_of(replace(LAYER, bits=(2, 2, 8, 32)), machine)
    assert rates.cycles == 1 / 16 and rates.energy == 0.25 / 16


def test_wider_layers_are_fitted_with_a_note() -> None:
    layer, note = fitted(replace(LAYER, bits=(32, 32, 32, 32)), described())
    assert layer.bits == (8, 8, 8, 32)
    assert note == "costed as if quantised to i8 x i8: simple has no mode of 32 x 32 bits"


def test_structured_zeros_halve_the_cycles() -> None:
    machine = replace(described(), sparsity=(("W", Sparsity("nm:2:4", "skip")),))
    rates = rates_of(replace(LAYER, density=(0.5, 1.0)), machine)
    assert rates.cycles == 0.5 and rates.bits["W"] == 0.5 * (8 + 2)
    assert rates_of(LAYER, machine).cycles == 1.0  # a dense layer gains nothing


@pytest.mark.parametrize(
    "layer",
    [
        conv("depthwise", 16, 16, (9, 9), (3, 3), groups=16, pads=(1, 1, 1, 1)),
        conv("strided", 5, 3, (13, 11), (3, 2), strides=(3, 2), pads=(1, 0, 1, 1)),
        conv("dilated", 4, 6, (12, 12), (3, 3), dilations=(2, 3)),
        gemm("batched", 13, 7, 11, batch=3),
        gemm("vector", 1, 55, 1000),
    ],
)
def test_every_kind_of_layer_has_a_mapping_that_conserves(layer: Layer) -> None:
    """`evaluate` asserts conservation; here: nothing is below what has to be moved and multiplied."""
    machine = described()
    cost = search(layer, hierarchy_of(machine), rates_of(layer, machine)).cost
    assert cost.cycles >= layer.macs / 1024
    dram = {e.operand: e for e in cost.entries if e.store == "dram"}
    assert dram["W"].reads >= layer.words("W") and dram["I"].reads >= layer.words("I")
    assert dram["O"].writes >= layer.words("O")
