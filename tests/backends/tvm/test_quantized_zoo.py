"""The quantised zoo, deployed: interpreter and CPU agree bit for bit on real inputs, and with what was simulated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import intaglio
from intaglio.compiler.api import Compiled
from intaglio.compiler.api import compile as compile_model
from intaglio.ir import Graph, Module, evaluate

from ...passes.qdq import quantised
from ...zoo.models import MODELS, Model

SMALL = ("resnet8_cifar10", "dscnn_kws", "ad01_autoencoder")
LARGE = ("resnet20_cifar10", "resnet56_cifar10", "mobilenet_v1_075_224", "squeezenet1_1", "efficientnet_lite0")
CALIBRATION = 8
INPUTS = {"default": 4, "deep": 100}
AGREEMENT = 0.97
"""Of the chosen classes with those of the simulated network: two roundings of a near tie may differ."""


def models(names: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(m, id=m.name, marks=pytest.mark.skipif(bool(m.missing), reason=m.missing))
        for m in MODELS
        if m.name in names
    ]


def deployed(model: Model) -> tuple[Graph, Compiled]:
    """The simulated network, and its program."""
    module = intaglio.optimize(intaglio.load(model.proto()), "freeze{N=1},canonicalize,fold")
    data = model.data()
    batches = [dict(data.batch(i, i + 1)) for i in range(CALIBRATION)]
    graph = quantised(module.main, batches)
    return graph, compile_model(Module(model.name, {"main": graph}, {}), "cpu", threads=1)


def check(model: Model, count: int) -> None:
    simulated, compiled = deployed(model)
    assert all(not n.op.name.startswith("nn.") or n.op.name == "nn.max_pool" for n in inner(compiled.module.main))
    data = model.data()
    chosen = []
    for i in range(count):
        row = (200 + i) % data.count
        (x,) = data.batch(row, row + 1).values()
        (want,) = evaluate(compiled.module.main, [x])
        (got,) = compiled.program.run([x])
        np.testing.assert_array_equal(got, want)
        chosen.append((got.argmax(), evaluate(simulated, [x])[0].argmax()))
    if model.score is not None:
        assert np.mean([a == b for a, b in chosen]) >= AGREEMENT


def inner(graph: Graph) -> list[Any]:
    """The nodes, those in fused kernels too."""
    return [n for node in graph.nodes for n in (node.attrs["body"].nodes if "body" in node.attrs else (node,))]


@pytest.mark.parametrize("model", models(SMALL))
def test_small_models(model: Model) -> None:
    check(model, INPUTS["default"])


@pytest.mark.deep
@pytest.mark.parametrize("model", models(SMALL + LARGE))
def test_zoo(model: Model) -> None:
    check(model, INPUTS["deep"])
