"""Activations that are dropped: the cheapest ones, as few as do, each as the line closest to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.backends.he.compile import compile_graph
from intaglio.backends.he.levels import place
from intaglio.backends.he.reading import read_network
from intaglio.ir import Graph, IntaglioError, evaluate, verify
from intaglio.passes import find
from intaglio.passes.definition import Context
from intaglio.passes.shrink import levels

from ..backends.he.models import Builder
from ..zoo import data

shrink = find("shrink")


def residual(blocks: int) -> Graph:
    b = Builder((3, 8, 8)).conv(4, 3, 1, 1)
    b.x = b.g.emit("math.relu", b.x)
    for _ in range(blocks):
        start = b.x
        b.conv(4, 3, 1, 1)
        b.x = b.g.emit("math.relu", b.x)
        b.conv(4, 3, 1, 1)
        b.x = b.g.emit("math.relu", b.g.emit("math.add", b.x, start))
    return b.dense(10).graph()


def samples(count: int = 8) -> Any:
    return np.random.default_rng(1).normal(size=(count, 3, 8, 8)).astype(np.float32)


def context() -> Context:
    return Context(calibration=[{"x": samples()}])


def rectifiers(graph: Graph) -> int:
    return sum(node.op.name == "math.relu" for node in graph.nodes)


def encrypted_levels(graph: Graph) -> int:
    """That the backend takes, with polynomials of degree 2 for what is left."""
    found = find("polynomial")(graph, range=4.0)
    return place(read_network(find("fold")(found))).needed


@pytest.mark.parametrize("goal", [11, 9, 8, 7, 5, 3, 1])
def test_a_model_takes_as_many_levels_as_it_may(goal: int) -> None:
    graph = residual(2)
    assert levels(graph, (), 2) == encrypted_levels(graph) == 11
    given = context()
    found = shrink(graph, given, levels=goal)
    assert goal - 1 <= levels(found, (), 2) <= goal
    assert encrypted_levels(found) == levels(found, (), 2)
    assert rectifiers(found) == (goal - 1) // 2  # each takes a level, and a layer's after it
    assert len(given.notes) == (1 + 5 - rectifiers(found) if goal < 11 else 0)


@pytest.mark.parametrize("degree", [4, 8])
def test_polynomials_of_higher_degree_cost_more(degree: int) -> None:
    graph = residual(1)
    cost = {4: 2, 8: 3}[degree]
    assert levels(graph, (), degree) == 4 + 3 * cost
    assert rectifiers(shrink(graph, context(), levels=3 + 2 * cost, degree=degree)) == 2


def test_the_first_to_go_is_the_one_that_matters_least() -> None:
    graph = residual(1)
    (want,) = evaluate(graph, [samples(1)])
    total = np.concatenate([evaluate(graph, [x[None]])[0] for x in samples()])
    losses = {}
    for i, node in enumerate(n for n in graph.nodes if n.op.name == "math.relu"):
        given = Context(calibration=[{"x": samples()}])
        # all but this one are kept by taking their ways out of what is tried
        one = shrink(only(graph, i), given, drop=1)
        now = np.concatenate([evaluate(one, [x[None]])[0] for x in samples()])
        losses[node] = float(((now - total) ** 2).mean() / total.var())
    chosen = shrink(graph, context(), drop=1)
    now = np.concatenate([evaluate(chosen, [x[None]])[0] for x in samples()])
    assert ((now - total) ** 2).mean() / total.var() == pytest.approx(min(losses.values()), rel=1e-3)
    assert want.shape == (1, 10)


def only(graph: Graph, kept: int) -> Graph:
    """The graph with every rectifier but one written as a maximum, which is not dropped."""
    from intaglio.ir import Editor

    editor = Editor(graph)
    found = [n for n in editor.nodes if n.op.name == "math.relu"]
    for i, node in enumerate(found):
        if i != kept:
            zero = editor.constant(np.float32(0))
            editor.replace(node, [editor.emit("math.maximum", node.inputs[0], zero)])
    return editor.freeze()


def test_a_dropped_activation_is_the_closest_line_for_every_channel() -> None:
    b = Builder((3, 8, 8)).conv(4, 3, 1, 1)
    b.x = b.g.emit("math.relu", b.x)
    graph = b.graph()
    found = shrink(graph, context(), drop=1)
    factor, constant = [n.constant.array for n in found.nodes if n.constant is not None][-2:]
    (conv,) = [n for n in graph.nodes if n.op.name == "nn.conv"]
    x = np.concatenate(
        [evaluate(Graph("g", graph.inputs, graph.nodes, conv.outputs), [one[None]])[0] for one in samples()]
    )
    for c in range(4):
        a, k = np.polyfit(x[:, c].ravel(), np.maximum(x[:, c], 0).ravel(), 1)
        np.testing.assert_allclose([factor[c, 0, 0], constant[c, 0, 0]], [a, k], rtol=1e-4)


def test_what_was_dropped_in_vain_comes_back() -> None:
    """Two ways of the same length: an activation of one of them helps nobody before one of the other goes, too."""
    b = Builder((3, 8, 8)).conv(4, 3, 1, 1)
    b.x = start = b.g.emit("math.relu", b.x)
    ways = []
    for _ in range(2):
        b.x = start
        b.conv(4, 3, 1, 1)
        b.x = b.g.emit("math.relu", b.x)
        ways.append(b.conv(4, 3, 1, 1).x)
    b.x = b.g.emit("math.add", *ways)
    graph = b.dense(10).graph()
    assert levels(graph, (), 2) == 5
    found = shrink(graph, context(), levels=3)
    assert levels(found, (), 2) <= 3 and 1 <= rectifiers(found) <= 2


def test_what_cannot_be() -> None:
    graph = residual(1)
    with pytest.raises(IntaglioError, match="nothing to measure on") as caught:
        shrink(graph, Context(), levels=5)
    assert caught.value.diagnostics[0].code == "IG0553"
    with pytest.raises(IntaglioError, match="3 activations can be dropped"):
        shrink(graph, context(), drop=4)
    with pytest.raises(IntaglioError, match="takes 3 levels"):
        b = Builder((1, 4, 4)).dense(4).square()
        b.x = b.g.emit("math.relu", b.x)
        shrink(b.graph(), Context(calibration=[{"x": np.zeros((1, 1, 4, 4), np.float32)}]), levels=1)
    with pytest.raises(IntaglioError, match="say how many"):
        shrink(graph, context())
    assert shrink(graph, Context(), levels=7) is graph


@pytest.mark.deep
def test_resnet20_needs_no_bootstrap() -> None:
    """Verified and secure at N = 2^15 on SEAL, where 39 levels have no room."""
    if data.folder() is None:
        pytest.skip(data.MISSING)
    model = intaglio.load(data.file("models/resnet20_cifar10.onnx"))
    given = Context(calibration=[data.cifar10(True).batch(9000, 9032)])
    assert levels(model.main, (), 2) == 39
    found = shrink(model.main, given, levels=24, samples=32)
    assert levels(found, (), 2) == 23 and rectifiers(found) == 11
    passes = "freeze{N=1},canonicalize,polynomial{degree=2,range=4.0},fold"
    made = compile_graph(intaglio.optimize(model.with_main(found), passes).main, "seal")
    verify(made.circuit.graph)
    assert made.parameters.ring_degree == 1 << 15 and not made.parameters.insecure
    assert made.parameters.max_level == 23 and made.bootstraps == 0
