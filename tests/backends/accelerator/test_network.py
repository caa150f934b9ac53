"""Whole quantised networks as programs: bit for bit what the integer interpreter computes, on real inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.backends.accelerator.execute import emitted
from intaglio.ir import evaluate

from ...zoo.models import MODELS, Model
from .hardware import finder, systolic

SMALL = ("resnet8_cifar10", "dscnn_kws", "ad01_autoencoder")
LARGE = ("resnet20_cifar10", "resnet56_cifar10", "mobilenet_v1_075_224", "squeezenet1_1", "efficientnet_lite0")


def models(names: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(m, id=m.name, marks=pytest.mark.skipif(bool(m.missing), reason=m.missing))
        for m in MODELS
        if m.name in names
    ]


def check(model: Model, count: int, bits: int = 8) -> None:
    data = model.data()
    passes = f"freeze{{N=1}},quantize{{weights={bits}}},integer,fold,dce"
    batches = [dict(data.batch(i, i + 1)) for i in range(4)]
    integer = intaglio.optimize(intaglio.load(model.proto()), passes, calibration=batches).main
    machine = systolic()
    executable = emitted(integer, machine, finder(machine))
    assert [p is not None for p in executable.programs] == [False, True, False], "one program for all layers"
    for i in range(100, 100 + count):
        inputs = [data.batch(i, i + 1)[v.name] for v in integer.inputs]
        for mine, theirs in zip(executable.run(inputs), evaluate(integer, inputs), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("model", models(SMALL))
def test_small_networks_are_bit_exact(model: Model) -> None:
    check(model, 2)


@pytest.mark.parametrize("model", models(("resnet8_cifar10",)))
def test_four_bit_weights_are_bit_exact(model: Model) -> None:
    check(model, 1, bits=4)


@pytest.mark.deep
@pytest.mark.parametrize("model", models(LARGE))
def test_large_networks_are_bit_exact(model: Model) -> None:
    check(model, 2)
