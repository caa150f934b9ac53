"""The ledger: claims add up, budgets are kept, and JSON brings everything back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.compiler.calibration import as_batches, compare, fit
from intaglio.compiler.ledger import METRICS, Budget, Entry, Ledger
from intaglio.ir import Editor, Graph, IntaglioError, Tensor, dim
from intaglio.passes.definition import CONTRACTS

LOSSES = st.dictionaries(st.sampled_from(list(METRICS)), st.floats(0, allow_nan=False), max_size=3)
ENTRIES = st.builds(
    Entry, st.text(), st.sampled_from(CONTRACTS), LOSSES, LOSSES, st.lists(st.text(), max_size=2).map(tuple)
)
BUDGETS = st.builds(Budget, st.sampled_from(list(METRICS)), st.floats(0, 1e6))
LEDGERS = st.builds(Ledger, st.lists(ENTRIES, max_size=4).map(tuple), LOSSES, st.none() | BUDGETS)


@given(LEDGERS)
def test_json_round_trip(ledger: Ledger) -> None:
    text = json.dumps(ledger.to_json(), allow_nan=False)
    assert Ledger.from_json(json.loads(text)) == ledger
    assert str(ledger)


@given(BUDGETS)
def test_budgets_are_read_as_they_are_shown(budget: Budget) -> None:
    shown = Budget.parse(str(budget))
    assert shown.metric == budget.metric
    assert math.isclose(shown.loss, budget.loss, rel_tol=1e-5)


@given(st.text(alphabet="top1<=0.5 e-xrel_l2") | st.text())
def test_anything_is_a_budget_or_explained(text: str) -> None:
    try:
        Budget.parse(text)
    except IntaglioError as e:
        assert e.diagnostics[0].code == "IG0407"


@pytest.mark.parametrize("loss", [-1, math.inf, math.nan, "0.1"])
def test_budgets_are_numbers(loss: object) -> None:
    with pytest.raises(IntaglioError, match="IG0407"):
        Budget("top1", loss)  # type: ignore[arg-type]


def test_claims_compose() -> None:
    ledger = Ledger(
        (
            Entry("a", "lossy", {"top1": 0.01}),
            Entry("b", "exact"),
            Entry("c", "bounded", {"top1": 0.02, "max_abs": 1.0}),
        )
    )
    assert ledger.claimed == {"top1": 0.03, "max_abs": 1.0}
    assert ledger.contract == "lossy"
    assert Ledger().contract == "exact"


def test_measured_beats_claimed() -> None:
    entry = Entry("a", "lossy", {"top1": 0.5})
    Ledger((entry,), {"top1": 0.0}, Budget("top1", 0.01)).check()
    with pytest.raises(IntaglioError, match=r"claimed top1 = 0\.5"):
        Ledger((entry,), {}, Budget("top1", 0.01)).check()
    with pytest.raises(IntaglioError, match=r"measured top1 = 0\.2"):
        Ledger((entry,), {"top1": 0.2}, Budget("top1", 0.01)).check()
    with pytest.raises(IntaglioError, match="IG0408"):
        Ledger((entry,), {"top1": math.nan}, Budget("top1", 0.01)).check()
    Ledger((Entry("a", "exact"),), {}, Budget("top1", 0.0)).check()


@pytest.mark.parametrize(
    ("step", "measured", "budget", "said"),
    [
        ("quantize", {}, Budget("top1", 0.01), "`quantize{loss=0.05}`"),
        ("quantize{weights=2}", {"rel_l2": 0.5}, Budget("top1", 0.01), "`quantize{weights=2,loss=0.25}`"),
        ("quantize{weights=2}", {"rel_l2": 0.5}, Budget("rel_l2", 0.125), "`quantize{weights=2,loss=0.125}`"),
        ("polynomial", {}, Budget("top1", 0.01), None),
    ],
)
def test_quantization_over_budget_is_told_what_to_do(
    step: str, measured: dict[str, float], budget: Budget, said: str | None
) -> None:
    with pytest.raises(IntaglioError) as e:
        Ledger((Entry(step, "lossy", {}, measured),), {budget.metric: 1.0}, budget).check()
    (found,) = e.value.diagnostics
    assert found.code == "IG0408"
    assert (said in found.hint and "keep=[" in found.hint) if said else not found.hint


# --- calibration ----------------------------------------------------------------------------------------------------


def graph(rows: int | None) -> Graph:
    e = Editor()
    e.output(e.input("x", Tensor((dim("N") if rows is None else rows, 2), "f32")), "y")
    return e.freeze()


DATA = np.arange(20, dtype=np.float32).reshape(10, 2)


@pytest.mark.parametrize("data", [DATA, {"x": DATA}, [DATA], [(DATA,)], [{"x": DATA}], iter([DATA])], ids=range(6))
def test_data_in_any_form(data: object) -> None:
    (batch,) = as_batches(data, graph(None))
    assert np.array_equal(batch["x"], DATA)


@pytest.mark.parametrize("data", [3, {"y": DATA}, [(DATA, DATA)]])
def test_data_that_do_not_fit(data: object) -> None:
    with pytest.raises(IntaglioError, match="IG0409"):
        as_batches(data, graph(None))


def test_batches_are_cut_to_size() -> None:
    batches = as_batches({"x": DATA, "labels": np.arange(10)}, graph(4))
    first, second = fit(batches, graph(4))  # two rows are left over
    assert np.array_equal(second["x"], DATA[4:8])
    assert len(fit(batches, graph(1))) == 10
    assert len(fit(batches, graph(None))) == 1
    assert first["labels"].tolist() == [0, 1, 2, 3]
    with pytest.raises(IntaglioError, match="IG0409"):
        fit(batches, graph(11))


def test_losses() -> None:
    a = np.array([[1.0, 2.0], [4.0, 3.0]])
    b = np.array([[2.0, 1.0], [4.0, 3.0]])
    assert compare([a], [a]) == {"top1": 0.0, "max_abs": 0.0, "rel_l2": 0.0}
    found = compare([a], [b])
    assert found["top1"] == 0.5
    assert found["max_abs"] == 1.0
    assert compare([a], [b], np.array([0, 0]))["top1"] == -0.5, "more right answers than before"
    nan = np.array([[np.nan, np.inf]])
    assert compare([nan], [nan])["max_abs"] == 0.0
    assert compare([nan], [np.zeros((1, 2))]) == {"top1": 0.0, "max_abs": math.inf, "rel_l2": math.inf}
    assert compare([a], [np.full((2, 2), np.nan)])["rel_l2"] == math.inf
