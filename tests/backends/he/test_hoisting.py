"""Rotations of a layer in one call: the same results, a key for each."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.backends.he import noise, predict
from intaglio.backends.he.circuit import hoisted_of, layer_of
from intaglio.backends.he.compile import compile_graph
from intaglio.backends.he.counting import check_keys, count
from intaglio.backends.he.engines import lattigo
from intaglio.backends.he.hoisting import hoisted, split
from intaglio.ir import Graph, IntaglioError, evaluate
from intaglio.ir.packing import Packing

from . import models
from .test_compile import image, run


def graph() -> Graph:
    return models.Builder((2, 8, 8)).conv(4, 3, 1, 1).square().dense(24).square().dense(10).graph()


def test_diagonals_by_their_offsets_are_the_layer() -> None:
    c = compile_graph(models.mlp(), "sim", ring=1 << 12, insecure=True, hoist=True)
    nodes = [n for n in c.circuit.graph.nodes if n.op.name == "he.linear" and n.attr("hoist")]
    assert len(nodes) >= 2
    x = np.random.default_rng(0).normal(size=1 << 11)
    for node in nodes:
        plan, found, weights = layer_of(c.circuit, node)
        layer = hoisted(plan, found, weights)
        assert set(layer) == {(g + b) % (1 << 11) for g, babies in layer.steps.items() for b in babies}
        x = Packing.parse(node.inputs[0].type.packing).pack(np.random.default_rng(1).normal(size=layer_size(node)))
        total = sum(layer[d] * np.roll(x, -d) for d in layer)
        for fold in plan.folds:
            total = total + np.roll(total, -fold)
        target = Packing.parse(node.attr("target"))
        bias = node.inputs[2].node.constant.array if len(node.inputs) > 2 else 0.0
        (want,) = (node.op.function(x, weights, None, **{**node.attrs, "_types": ([node.inputs[0].type], [])}),)
        np.testing.assert_allclose(target.unpack(total) + bias, target.unpack(want) + bias, atol=1e-9)


def layer_size(node: object) -> int:
    return Packing.parse(node.inputs[0].type.packing).size  # type: ignore[attr-defined]


def test_offsets_are_split_as_lattigo_splits_them() -> None:
    """Counts of its keys, for offsets of a dense layer and of a convolution of LeNet."""
    dense = [16 * b + 256 * g for b in range(16) for g in range(16)]
    conv = [a * 256 + b + g * 1024 + h * 16 for a in range(4) for b in range(6) for g in range(4) for h in range(6)]
    from intaglio.backends.he.hoisting import _below

    assert (_below(dense, 8192), _below(conv, 8192)) == (256, 256)
    steps = split(conv, 256)
    assert len(steps) == 16 and {len(babies) for babies in steps.values()} == {36}


@pytest.mark.parametrize("engine", ["sim", "lattigo"])
def test_hoisted_layers_give_the_same_result(engine: str) -> None:
    if engine == "lattigo":
        try:
            lattigo.library_path()
        except IntaglioError:
            pytest.skip("engine lattigo is not installed")
    one, other = (
        compile_graph(graph(), engine, ring=1 << 12, scale=40, insecure=True, hoist=hoist) for hoist in (False, True)
    )
    assert len(other.keys) > len(one.keys)
    check_keys(other.circuit, other.keys)
    x = image((2, 8, 8))
    (want,) = evaluate(graph(), [x])
    got, sealed = run(other, x, engine)
    if engine == "lattigo":
        _, sealed = run(other, x, "sim")
    size = np.abs(want).max()
    np.testing.assert_allclose(got, want, atol=2e-6 * size + noise.bound(sealed.variance))
    again, _ = run(other, x, engine)  # on another engine: what the first had encoded is gone
    np.testing.assert_allclose(again, want, atol=2e-6 * size + noise.bound(sealed.variance))


def test_a_hoisted_rotation_costs_less() -> None:
    one, other = (compile_graph(models.lenet(), "lattigo", hoist=hoist) for hoist in (False, True))
    told = [predict.seconds(count(c.circuit), c.parameters, "lattigo").total for c in (one, other)]
    assert told[1] < 0.7 * told[0]
    assert count(other.circuit).total("mul_plain") == count(one.circuit).total("mul_plain")
    nodes = [n for n in other.circuit.graph.nodes if n.op.name == "he.linear" and n.attr("hoist")]
    rotations = sum(len(h.babies) + len(h.giants) for h in (hoisted_of(other.circuit, n) for n in nodes))
    folds = sum(len(n.attr("folds")) for n in other.circuit.graph.nodes if n.op.name == "he.linear")
    assert count(other.circuit).total("rotate") == rotations + folds


def test_seal_does_not_hoist() -> None:
    with pytest.raises(IntaglioError, match="does not hoist") as caught:
        compile_graph(graph(), "seal", hoist=True)
    assert caught.value.diagnostics[0].code == "IG0563"
