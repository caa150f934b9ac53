"""Presets: every one reads, is what was published of it, and can be named."""

from __future__ import annotations

import pytest

from intaglio.backends.accelerator.machine import violations
from intaglio.backends.accelerator.presets import PRIMER, names, preset, scalesim
from intaglio.ir.diagnostics import IntaglioError


@pytest.mark.parametrize("name", names())
def test_a_preset_reads_and_breaks_no_constraint(name: str) -> None:
    m = preset(name)
    assert not list(violations(m))
    assert m.peak > 0 and all(mode.energy > 0 for mode in m.modes)
    assert m.name == name or m.name.startswith(f"{name}-")


@pytest.mark.parametrize(
    ("name", "peak", "clock"),
    [
        ("eyeriss", 168, 2e8), ("eyeriss_v2", 384, 2e8), ("tpu_v1", 65536, 7e8), ("nvdla", 2048, 1e9),
        ("gemmini16", 256, 1e9), ("bitfusion", 16 * 32 * 16, 5e8), ("eie", 64, 8e8), ("scnn", 1024, 1e9),
        ("sparse_tensor_core_2_4", 2048, 1.41e9), ("edge16", 256, 8e8),
    ],
)  # fmt: skip
def test_published_sizes(name: str, peak: float, clock: float) -> None:
    m = preset(name)
    assert (m.peak, m.clock) == (peak, clock)


def test_tpu_peak_is_92_tops() -> None:
    m = preset("tpu_v1")
    assert 2 * m.peak * m.clock / 1e12 == pytest.approx(91.75, abs=0.01)


@pytest.mark.parametrize("macs", PRIMER)
def test_sizes_of_nvdla(macs: int) -> None:
    m = preset(f"nvdla-{macs}")
    assert m.peak == macs and m.level("cbuf").size == PRIMER[macs][2] * 1024


def test_composable_modes_of_bitfusion() -> None:
    m = preset("bitfusion")
    per_unit = {(mode.w, mode.a): mode.macs_per_pe for mode in m.modes}
    assert per_unit["i8", "i8"] == 1 and per_unit["i4", "i4"] == 4 and per_unit["i2", "i2"] == 16
    assert per_unit["i4", "i8"] == 2 and per_unit["i2", "i8"] == 4 and per_unit["i2", "i4"] == 8


def test_systolic_arrays_are_named_by_their_size() -> None:
    m = preset("scalesim-128x64-os")
    assert (m.array.rows, m.array.cols, m.array.dataflows) == (128, 64, ("os",))
    assert m == scalesim(128, 64, "os")
    assert preset("scalesim").array.elements == 1024


@pytest.mark.parametrize(
    ("name", "near"), [("gemini16", "gemmini16"), ("nvdla-100", "nvdla-1024"), ("scalesim-0x4-ws", "scalesim")]
)
def test_a_wrong_name_suggests_a_right_one(name: str, near: str) -> None:
    with pytest.raises(IntaglioError) as e:
        preset(name)
    (d,) = e.value.diagnostics
    assert d.code == "IG0527" and near in d.hint
