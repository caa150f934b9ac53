"""Losses on much calibration data: steps on the first samples, the whole on all of them, both in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from intaglio.compiler.calibration import PIECE, first, outputs
from intaglio.compiler.pipeline import STEP_SAMPLES, run_pipeline
from intaglio.ir import Editor, Graph, Module, Tensor, dim
from intaglio.passes.definition import Context, define_pass
from intaglio.passes.options import keywords
from intaglio.passes.quantize.evaluate import evaluate
from intaglio.passes.syntax import Step


def network(*shape: Any) -> Graph:
    e = Editor(name="main")
    x = e.input("x", Tensor(shape, "f32"))
    e.output(e.emit("nn.matmul", e.emit("math.relu", x), e.constant(np.eye(4, 3, dtype=np.float32))), "y")
    return e.freeze()


@dataclass(frozen=True)
class Nothing:
    pass


@define_pass("spoil-late", contract="lossy", options=Nothing)
def spoil(graph: Graph, options: Nothing, context: Context) -> Graph:
    """Clip what only late samples reach."""
    e = Editor(graph)
    v = e.outputs[0]
    e.outputs[0] = e.emit("math.minimum", v, e.constant(np.float32(10.0)))
    return e.freeze()


def step(of: Any) -> Step:
    return Step(of, keywords(of.options, {}, owner="test"))


def test_the_whole_is_measured_on_all() -> None:
    x = np.random.default_rng(0).random((STEP_SAMPLES + 500, 4)).astype(np.float32)
    x[STEP_SAMPLES + 7] = 30
    module = Module("m", {"main": network(dim("N"), 4)}, {"N": (1, None)})
    ledger = run_pipeline(module, [step(spoil)], calibration=[{"x": x}]).ledger
    assert ledger.entries[0].measured["max_abs"] == 0
    assert f"measured on the first {STEP_SAMPLES} of {len(x)} samples" in ledger.entries[0].notes
    assert ledger.measured["max_abs"] == 20


def test_few_samples_are_all_used() -> None:
    module = Module("m", {"main": network(dim("N"), 4)}, {"N": (1, None)})
    ledger = run_pipeline(module, [step(spoil)], calibration=[{"x": np.full((8, 4), 30, np.float32)}]).ledger
    assert ledger.entries[0].measured["max_abs"] == ledger.measured["max_abs"] == 20
    assert not ledger.entries[0].notes


@pytest.mark.parametrize("count", [1, PIECE, PIECE + 1, 3 * PIECE])
@pytest.mark.parametrize("shape", [(dim("N"), 4), (dim("N"), dim("N"), 4), (dim("N"), 2, 4)])
def test_pieces_change_nothing(count: int, shape: Any) -> None:
    sizes = [d if isinstance(d, int) else count for d in shape]
    x = np.random.default_rng(1).standard_normal(sizes).astype(np.float32)
    graph = network(*shape)
    np.testing.assert_array_equal(outputs(graph, [{"x": x}])[0], evaluate(graph, [x])[0])


def test_first() -> None:
    graph = network(dim("N"), 4)
    batches = [{"x": np.zeros((6, 4)), "labels": np.zeros(6)} for _ in range(3)]
    found = first(batches, graph, 8)
    assert [len(b["x"]) for b in found] == [len(b["labels"]) for b in found] == [6, 2]
    assert [len(b["x"]) for b in first(batches, network(6, 4), 8)] == [6, 6]
