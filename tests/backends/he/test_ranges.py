"""Values are scaled to fit, from samples; what cannot be made to fit is refused when it is compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.backends.he.gate import bootstrapped
from intaglio.backends.he.levels import place
from intaglio.backends.he.network import Network
from intaglio.backends.he.ranges import BOOTSTRAPPED, HELD, held, largest, scaled, spread
from intaglio.backends.he.reading import read_network
from intaglio.ir import IntaglioError, evaluate
from intaglio.ir.graph import Graph, Module

from . import models

DEGREES = {2: (0.05, 0.5, 0.25), 4: (0.05, 0.5, 0.25, 0.02, -0.03)}


def blocks(degree: int = 2, count: int = 4) -> Graph:
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(*DEGREES[degree])
    for _ in range(count):
        b.residual(4, 1, DEGREES[degree])
    return b.dense(10).graph()


def images(count: int, size: float = 1.0) -> Any:
    return np.random.default_rng(0).uniform(0, size, (count, 1, 3, 8, 8)).astype(np.float32)


def meaning(network: Network, sample: Any) -> Any:
    return network.sign * held(network, sample)[network.output] + network.offset


@pytest.mark.parametrize("degree", [2, 4])
def test_a_network_in_the_clear_is_the_model(degree: int) -> None:
    graph, (x,) = blocks(degree, 2), images(1)
    (want,) = evaluate(graph, [x])
    np.testing.assert_allclose(meaning(read_network(graph), x), want[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("size", [1.0, 2.0])
def test_scaled_values_fit_and_mean_the_same(degree: int, size: float) -> None:
    network, samples = read_network(blocks(degree)), images(3, size)
    levels = place(network, 9)
    after = scaled(network, levels, largest(network, samples))
    found = largest(after, samples)
    assert levels.raised
    assert all(found[j] <= BOOTSTRAPPED * 1.0001 for j in levels.raised)
    assert max(found) <= HELD * 1.0001
    for x in samples:
        np.testing.assert_allclose(meaning(after, x), meaning(network, x), rtol=1e-6, atol=1e-9)


def test_what_fits_is_left_alone() -> None:
    network, samples = read_network(blocks(2, 1)), images(2)
    after = scaled(network, place(network), largest(network, samples))
    assert all(
        a.weights is b.weights or np.array_equal(a.weights, b.weights)
        for a, b in zip(after.layers, network.layers, strict=True)
    )
    assert after.sign == network.sign


def test_numbers_in_slots_that_nothing_reads_count() -> None:
    network, samples = read_network(blocks()), images(1)
    levels = place(network, 9)
    sizes = largest(network, samples)
    seen = [BOOTSTRAPPED * (3 if i == 0 else 0.5) for i in range(len(levels.raised))]
    after = spread(network, levels, sizes, seen)
    j = min(levels.raised)
    assert after[j] == pytest.approx(3 * max(sizes[j], BOOTSTRAPPED))
    assert [a for i, a in enumerate(after) if i != j] == [a for i, a in enumerate(sizes) if i != j]


def test_bootstrapped_numbers_are_below_one_in_every_slot() -> None:
    from intaglio.backends.he.compile import compile_graph
    from intaglio.backends.he.gate import check

    samples = images(2, 1.5)
    graph = blocks()
    plain = compile_graph(graph, "lattigo", ring=1 << 16, bootstrap=True)
    assert max(bootstrapped(plain.circuit, plain.interface, samples[0])) > 1
    made = compile_graph(graph, "lattigo", ring=1 << 16, bootstrap=True, samples=samples)
    assert max(bootstrapped(made.circuit, made.interface, samples[0])) <= 1.05 * BOOTSTRAPPED
    assert check(made.circuit, made.interface, samples[:1], bits=6).room >= 1.5
    assert made.counted == plain.counted  # scaling is free


def test_polynomials_that_explode_are_refused() -> None:
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1)
    for _ in range(6):
        b.poly(0.0, 1.0, 5.0).conv(4, 3, 1, 1)
    network = read_network(b.dense(10).graph())
    with pytest.raises(IntaglioError, match="explode") as caught:
        largest(network, images(1, 20.0))
    assert caught.value.diagnostics[0].code == "IG0551"


def test_the_gate_asks_when_a_model_is_compiled() -> None:
    """IG0551 from `intaglio.compile` with calibration data; without any, or with bits=0, nothing is asked."""
    module = Module("m", {"main": models.small(2)})
    data = {"x": images(2)[:, 0]}
    target = "he:engine=sim,security=0,ring=4096"
    compiled = intaglio.compile(module, target, calibration=data)
    x = data["x"][:1]
    np.testing.assert_allclose(compiled(x), evaluate(module.main, [x])[0], atol=1e-3)
    with pytest.raises(IntaglioError, match="bits of the output are right") as caught:
        intaglio.compile(module, target + ",bits=40", calibration=data)
    assert caught.value.diagnostics[0].code == "IG0551"
    intaglio.compile(module, target + ",bits=40")
    intaglio.compile(module, target + ",bits=0", calibration=data)


def test_the_result_of_a_layer_in_a_sum_is_held_as_a_part_of_it() -> None:
    """Weights take up the factor of the sum that reads them, so that factor counts for what is bootstrapped."""
    network = read_network(blocks(2, 2))
    i = next(i for i, one in enumerate(network.layers) if one.kind == "sum")
    layers = list(network.layers)
    layers[i] = replace(layers[i], factors=tuple(4.0 * f for f in layers[i].factors))
    wide = Network(layers, network.output, network.sign, network.offset)
    levels = place(wide, 9)
    after = scaled(wide, levels, largest(wide, images(1)))
    assert largest(after, images(1))[i] <= HELD * 1.0001
