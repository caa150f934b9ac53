"""Calibration data that are refused, or that a note warns of; and what a budget that is not met says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.compiler.calibration import as_batches, fit
from intaglio.ir import Graph, IntaglioError, Module
from intaglio.passes.quantize.check import check_calibration

from .conftest import images

MODULE_DIMS = {"N": (1, None)}


def complaint(call: Any) -> Any:
    with pytest.raises(IntaglioError) as e:
        call()
    return e.value.diagnostics[0]


def test_channels_last(network: Graph) -> None:
    found = complaint(lambda: fit(as_batches({"x": images(4).transpose(0, 2, 3, 1)}, network), network))
    assert found.code == "IG0409"
    assert "x.transpose(0, 3, 1, 2)" in found.hint


def test_names(network: Graph) -> None:
    found = complaint(lambda: as_batches({"image": images(4)}, network))
    assert found.code == "IG0409"
    assert "x" in found.hint


@pytest.mark.parametrize(("count", "good"), [(4, True), (8, True), (3, False), (5, False)])
def test_labels(network: Graph, count: int, good: bool) -> None:
    data = {"x": images(4), "labels": np.zeros(count, np.int64)}
    if good:
        assert len(as_batches(data, network)) == 1
        return
    found = complaint(lambda: as_batches(data, network))
    assert found.code == "IG0409"
    assert f"{count} labels for 4 samples" in found.message


def test_constant_channel(network: Graph) -> None:
    x = images(32)
    assert not check_calibration(network, [{"x": x}])
    x[:, 1] = 7
    (note,) = check_calibration(network, [{"x": x[:16]}, {"x": x[16:]}])
    assert note.startswith("channel 1 of input `x` is 7 in all calibration data")
    x[16:, 1] = 8
    assert not check_calibration(network, [{"x": x[:16]}, {"x": x[16:]}])


def test_few_samples(network: Graph) -> None:
    assert check_calibration(network, [{"x": images(1)}]) == ["calibrated on 1 sample: some hundreds are usual"]


def test_a_budget_names_layers(network: Graph) -> None:
    pytest.importorskip("tvm")
    module = Module("m", {"main": network}, MODULE_DIMS)
    pipeline = "quantize{weights=2,edges=2,cache=false}"
    call = lambda: intaglio.compile(module, "cpu", pipeline, calibration=images(32), budget="rel_l2<=0.001")  # noqa: E731
    found = complaint(call)
    assert found.code == "IG0408"
    assert "keep=[" in found.hint
    layers = found.hint.partition("keep=[")[2].partition("]")[0].split(", ")
    kept = ",".join(layers)
    better = intaglio.compile(
        module, "cpu", f"quantize{{weights=2,edges=2,keep=[{kept}],cache=false}}", calibration=images(32)
    )
    assert better.ledger.measured["rel_l2"] < 0.1
