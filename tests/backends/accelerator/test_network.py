"""Whole quantised networks as programs: bit for bit what the integer interpreter computes, on real inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.backends.accelerator.execute import emitted
from intaglio.backends.accelerator.formats import parse_format
from intaglio.ir import evaluate
from intaglio.ir.text import parse_graph

from ...zoo.models import MODELS, Model
from .hardware import finder, systolic

GRAPH = """
graph @main(%x: u8[1, 16, 12, 12]) -> (y: u8[1, 24, 12, 12]) {
  %w = const i8[24, 16, 3, 3]
  %m = const 1500000000 : i32[]
  %s = const 42 : i32[]
  %0 = quant.conv(%x, %w) {pads = [1, 1, 1, 1], zero = 100} : i32[1, 24, 12, 12]
  %y = quant.requantize(%0, %m, %s) {to = u8, zero = 120} : u8[1, 24, 12, 12]
  return %y
}
"""
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


@pytest.mark.parametrize("form", ["bitmask", "rlc:4", "nm:2:4"])
def test_sparse_weights_are_stored_compressed_and_bit_exact(form: str) -> None:
    """Half of the weights are zeros, two of every four channels; the stream is smaller and the result the same."""
    rng = np.random.default_rng(3)
    w = rng.integers(-127, 128, (24, 16, 3, 3)).astype(np.int8)
    order = np.argsort(rng.random((24, 4, 4, 3, 3)), axis=2)
    w[(order < 2).reshape(w.shape)] = 0
    machine = systolic()
    text = GRAPH.replace("%w = const", f"%w = const {[int(v) for v in w.reshape(-1)]} :")
    graph = parse_graph(text)
    dense, packed = (emitted(graph, machine, finder(machine), parse_format(f)) for f in ("dense", form))
    x = rng.integers(0, 256, (1, 16, 12, 12)).astype(np.uint8)
    (expected,) = evaluate(graph, [x])
    for executable in (dense, packed):
        np.testing.assert_array_equal(executable.run([x])[0], expected)
    sizes = [len(p.constants) for e in (dense, packed) for p in e.programs if p is not None]
    assert sizes[1] < 0.8 * sizes[0]
