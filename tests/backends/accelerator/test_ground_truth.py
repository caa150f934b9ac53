"""Published machines: what is exact stays exact, what has a tolerance keeps it (docs/accelerator-validation.md)."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends.accelerator.layer import Layer, conv
from intaglio.backends.accelerator.machine import Machine
from intaglio.backends.accelerator.models import bitfusion, eie, eyeriss, eyeriss_v2, nvdla, systolic, tpu
from intaglio.backends.accelerator.presets import preset
from intaglio.ir.diagnostics import IntaglioError

from . import ground_truth
from .ground_truth import MISSING, Row
from .networks import alexnet_steps, googlenet_steps, square

needs_data = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@cache
def rows(name: str) -> list[Row]:
    return list(getattr(ground_truth, name)())


def errors(name: str, quantity: str | None = None, names: tuple[str, ...] = ()) -> list[float]:
    chosen = [r for r in rows(name) if quantity in (None, r.quantity) and (not names or r.name in names)]
    assert chosen
    return [abs(r.error) for r in chosen]


@needs_data
def test_scalesim_is_exact() -> None:
    assert [r.modelled for r in rows("scalesim")] == [r.published for r in rows("scalesim")]
    assert len(rows("scalesim")) == 2 * 14  # by the closed form and by the general mapper


@needs_data
def test_eyeriss_v2_is_exact_on_real_masks() -> None:
    assert [r.modelled for r in rows("eyeriss_v2_pe")] == [r.published for r in rows("eyeriss_v2_pe")]
    assert len(rows("eyeriss_v2_pe")) == 8


@needs_data
def test_nvdla_layers() -> None:
    for quantity in ("multiplication cycles", "cycles with second memory", "cycles from DRAM"):
        found = errors("nvdla_sheet", quantity)
        assert len(found) == 54
        assert sum(e <= 0.025 for e in found) >= 53, quantity


@needs_data
def test_nvdla_frames_per_second() -> None:
    published = errors("nvdla_frames", names=("ResNet-50, 2048, 10 GB/s", "ResNet-50, 2048, second memory"))
    assert max(published) <= 0.01
    primer = [abs(r.error) for r in rows("nvdla_frames") if "primer" in r.name]
    assert len(primer) == 7 and max(primer) <= 0.1


@needs_data
def test_tpu_time_and_its_split() -> None:
    chosen = ("MLP0", "MLP1", "LSTM0", "CNN0")
    assert max(errors("tpu_v1", "TOPS", chosen)) <= 0.1
    for quantity in ("active %", "weight stall %", "weight shift %", "non-matrix %"):
        assert max(errors("tpu_v1", quantity, chosen)) <= 10, quantity


@needs_data
def test_eie_layers() -> None:
    found = errors("eie_layers")
    assert len(found) == 9 and statistics.mean(found) <= 0.1


@needs_data
def test_bit_fusion_is_exact() -> None:
    found = ground_truth.bit_fusion()
    assert len(found) == 305
    assert [r.modelled for r in found] == [r.published for r in found]


@needs_data
def test_eyeriss_on_alexnet() -> None:
    latency = errors("eyeriss_alexnet", "latency ms")
    assert statistics.mean(latency) <= 0.05 and max(latency) <= 0.1
    assert max(errors("eyeriss_alexnet", "busy elements")) == 0
    for quantity in ("frames/s", "DRAM MB", "power mW"):
        assert max(errors("eyeriss_alexnet", quantity, ("AlexNet",))) <= 0.1, quantity


@needs_data
def test_energy_of_multipliers() -> None:
    assert max(errors("multipliers")) <= 0.005


# what the models must keep on other machines and layers

sizes = st.integers(1, 300)


@given(st.sampled_from(["ws", "os", "is"]), st.integers(1, 40), st.integers(1, 40), sizes, sizes, sizes)
def test_a_systolic_array_is_never_faster_than_its_multipliers(
    flow: str, rows: int, cols: int, t: int, k: int, n: int
) -> None:
    # SCALE-Sim counts from 0: what it reports is the number of the last cycle
    assert (systolic.cycles(flow, rows, cols, t, k, n) + 1) * rows * cols >= t * k * n


def test_a_systolic_array_runs_three_dataflows() -> None:
    with pytest.raises(IntaglioError, match="IG0526"):
        systolic.cycles("rs", 4, 4, 1, 1, 1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_eyeriss_v2_counts_products_of_non_zeros(seed: int, m: int, c: int, pixels: int) -> None:
    rng = np.random.default_rng(seed)
    w, i = rng.integers(0, 2, (m, c)), rng.integers(0, 2, (pixels, c))
    products = sum(w[a, b] * i[p, b] for a in range(m) for b in range(c) for p in range(pixels))
    assert eyeriss_v2.pe_cycles(w, i) == products
    assert eyeriss_v2.pe_cycles(w, i, macs=2) <= products


def _queues(work: np.ndarray, depth: int) -> int:
    """Elements and queues cycle by cycle: an element that is free takes the oldest column of its queue."""
    columns, elements = work.shape
    queues: list[list[int]] = [[] for _ in range(elements)]
    free, sent, cycle = [0] * elements, 0, 0

    def take() -> None:
        for e, queue in enumerate(queues):
            if queue and free[e] <= cycle:
                free[e] = cycle + max(1, queue.pop(0))

    while sent < columns or any(queues):
        cycle += 1
        take()
        if sent < columns and all(len(q) < depth for q in queues):
            for e, queue in enumerate(queues):
                queue.append(int(work[sent, e]))
            sent += 1
        take()
    return max(free)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 25), st.integers(1, 4))
def test_eie_against_a_simulation_of_its_queues(seed: int, elements: int, columns: int, depth: int) -> None:
    base = preset("eie")
    assert base.model is not None
    machine = replace(base, array=replace(base.array, rows=elements),
                      model=replace(base.model, parameters=(("queue", float(depth)),)))  # fmt: skip
    rng = np.random.default_rng(seed)
    weights, inputs = rng.random((12, columns)) < 0.4, np.ones(columns, bool)
    work = eie.column_entries(weights, elements, 4)
    assert eie.run(machine, weights, inputs) == _queues(work, depth)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 5), st.integers(1, 4))
def test_entries_of_a_column(seed: int, rows: int, elements: int, k: int) -> None:
    mask = np.random.default_rng(seed).random((rows, 3)) < 0.2
    found = eie.column_entries(mask, elements, k)
    for j in range(3):
        for e in range(elements):
            own, entries, run = mask[e::elements, j], 0, 0
            pending = 0
            for v in own:
                if v:
                    entries, pending, run = entries + pending + 1, 0, 0
                elif run == 2**k - 1:
                    pending, run = pending + 1, 0
                else:
                    run += 1
            assert found[j, e] == entries


def _faster(machine: Machine, factor: float) -> Machine:
    return replace(machine, levels=tuple(replace(v, bandwidth=v.bandwidth * factor) for v in machine.levels))


@pytest.mark.parametrize("name", ["nvdla", "nvdla-sram", "nvdla-1024", "nvdla-64"])
def test_nvdla_with_more_bandwidth_is_never_slower(name: str) -> None:
    for steps in (alexnet_steps(), googlenet_steps()):
        times = [nvdla.frames_per_second(_faster(preset(name), f), steps) for f in (0.5, 1, 2, 4)]
        assert times == sorted(times)


def test_nvdla_with_more_buffer_moves_no_more() -> None:
    base = preset("nvdla-512")
    moved = []
    for kib in (64, 128, 256, 512, 4096):
        machine = replace(base, levels=tuple(replace(v, size=kib * 1024.0) if v.name == "cbuf" else v
                                             for v in base.levels))  # fmt: skip
        moved.append(sum(t.bytes for t in nvdla.times(machine, googlenet_steps())))
    assert moved == sorted(moved, reverse=True)


def test_tpu_layers_and_sums_agree() -> None:
    machine = preset("tpu_v1")
    layers = [Layer("", (200, 1, 2048, 2048, 1, 1, 1, 1))] * 5
    by_layer = tpu.of_layers(machine, layers)
    by_sum = tpu.of_sums(machine, 5 * 2048 * 2048, 200)
    assert by_layer.tops == pytest.approx(by_sum.tops)
    assert by_layer.active + by_layer.stall + by_layer.shift + by_layer.vector == pytest.approx(1)
    assert tpu.of_sums(machine, 1e7, 64, bits=(8, 16)).active == pytest.approx(
        2 * tpu.of_sums(machine, 1e7, 64).active, rel=0.01
    )


def test_bit_fusion_gains_from_narrow_types() -> None:
    machine = preset("bitfusion")
    cycles = [bitfusion.run(machine, square(3, 28, 1, 128, 128, b, b)).cycles for b in (8, 4, 2)]
    assert cycles == sorted(cycles, reverse=True) and cycles[0] > 10 * cycles[2] / 2
    wide = [bitfusion.run(_faster(machine, f), square(3, 28, 1, 128, 128, 2, 2)).cycles for f in (1, 2, 4)]
    assert wide == sorted(wide, reverse=True)
    with pytest.raises(IntaglioError, match="IG0526"):
        bitfusion.run(machine, conv("dw", 8, 8, (8, 8), (3, 3), groups=8))


def test_eyeriss_refuses_what_does_not_fit() -> None:
    with pytest.raises(IntaglioError, match="IG0525"):
        eyeriss.run(preset("eyeriss"), conv("", 8, 8, (40, 40), (13, 13), bits=(16, 16, 16, 16)))
    small = conv("", 64, 64, (28, 28), (3, 3), pads=(1, 1, 1, 1), bits=(16, 16, 16, 16))
    sparse = replace(small, density=(1.0, 0.3))
    dense, zeros = (eyeriss.run(preset("eyeriss"), v) for v in (small, sparse))
    assert zeros.energy < dense.energy and zeros.dram < dense.dram
