"""What zeros and narrow numbers cost: formulas against counts on real masks, and what may never get dearer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.backends.accelerator import bits
from intaglio.backends.accelerator.formats import (
    DENSE,
    Format,
    imbalance,
    lane_cycles,
    parse_format,
    rlc_entries,
    shares,
    size_of,
)

FORMATS = ["dense", "bitmask", "rlc:4", "rlc:5", "csr", "nm:2:4", "nm:1:4", "nm:4:8"]
densities = st.floats(0.0, 1.0)
forms = st.sampled_from(FORMATS).map(parse_format)


def test_the_formulas_of_the_design() -> None:
    assert parse_format("bitmask").bits(8, 0.25) == 3.0
    assert parse_format("rlc:4").bits(4, 0.09) == pytest.approx(0.09 / (1 - 0.91**16) * 8)
    assert parse_format("csr").bits(8, 0.1, 1024, 1000) == pytest.approx(0.1 * 18 + 1001 * 20 / 1024000)
    assert parse_format("nm:2:4").bits(8, 0.5) == 5.0
    assert parse_format("nm:2:4").bits(8, 0.6) == 8  # denser than the pattern: it stays dense
    assert DENSE.bits(4, 0.1) == 4


@given(forms, st.integers(1, 16), densities, densities)
def test_sparser_is_never_larger(form: Format, width: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if form.kind == "nm" and form.bits(width, 0.0) > width:
        return  # so narrow that the pattern itself does not pay
    assert form.bits(width, low) <= form.bits(width, high) + 1e-9


@given(forms, densities, st.integers(1, 15))
def test_more_bits_are_never_smaller(form: Format, density: float, width: int) -> None:
    assert form.bits(width, density) <= form.bits(width + 1, density)


@pytest.mark.parametrize("text", FORMATS[:5])
@pytest.mark.parametrize("density", [0.03, 0.2, 0.7, 1.0])
def test_the_formula_is_the_mean_over_random_masks(text: str, density: float) -> None:
    mask = np.random.default_rng(0).random((512, 512)) < density
    form = parse_format(text)
    exact = size_of(form, mask, 8) / mask.size
    assert exact == pytest.approx(form.bits(8, float(mask.mean()), 512, 512), rel=0.01)


@given(st.lists(st.booleans(), max_size=80), st.integers(1, 4))
def test_runs_decode_to_the_mask(values: list[bool], k: int) -> None:
    """An encoder of its own: the code has as many entries as it writes."""
    entries, run = 0, 0
    for v in values:
        if v or run == 2**k - 1:
            entries, run = entries + 1, 0
        else:
            run += 1
    entries += run > 0
    assert rlc_entries(np.array([values], bool), k) == entries


def test_patterns_are_checked_on_real_masks() -> None:
    mask = np.tile(np.array([1, 0, 1, 0], bool), (4, 8))
    assert size_of(parse_format("nm:2:4"), mask, 8) == 128 // 2 * 10
    mask[0, 1] = True
    assert size_of(parse_format("nm:2:4"), mask, 8) == 128 * 8


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 20), st.integers(1, 6), st.integers(1, 8))
def test_imbalance_is_exact(seed: int, rows: int, columns: int, lanes: int, depth: int) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.4
    cycles = 0
    for first in range(0, rows, lanes):
        for start in range(0, columns, depth):
            cycles += max(int(row[start : start + depth].sum()) for row in mask[first : first + lanes])
    assert lane_cycles(mask, lanes, depth) == cycles
    dense = -(-rows // lanes) * columns
    assert cycles <= dense
    if mask.any():
        assert imbalance(mask, lanes, depth) * dense * mask.mean() == pytest.approx(cycles)


def test_waiting_more_often_never_helps() -> None:
    mask = np.random.default_rng(1).random((64, 256)) < 0.3
    times = [imbalance(mask, 16, depth) for depth in (1, 4, 16, 64, 256)]
    assert times == sorted(times, reverse=True) and times[-1] >= 1


action = st.sampled_from(["none", "gate", "skip"])
actions = st.fixed_dictionaries({"W": action, "I": action})


@given(actions, forms, forms, densities, densities, densities, densities, st.floats(1.0, 2.0))
def test_a_sparser_tensor_never_costs_more(
    action: dict[str, str], w: Format, i: Format, dw: float, di: float, ew: float, ei: float, uneven: float
) -> None:
    low = {"W": min(dw, ew), "I": min(di, ei)}
    high = {"W": max(dw, ew), "I": max(di, ei)}
    a, b = (shares({"W": w, "I": i}, action, d, uneven) for d in (low, high))
    assert a.cycles <= b.cycles + 1e-12 and a.multiplications <= b.multiplications + 1e-12
    assert 0 <= a.cycles <= 1 and 0 <= a.multiplications <= 1


def test_actions() -> None:
    bitmask, pattern = parse_format("bitmask"), parse_format("nm:2:4")
    gated = shares({"I": bitmask}, {"I": "gate"}, {"I": 0.3})
    assert (gated.cycles, gated.multiplications) == (1.0, pytest.approx(0.3))
    both = shares({"W": bitmask, "I": bitmask}, {"W": "skip", "I": "skip"}, {"W": 0.5, "I": 0.4}, 1.25)
    assert (both.cycles, both.multiplications) == (pytest.approx(0.25), pytest.approx(0.2))
    structured = shares({"W": pattern}, {"W": "skip"}, {"W": 0.5}, 1.25)
    assert (structured.cycles, structured.multiplications) == (0.5, 0.5)  # a pattern is balanced
    assert shares({"W": pattern}, {"W": "skip"}, {"W": 0.9}).cycles == 1.0


def test_composable_units() -> None:
    rate = bits.macs_per_cycle
    assert [rate("composable", w, a) for w, a in ((8, 8), (8, 4), (4, 4), (8, 2), (4, 2), (2, 2), (16, 16))] == [
        1, 2, 4, 4, 8, 16, 0.25]  # fmt: skip
    assert rate("serial_w", 2, 8) == 4 and rate("serial", 2, 4) == 8 and rate("fixed", 2, 2) == 1
    with pytest.raises(ValueError, match="wider"):
        rate("fixed", 16, 8)


def test_energies_of_the_design() -> None:
    energy = bits.mac_energy
    assert [energy("serial", b, b) for b in (2, 4, 8, 16)] == pytest.approx([0.063, 0.136, 0.344, 1.085])
    assert energy("composable", 8, 8) == pytest.approx(0.689) and energy("composable", 2, 2) == pytest.approx(
        0.043, abs=1e-3
    )
    assert energy("fixed", 2, 2) == pytest.approx(0.344)
    assert energy("fixed", 16, 16, floating=True) == pytest.approx(1.5)


@given(st.sampled_from(bits.KINDS), st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
def test_narrower_is_never_slower_or_dearer(kind: str, w: int, a: int, v: int, b: int) -> None:
    narrow, wide = (min(w, v), min(a, b)), (max(w, v), max(a, b))
    assert bits.macs_per_cycle(kind, *narrow) >= bits.macs_per_cycle(kind, *wide)
    assert bits.mac_energy(kind, *narrow) <= bits.mac_energy(kind, *wide) + 1e-12


@pytest.mark.parametrize("text", ["zip", "rlc", "rlc:x", "nm:2", "nm:0:4", "nm:5:4", "rlc:40", "csr:2", ""])
def test_wrong_formats(text: str) -> None:
    with pytest.raises(ValueError, match=r"format|written|between|counted"):
        parse_format(text)
