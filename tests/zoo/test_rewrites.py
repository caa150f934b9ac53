"""`canonicalize,cleanup` on real models: the outputs stay what they are, and few nodes are left (docs/passes.md)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.ir import Graph, evaluate, verify
from intaglio.ir.interpret import check_inputs
from intaglio.passes import PASSES
from intaglio.passes.definition import Context

from .counts import PIPELINE, Row, optimised, read, row
from .models import MODELS, Model

REAL = 2e-5  # the contract of the pipeline is `real`: what rounding may do to an output, as a part of its magnitude
ALL = PIPELINE + (",fuse" if "fuse" in PASSES else "")

every_model = pytest.mark.parametrize(
    "model",
    [pytest.param(m, id=m.name, marks=pytest.mark.skipif(bool(m.missing), reason=m.missing)) for m in MODELS],
)


@cache
def counted(model: Model) -> Row:
    pytest.importorskip("onnxruntime")
    return row(model)


@every_model
def test_outputs_stay_within_the_contract(model: Model) -> None:
    module = intaglio.load(model.proto())
    context = Context(dims=module.dims)
    after = optimised(module.main, ALL, context)
    verify(after)
    inputs = model.data().batch(0, 1)
    for x, y in zip(outputs(module.main, inputs), outputs(after, inputs), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert float(np.abs(x - y).max()) <= REAL * float(np.abs(x).max())


def outputs(graph: Graph, inputs: Any) -> tuple[Any, ...]:
    return evaluate(graph, check_inputs([(v.name, v.type) for v in graph.inputs], inputs))


@every_model
def test_no_more_nodes_than_others_leave(model: Model) -> None:
    found = counted(model)
    assert found.ours <= found.imported
    assert found.explained(), found
    assert found.reason or (found.fused or found.ours) <= found.extended


@every_model
def test_the_page_has_these_counts(model: Model) -> None:
    cells = read()[model.name]
    found = counted(model)
    assert cells[f"`{PIPELINE}`"] == str(found.ours)
    assert cells["imported"] == str(found.imported)
    assert cells["ONNX"] == str(found.onnx)
