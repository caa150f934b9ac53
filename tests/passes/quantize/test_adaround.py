"""Learned rounding: segments, their nodes in torch, and whether learning helps."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest

from intaglio.ir import Editor, Graph, IntaglioError, Tensor
from intaglio.ir.types import Float
from intaglio.passes.canonicalize import canonicalize
from intaglio.passes.definition import Context
from intaglio.passes.quantize.adaround import learned
from intaglio.passes.quantize.evaluate import evaluate, run
from intaglio.passes.quantize.plan import make_plan
from intaglio.passes.quantize.quantize import quantize
from intaglio.passes.quantize.segments import compute, segments
from intaglio.passes.quantize.settings import Quantize
from intaglio.passes.quantize.sweep import sweep

torch = pytest.importorskip("torch")


def test_segments_join_up_to_the_network(network: Graph, batches: Any) -> None:
    """Each begins where the one before ends; one after the other they compute the output."""
    graph = canonicalize(network)
    found = segments(graph, make_plan(graph), layers=1)
    assert len(found) == 3  # the stem, the residual block, the head
    assert found[0].source is graph.inputs[0] and found[-1].target is graph.outputs[0]
    assert all(a.target is b.source for a, b in itertools.pairwise(found))
    constants = {n.output: n.constant.array for n in graph.nodes if n.constant is not None}
    x = batches[0]["x"]
    y = x
    for segment in found:
        y = compute(segment, {**constants, segment.source: y}, {"N": len(x)})
    np.testing.assert_allclose(y, evaluate(graph, [x])[0], rtol=1e-5)


def test_no_segments_with_two_inputs() -> None:
    e = Editor(name="main")
    a, b = (e.input(name, Tensor((2, 3), Float("f32"))) for name in "ab")
    e.output(e.emit("math.add", a, b), "y")
    graph = e.freeze()
    assert segments(graph, make_plan(graph)) == []


def cases() -> list[tuple[str, dict[str, Any], list[tuple[int, ...]]]]:
    image = (2, 4, 6, 6)
    return [
        ("nn.conv", {"pads": (0, 0, 1, 1), "strides": (2, 2)}, [image, (6, 4, 3, 3)]),
        ("nn.conv", {"g": 4, "pads": (1, 1, 1, 1), "dilations": (2, 2)}, [image, (4, 1, 2, 2), (4,)]),
        ("nn.max_pool", {"kernel": (2, 2), "strides": (2, 2)}, [image]),
        ("nn.avg_pool", {"kernel": (3, 3)}, [image]),
        ("nn.matmul", {}, [(2, 5), (5, 3)]),
        ("nn.softmax", {"axis": 1}, [(2, 5)]),
        ("math.minimum", {}, [image, (1,)]),
        ("math.reduce_mean", {"axes": (2, 3), "keepdims": False}, [image]),
        ("shape.slice", {"starts": (1,), "stops": (2147483647,), "axes": (2,), "steps": (2,)}, [image]),
        ("shape.pad", {"pads": (0, 1, 0, 0, 0, 2, 0, 0)}, [image]),
        ("shape.concat", {"axis": 1}, [image, image]),
        ("shape.reshape", {"shape": (2, 144)}, [image]),
        ("shape.transpose", {"perm": (0, 2, 3, 1)}, [image]),
        ("shape.unsqueeze", {"axes": (1,)}, [(2, 3)]),
    ]


@pytest.mark.parametrize(("op", "attrs", "shapes"), cases(), ids=lambda c: c if isinstance(c, str) else "")
def test_nodes_in_torch(op: str, attrs: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    from intaglio.passes.quantize.torch_ops import apply, supported

    rng = np.random.default_rng(0)
    e = Editor(name="main")
    values = [e.input(f"x{i}", Tensor(s, Float("f32"))) for i, s in enumerate(shapes)]
    e.output(e.emit(op, *values, **attrs), "y")
    node = e.freeze().nodes[-1]
    assert supported(node)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    want = run(node, list(arrays), {})[0]
    np.testing.assert_allclose(apply(node, [torch.from_numpy(a) for a in arrays]).numpy(), want, rtol=1e-4, atol=1e-5)


def test_learning_beats_rounding() -> None:
    """Where inputs are correlated, errors of weights can cancel; rounding to the nearest does not know that."""
    rng = np.random.default_rng(0)
    mix, data = rng.standard_normal((12, 12)), rng.standard_normal((512, 12))
    x = (data @ mix).astype(np.float32)
    e = Editor(name="main")
    v = e.input("x", Tensor((512, 12), Float("f32")))
    w = rng.standard_normal((12, 6)).astype(np.float32)
    e.output(e.emit("nn.matmul", v, e.constant(w, "w")), "y")
    graph = e.freeze()
    plan, options = make_plan(graph), Quantize(weights=3, activations="float", bias=False, steps=400)
    formats = dict.fromkeys(plan.layers, 3)
    found = sweep(graph, plan, options, formats, [{"x": x}])  # type: ignore[arg-type]
    made = learned(graph, plan, options, found, [{"x": x}])
    (node,) = plan.layers
    before, after = found.weights[node], made[node]
    assert after.elem is before.elem
    assert np.abs(after.codes.astype(int) - before.codes.astype(int)).max() == 1
    assert np.linalg.norm(x @ (after.real - w)) < 0.8 * np.linalg.norm(x @ (before.real - w))


@pytest.mark.parametrize("weights", [3, 2])
def test_whole_networks(network: Graph, batches: Any, weights: int) -> None:
    x = batches[0]["x"]
    want = evaluate(network, [x])[0]
    made = quantize(network, Context(calibration=batches), weights=weights, edges=2, method="adaround", steps=30)
    assert np.linalg.norm(evaluate(made, [x])[0] - want) / np.linalg.norm(want) < 0.3
    elems = [n.output.type.elem for n in made.nodes if n.constant is not None and n.constant.name == "pw"]
    assert [e.store.bits for e in elems] == [4 if weights == 3 else 2]


def test_without_torch(network: Graph, batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(IntaglioError) as e:
        quantize(network, Context(calibration=batches), method="adaround")
    assert e.value.diagnostics[0].code == "IG0437"
