"""Training in codes: what is trained is what is written, it helps, and it is the same every time."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.ir import Editor, Graph, IntaglioError, Tensor, verify
from intaglio.ir.interpret import evaluate as interpret
from intaglio.ir.types import Affine, Float
from intaglio.passes.canonicalize import canonicalize
from intaglio.passes.definition import Context
from intaglio.passes.integer import integer
from intaglio.passes.quantize.evaluate import evaluate
from intaglio.passes.quantize.lsq import Data, Network, error_of, train
from intaglio.passes.quantize.plan import make_plan
from intaglio.passes.quantize.qat import qat
from intaglio.passes.quantize.quantize import chosen_formats, quantize
from intaglio.passes.quantize.settings import Quantize
from intaglio.passes.quantize.sweep import encoded, sweep
from intaglio.passes.quantize.write import written

torch = pytest.importorskip("torch")


def network_of(graph: Graph, batches: Any, **options: Any) -> tuple[Network, Data]:
    graph = canonicalize(graph)
    plan, chosen = make_plan(graph), Quantize(**options)
    formats = chosen_formats(graph, plan, chosen, Context())
    found = sweep(graph, plan, chosen, formats, batches)
    data = Data((batches[0]["x"],), evaluate(graph, [batches[0]["x"]])[0])
    return Network(graph, plan, found, graph.outputs[0]), data


def simulated(trained: Network, data: Data) -> Any:
    """The network's output in torch, in codes where the graph's is."""
    with torch.no_grad():
        y = trained.run([torch.from_numpy(a) for a in data.inputs]).numpy()
    elem = trained.decisions().points.get(trained.target)
    return y if elem is None else encoded(y, elem)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": 4, "edges": 4},
        {"weights": 8, "per": "tensor", "method": "gptq"},
        {"weights": 3, "activations": 4, "edges": 3},
        {"weights": "ternary", "edges": 2, "activations": "float"},
        {"weights": 4, "edges": 4, "symmetric": False},
        {"weights": 4, "edges": 4, "per": "group", "group": 3, "activations": "float"},
    ],
    ids=str,
)
def test_what_is_trained_is_what_is_written(network: Graph, batches: Any, options: dict[str, Any]) -> None:
    """Before and after some steps; a sum in another order may round one code the other way, and that rarely."""
    trained, data = network_of(network, batches, **options)
    for epochs in (0, 2):
        if epochs:
            train(trained, data, epochs=epochs, batch=16, rate=0.05, distill=1, seed=0)
        made = written(trained.graph, trained.plan, trained.decisions())
        verify(made)
        have, want = interpret(made, [data.inputs[0]])[0], simulated(trained, data)
        point = trained.decisions().points.get(trained.target)
        step = float(point.scale) if point is not None else 0.0  # type: ignore[arg-type]
        assert np.abs(have - want).max() <= 1.01 * step + 1e-4
        assert np.mean(np.abs(have - want) > 1e-4) < 0.05


def test_training_helps(network: Graph, batches: Any) -> None:
    """From scales that are off by a third: what fits the data is found again."""
    trained, data = network_of(network, batches, weights=4, edges=4, activations=8)
    for step in (*trained.steps.values(), *trained.weights.values()):
        with torch.no_grad():
            step.exponent += 0.3
    before = error_of(trained, data, 64)
    train(trained, data, epochs=30, batch=16, rate=0.05, distill=1, seed=0)
    assert error_of(trained, data, 64) < 0.3 * before


def elems(graph: Graph) -> list[Affine]:
    types = [v.type.elem for n in graph.nodes for v in n.outputs if isinstance(v.type, Tensor)]
    return [t for t in types if isinstance(t, Affine)]


def test_the_pass(network: Graph, batches: Any) -> None:
    context = Context(calibration=batches)
    made = qat(network, context, weights=3, activations=4, epochs=10, batch=16, lr=0.02)
    verify(made)
    (told,) = [n for n in context.notes if n.startswith("trained on 64 samples")]
    after, before = (float(w.rstrip(",")) for w in told.split() if w[0].isdigit() and "." in w)
    assert after < before
    again = qat(network, Context(calibration=batches), weights=3, activations=4, epochs=10, batch=16, lr=0.02)
    assert made.digest == again.digest
    other = qat(network, Context(calibration=batches), weights=3, activations=4, epochs=10, batch=16, lr=0.02, seed=1)
    assert made.digest != other.digest
    # and it is a graph for `integer`, like that of `quantize`
    context = Context()
    assert elems(made)
    integer(made, context)
    assert context.notes == ["12 nodes in integers"]


def test_labels(network: Graph, batches: Any) -> None:
    """Wrong labels are learned, if nothing but labels counts."""
    labels = np.random.default_rng(0).integers(0, 5, 64)
    data, right = [{**batches[0], "labels": labels}], []
    for share in (1.0, 0.0):
        context = Context(calibration=data)
        made = qat(network, context, weights=4, edges=4, epochs=40, batch=16, lr=0.3, distill=share)
        right.append(np.mean(evaluate(made, [batches[0]["x"]])[0].argmax(1) == labels))
    assert right[1] > right[0] + 0.3


def test_softmax_is_compared_before(batches: Any) -> None:
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((64, 8), Float("f32")))
    y = e.emit("nn.matmul", x, e.constant(rng.standard_normal((8, 5)).astype(np.float32) * 9, "w"))
    e.output(e.emit("nn.softmax", y, axis=1), "y")
    data = [{"x": rng.standard_normal((64, 8)).astype(np.float32)}]
    context = Context(calibration=data)
    made = qat(e.freeze(), context, weights=2, edges=2, epochs=2, batch=16)
    np.testing.assert_allclose(evaluate(made, [data[0]["x"]])[0].sum(1), 1, rtol=1e-5)


@settings(deadline=None)  # the first example imports and compiles
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 8]))
def test_gradients_of_steps(seed: int, bits: int) -> None:
    """LSQ, equation 3: round(x/s) - x/s inside the range, the clipped code outside."""
    from intaglio.passes.quantize.lsq import _Step
    from intaglio.passes.quantize.ranges import affine

    x = np.random.default_rng(seed).standard_normal(50).astype(np.float32)
    elem = affine(-1.0, 0.7, bits, False)
    step = _Step(elem)
    step.encoded(torch.from_numpy(x)).sum().backward()
    low, high = elem.store.range  # type: ignore[union-attr]
    v, zero = x / np.float32(elem.scale), elem.zero  # type: ignore[arg-type]
    code = np.clip(np.rint(v), low - zero, high - zero)
    inside = np.rint(v) == code
    want = np.where(inside, code - v, code).sum() * float(elem.scale)  # type: ignore[arg-type]
    np.testing.assert_allclose(float(step.exponent.grad), want, rtol=1e-3, atol=1e-4)


# --- complaints -------------------------------------------------------------------------------------------------------


def complaint(graph: Graph, data: Any, **options: Any) -> Any:
    with pytest.raises(IntaglioError) as e:
        qat(graph, Context(calibration=data), **options)
    return e.value.diagnostics[0]


def test_no_data(network: Graph) -> None:
    assert complaint(network, ()).code == "IG0430"


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.full(64, 5), np.full(64, -1)])
def test_labels_that_do_not_fit(network: Graph, batches: Any, labels: Any) -> None:
    found = complaint(network, [{**batches[0], "labels": labels}])
    assert found.code == "IG0440" and found.hint


def test_ops_that_torch_is_not_asked_for() -> None:
    e = Editor(name="main")
    x = e.input("x", Tensor((4, 3), Float("f32")))
    y = e.emit("nn.matmul", x, e.constant(np.ones((3, 3), np.float32), "w"))
    e.output(e.emit("math.floor", y), "y")
    found = complaint(e.freeze(), [{"x": np.eye(4, 3, dtype=np.float32)}])
    assert found.code == "IG0440" and "math.floor" in found.message


def test_options(network: Graph, batches: Any) -> None:
    for wrong in ({"epochs": 0}, {"lr": 0.0}, {"distill": 2.0}):
        assert complaint(network, batches, **wrong).code == "IG0406"


def test_without_torch(network: Graph, batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert complaint(network, batches).code == "IG0437"


# --- a real network ---------------------------------------------------------------------------------------------------


@pytest.mark.deep
def test_resnet8() -> None:
    """Two bits and four: training on 10,000 images, unlabelled, gives the deployed network some of its answers back."""
    import intaglio
    from tests.benchmarks.calibrate import training_inputs
    from tests.zoo.models import MODELS

    model = next(m for m in MODELS if m.name == "resnet8_cifar10")
    if model.missing:
        pytest.skip(model.missing)
    context = Context(calibration=[training_inputs(model.name, 10000)])
    test, source, scores = model.data(), intaglio.load(model.proto()), []
    for make, options in ((quantize, {"method": "gptq"}), (qat, {"epochs": 4})):
        made = make(source.main, context, weights=2, activations=4, **options)  # type: ignore[arg-type]
        compiled = intaglio.compile(source.with_main(made), "cpu")
        parts = [next(iter(compiled.run(test.batch(i, i + 100)).values())) for i in range(0, test.count, 100)]
        scores.append(float(np.mean(np.concatenate(parts).argmax(1) == test.labels)))
    print(scores, context.notes[-1])
    assert scores[1] > scores[0] + 0.005, scores
