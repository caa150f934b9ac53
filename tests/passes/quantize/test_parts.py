"""The parts of quantization, each against what it claims: histograms, ranges, formats, the evaluator, GPTQ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from intaglio.ir import Editor, Graph, Tensor
from intaglio.ir.constants import Constant
from intaglio.ir.interpret import evaluate as interpret
from intaglio.ir.ops.quant import dequantized
from intaglio.ir.types import Affine, Float
from intaglio.passes.quantize.evaluate import evaluate
from intaglio.passes.quantize.formats import format_of, search_scale
from intaglio.passes.quantize.gptq import Moments, corrected, gptq
from intaglio.passes.quantize.histogram import BINS, Histogram
from intaglio.passes.quantize.ranges import affine, choose
from intaglio.passes.quantize.sweep import encoded

F32 = Float("f32")
floats = st.floats(-1e6, 1e6, width=32)


# --- histograms -------------------------------------------------------------------------------------------------------


@given(st.lists(arrays(np.float32, st.integers(1, 20), elements=floats), min_size=1, max_size=6), st.randoms())
def test_histogram_does_not_depend_on_the_order(parts: list[Any], shuffled: Any) -> None:
    whole, pieces, merged = Histogram(), Histogram(), Histogram()
    whole.update(np.concatenate(parts))
    shuffled.shuffle(parts)
    for part in parts:
        pieces.update(part)
        one = Histogram()
        one.update(part)
        merged.merge(one)
    everything = np.concatenate(parts)
    for h in (whole, pieces, merged):
        assert (h.low, h.high, h.total) == (everything.min(), everything.max(), everything.size)
        assert h.counts.sum() == everything.size
        assert len(h.counts) <= BINS + 2
        at = h.counts > 0
        np.testing.assert_array_equal(h.counts[at], whole.counts[whole.counts > 0])
        np.testing.assert_array_equal(h.values[at], whole.values[whole.counts > 0])


@given(arrays(np.float32, st.integers(2, 200), elements=floats))
def test_histogram_says_where_the_numbers_are(x: Any) -> None:
    h = Histogram()
    h.update(x)
    width = max((h.high - h.low) / (BINS / 2), 1e-6 * max(abs(h.high), abs(h.low)), 1e-35)
    reached = np.repeat(h.values, h.counts)
    assert np.abs(np.sort(x.astype(np.float64)) - np.sort(reached)).max() <= width


def test_histogram_remembers_nan() -> None:
    h = Histogram()
    h.update(np.array([1.0, np.nan, 2.0], np.float32))
    assert not h.finite
    assert (h.low, h.high) == (1, 2)


# --- ranges -----------------------------------------------------------------------------------------------------------


def outliers() -> Any:
    x = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    x[7] = 60
    return x


def squares(x: Any, low: float, high: float, bits: int) -> float:
    return float(np.mean((encoded(x, affine(low, high, bits)) - x) ** 2))


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_better_than_the_others(bits: int, symmetric: bool) -> None:
    x, h = outliers(), Histogram()
    h.update(x)
    errors = {}
    for method in ("minmax", "percentile", "entropy", "mse", "l2.4"):
        low, high = choose(h, method, bits, symmetric)  # type: ignore[arg-type]
        assert low <= 0 <= high
        elem = affine(low, high, bits, symmetric)
        assert not symmetric or (elem.zero == 0 and elem.store.signed)  # type: ignore[union-attr]
        errors[method] = float(np.mean((encoded(x, elem) - x) ** 2))
    assert errors["mse"] <= min(errors.values()) * 1.02
    assert choose(h, "minmax", bits)[1] == 60
    assert choose(h, "percentile", bits)[1] < 10


def test_ranges_of_rectified_activations_start_at_zero() -> None:
    h = Histogram()
    h.update(np.maximum(outliers(), 0))
    for method in ("minmax", "percentile", "entropy", "mse", "l2.4"):
        low, high = choose(h, method, 8)  # type: ignore[arg-type]
        assert affine(low, high, 8).zero == 0


@given(st.floats(-1e4, 0), st.floats(0, 1e4), st.sampled_from([8, 4, 2]))
def test_zero_is_exact(low: float, high: float, bits: int) -> None:
    """Padding and rectifiers need a code for 0."""
    elem = affine(low, high, bits)
    assert encoded(np.zeros(1, np.float32), elem)[0] == 0


# --- formats ----------------------------------------------------------------------------------------------------------

NAMES = [8, 6, 5, 4, 3, 2, "ternary", "binary", "pow2", "fp8"]


@pytest.mark.parametrize("name", NAMES)
@given(w=arrays(np.float32, (2, 6), elements=st.floats(-8, 8, width=32)))
def test_codes_mean_what_was_rounded(name: Any, w: Any) -> None:
    """Stored codes, read by the op that defines them, are the rounded numbers; rounding them again changes nothing."""
    form = format_of(name)
    scale = search_scale(w, form, (0, 1))
    real = form.round(w, scale)
    elem = form.elem(float(scale.reshape(-1)[0]))
    stored = form.codes(real, scale)
    assert stored.dtype == elem.dtype
    np.testing.assert_array_equal(dequantized(stored, elem).astype(np.float32), real)
    np.testing.assert_array_equal(form.round(real, scale), real)


@pytest.mark.parametrize("name", NAMES)
def test_searched_scales_are_not_worse_than_full_range(name: Any) -> None:
    w = np.random.default_rng(0).standard_normal((16, 40)).astype(np.float32)
    form = format_of(name)
    found, full = search_scale(w, form, (1,)), search_scale(w, form, (1,), float("inf"))
    loss = [np.sum(np.abs(form.round(w, s) - w) ** 2.4) for s in (found, full)]
    assert loss[0] <= loss[1] * 1.0001


def test_groups_spread_like_the_type_says() -> None:
    form = format_of(4)
    scale = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    elem = form.elem(Constant(scale, "s"), 0, 0, 3)
    assert isinstance(elem, Affine)
    np.testing.assert_array_equal(dequantized(np.ones((5, 2), np.int8), elem)[:, 0], [1, 1, 1, 3, 3])


# --- the evaluator ----------------------------------------------------------------------------------------------------


def test_evaluator_is_the_interpreter_up_to_rounding(network: Graph, batches: Any) -> None:
    x = batches[0]["x"]
    np.testing.assert_allclose(evaluate(network, [x])[0], interpret(network, [x])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"pads": (1, 0, 2, 1)},
        {"strides": (2, 1), "pads": (1, 1, 1, 1)},
        {"dilations": (2, 2)},
    ],
)
def test_convolutions(groups: int, attrs: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((3, 4, 7, 6), F32))
    w = rng.standard_normal((4, 4 // groups, 3, 2)).astype(np.float32)
    e.output(e.emit("nn.conv", x, e.constant(w), e.constant(np.arange(4, dtype=np.float32)), g=groups, **attrs), "y")
    graph, data = e.freeze(), rng.standard_normal((3, 4, 7, 6)).astype(np.float32)
    np.testing.assert_allclose(evaluate(graph, [data])[0], interpret(graph, [data])[0], rtol=1e-4, atol=1e-5)


# --- GPTQ -------------------------------------------------------------------------------------------------------------


def problem(seed: int, groups: int = 1, outputs: int = 6, size: int = 20, count: int = 400) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((groups, size, size)).astype(np.float32)
    return rng.standard_normal((groups, outputs, size)).astype(np.float32), mix @ rng.standard_normal(
        (groups, size, count)
    ).astype(np.float32)


@given(st.integers(0, 10**6), st.sampled_from([(1, 6), (5, 1)]))
def test_gptq_beats_rounding(seed: int, shape: tuple[int, int]) -> None:
    """The error of outputs over the samples, for one matrix and for a batch of depthwise ones."""
    w, x = problem(seed, *shape)
    moments = Moments(len(w), w.shape[2], False)
    moments.update(x)
    rounded = lambda column, index: np.rint(column * 2) / 2  # noqa: E731
    found = gptq(w, moments.damped(), rounded)
    assert np.array_equal(found, np.rint(found * 2) / 2)
    assert np.sum(((found - w) @ x) ** 2) < np.sum(((np.rint(w * 2) / 2 - w) @ x) ** 2)


def test_gptq_leaves_inputs_alone_that_are_never_there() -> None:
    w, x = problem(0)
    x[:, 3] = 0
    moments = Moments(1, w.shape[2], False)
    moments.update(x)
    found = gptq(w, moments.damped(), lambda column, index: np.rint(column * 2) / 2)
    np.testing.assert_array_equal(found[:, :, 3], np.rint(w[:, :, 3] * 2) / 2)


def test_corrected_weights_solve_least_squares() -> None:
    """W* is the best real matrix for inputs that differ from the original's, up to the damping."""
    w, x = problem(1, count=2000)
    seen = x + np.random.default_rng(2).standard_normal(x.shape).astype(np.float32)
    moments = Moments(1, w.shape[2], True)
    moments.update(seen, x)
    best = np.linalg.lstsq(seen[0].T, (w[0] @ x[0]).T, rcond=None)[0].T
    error = lambda m: np.sum((m @ seen[0] - w[0] @ x[0]) ** 2)  # noqa: E731
    assert error(corrected(w, moments)[0]) < 1.1 * error(best) < error(w[0])
