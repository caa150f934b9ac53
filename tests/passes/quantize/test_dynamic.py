"""`quantize{dynamic=token}`: what is written, how far off it is, and what it cannot be combined with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from intaglio.compiler.exporters.onnx import export_onnx
from intaglio.ir import Editor, Graph, IntaglioError, Module, Tensor, verify
from intaglio.ir.interpret import evaluate
from intaglio.ir.ops.quant_dynamic import LEAST, largest_code, quantize_dynamic
from intaglio.ir.types import Float
from intaglio.passes.definition import Context
from intaglio.passes.quantize.quantize import quantize
from intaglio.passes.syntax import parse_pipeline

F32 = Float("f32")
FLOATS = st.floats(-(2.0**60), 2.0**60, width=32)


def block(width: int = 32, tokens: int = 12) -> Graph:
    """Queries, keys and values of one input; a product of two activations; a norm; a product with a bias."""
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((2, tokens, width), F32))

    def weights(*shape: int) -> Any:
        return e.constant(rng.standard_normal(shape).astype(np.float32) / np.float32(shape[0] ** 0.5))

    q, k, v = (e.emit("nn.matmul", x, weights(width, width)) for _ in range(3))
    scores = e.emit("nn.matmul", q, e.emit("shape.transpose", k, perm=(0, 2, 1)))
    mixed = e.emit("nn.matmul", e.emit("nn.softmax", scores, axis=-1), v)
    y = e.emit("math.add", e.emit("nn.matmul", mixed, weights(width, width)), weights(width))
    y = e.emit("nn.layer_norm", e.emit("math.add", x, y), weights(width), weights(width), axis=-1)
    e.output(e.emit("math.add", e.emit("nn.matmul", y, weights(width, 20)), weights(20)), "y")
    return e.freeze()


def tokens(seed: int = 1, first: float = 300) -> Any:
    """Tokens of very different size, as separators have it."""
    x = np.random.default_rng(seed).standard_normal((2, 12, 32)).astype(np.float32)
    x[:, 0] *= first
    return x


def off(made: Graph, graph: Graph, x: Any) -> float:
    (want,), (have,) = evaluate(graph, [x]), evaluate(made, [x])
    return float(np.linalg.norm((have - want)[:, 1:]) / np.linalg.norm(want[:, 1:]))


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), elements=FLOATS),
    st.sampled_from([8, 4, 2]),
)
def test_codes_are_near(x: Any, bits: int) -> None:
    codes, scale = quantize_dynamic.function(x, bits=bits)
    assert codes.dtype == np.int8 and scale.shape == (*x.shape[:-1], 1)
    assert np.abs(codes.astype(int)).max() <= largest_code(bits)
    assert np.all(np.abs(codes * scale.astype(np.float64) - x) <= 0.501 * scale + 1e-30)
    top = np.abs(x).max(-1)
    assert np.all(np.abs(codes.astype(int)).max(-1)[top >= LEAST] == largest_code(bits))


def test_rows_without_numbers() -> None:
    x = np.array([[0.0, 0.0], [1.0, np.nan], [np.inf, 1.0]], np.float32)
    with np.errstate(all="ignore"):
        codes, scale = quantize_dynamic.function(x)
    assert not codes[0].any() and scale[0] > 0
    assert np.isnan(scale[1, 0]) and np.isinf(scale[2, 0])


def test_form() -> None:
    """One encoding for what three products read; what is multiplied with each other stays in floats."""
    context = Context()
    made = quantize(block(), context, dynamic="token")
    verify(made)
    names = [n.op.name for n in made.nodes]
    assert names.count("quant.quantize_dynamic") == 3
    assert names.count("quant.matmul") == 5
    assert names.count("nn.matmul") == 2
    assert "quant.quantize" not in names
    assert any("5 of 5 layers read codes with a scale for each token" in n for n in context.notes)


def test_is_nearer_than_one_range_for_all() -> None:
    graph, x = block(), tokens()
    batches = [{"x": x}]
    fixed = quantize(graph, Context(calibration=batches), ranges="minmax", cache=False)
    by_token = quantize(graph, Context(), dynamic="token")
    assert off(by_token, graph, x) < 0.02 < off(fixed, graph, x)


@pytest.mark.parametrize("weights", [8, 4, "ternary"])
@pytest.mark.parametrize("activations", [8, 4])
def test_bits(weights: Any, activations: Any) -> None:
    graph, x = block(), tokens(first=1)
    common = {"weights": weights, "activations": activations, "edges": 4, "dynamic": "token", "cache": False}
    nearest = quantize(graph, Context(), **common)
    verify(nearest)
    batches = [{"x": tokens(seed, first=1)} for seed in range(2, 12)]
    better = quantize(graph, Context(calibration=batches), method="gptq", **common)
    assert off(better, graph, x) < 1.1 * off(nearest, graph, x)  # inputs without correlations
    if weights == 8 and activations == 8:
        assert off(nearest, graph, x) < 0.02


def test_runs_as_onnx() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    graph, x = block(), tokens()
    made = quantize(graph, Context(), dynamic="token")
    model = export_onnx(Module("m", {"main": made}, {}))
    assert [n.op_type for n in model.graph.node].count("MatMulInteger") == 5
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], evaluate(made, [x])[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("activations=float", "activations in codes"),
        ("weights=fp8", "multiplies integers"),
        ("per=group", "scales for groups"),
        ("symmetric=false", "without zero points"),
        ("method=adaround", "method=gptq"),
    ],
)
def test_refused(options: str, says: str) -> None:
    with pytest.raises(IntaglioError, match=says):
        parse_pipeline(f"quantize{{dynamic=token,{options}}}")


def test_methods_that_look_at_data_need_some() -> None:
    with pytest.raises(IntaglioError, match="IG0430"):
        quantize(block(), Context(), dynamic="token", method="gptq")
