"""Quantised ONNX models of every kind become casts around float ops, and integers by pass `integer`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import intaglio
from intaglio.ir import Graph, IntaglioError, evaluate
from intaglio.passes.definition import Context
from intaglio.passes.integer import integer

QONNX = "qonnx.custom_op.general"
RNG = np.random.default_rng(0)


def model(nodes: list[Any], x: Any, constants: dict[str, Any], shape: list[int], elem: int = TensorProto.FLOAT) -> Any:
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", elem, shape)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    domains = {n.domain for n in nodes} | {""}
    opsets = [helper.make_opsetid(d, 1 if d else 21) for d in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def loaded(made: Any) -> tuple[Graph, Graph, str]:
    """As imported, in integers, and what the pass says."""
    graph, context = intaglio.load(made).main, Context()
    return graph, integer(graph, context), " ".join(context.notes)


def f32(*values: float) -> Any:
    return np.asarray(values if len(values) > 1 else values[0], np.float32)


# --- QLinear --------------------------------------------------------------------------------------------------------

BYTES = {
    "sx": f32(0.05), "zx": np.uint8(120), "sy": f32(0.07), "zy": np.uint8(9), "sc": f32(0.11), "zc": np.uint8(60),
}  # fmt: skip


def qlinear(op: str) -> Any:
    """A chain: QLinearConv, the op, with what follows it."""
    w = RNG.integers(-128, 128, (8, 4, 3, 3)).astype(np.int8)
    constants: dict[str, Any] = {
        **BYTES, "w": w, "sw": RNG.uniform(0.001, 0.01, 8).astype(np.float32), "zw": np.zeros(8, np.int8),
        "b": RNG.integers(-999, 999, 8).astype(np.int32),
    }  # fmt: skip
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"]
    nodes = [helper.make_node("QLinearConv", names, ["c"], pads=[1, 1, 1, 1])]
    shape = [1, 8, 6, 6]
    code, other = ["c", "sy", "zy"], ["sc", "zc"]
    if op in ("QLinearAdd", "QLinearMul"):
        nodes.append(helper.make_node(op, [*code, *code, *other], ["y"], domain="com.microsoft"))
    elif op == "QLinearConcat":
        nodes.append(helper.make_node(op, [*other, *code, *code], ["y"], domain="com.microsoft", axis=1))
        shape[1] = 16
    elif op == "QLinearGlobalAveragePool":
        nodes.append(helper.make_node(op, [*code, *other], ["y"], domain="com.microsoft"))
        shape[2:] = [1, 1]
    elif op == "QGemm":
        constants |= {
            "m": RNG.integers(-128, 128, (5, 8)).astype(np.int8), "sm": f32(0.01), "zm": np.int8(0),
            "bm": RNG.integers(-999, 999, 5).astype(np.int32), "flat": np.array([1, 8], np.int64),
        }  # fmt: skip
        nodes.append(helper.make_node("QLinearGlobalAveragePool", [*code, *other], ["p"], domain="com.microsoft"))
        nodes.append(helper.make_node("Reshape", ["p", "flat"], ["f"]))
        inputs = ["f", *other, "m", "sm", "zm", "bm", "sx", "zx"]
        nodes.append(helper.make_node(op, inputs, ["y"], domain="com.microsoft", transB=1))
        shape = [1, 5]
    elif op == "QLinearConv":
        nodes[0].output[0] = "y"
    else:
        nodes.append(helper.make_node(op, [*code, *other], ["y"], domain="com.microsoft"))
    x = RNG.integers(0, 256, (1, 4, 6, 6)).astype(np.uint8)
    return model(nodes, x, constants, shape, TensorProto.UINT8), x


@pytest.mark.parametrize(
    "op",
    ["QLinearConv", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearSigmoid", "QGemm"],
)
def test_qlinear(op: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made, x = qlinear(op)
    graph, whole, note = loaded(made)
    assert "float stay" not in note
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    for found in (graph, whole):
        (got,) = evaluate(found, [x])
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - want).max() <= 1


# --- QONNX ----------------------------------------------------------------------------------------------------------


def quant(x: Any, scale: Any, zero: Any, low: int, high: int) -> Any:
    """QONNX's definition."""
    return ((np.clip(np.rint(x / scale + zero), low, high) - zero) * scale).astype(np.float32)


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "low", "high"),
    [(8, 1, 0, -128, 127), (4, 1, 1, -7, 7), (3, 0, 0, 0, 7), (2, 1, 1, -1, 1), (5, 0, 1, 0, 30)],
)
def test_qonnx_quant(bits: int, signed: int, narrow: int, low: int, high: int) -> None:
    w = RNG.standard_normal((6, 4, 1, 1)).astype(np.float32)
    ws = RNG.uniform(0.01, 0.1, (6, 1, 1, 1)).astype(np.float32)
    attrs: dict[str, Any] = {"domain": QONNX, "rounding_mode": "ROUND"}
    nodes = [
        helper.make_node("Quant", ["x", "s", "z", "bits"], ["q"], signed=signed, narrow=narrow, **attrs),
        helper.make_node("Quant", ["w", "ws", "wz", "wb"], ["k"], signed=1, narrow=1, **attrs),
        helper.make_node("Conv", ["q", "k"], ["y"]),
    ]
    constants = {"s": f32(0.0625), "z": f32(0), "bits": f32(bits), "w": w, "ws": ws, "wz": f32(0), "wb": f32(4)}
    x = (RNG.standard_normal((1, 4, 5, 5)) * 4).astype(np.float32)
    graph, whole, note = loaded(model(nodes, x, constants, [1, 6, 5, 5]))
    want = np.einsum("nchw,oc->nohw", quant(x, 0.0625, 0, low, high), quant(w, ws, 0, -7, 7)[:, :, 0, 0])
    np.testing.assert_allclose(evaluate(graph, [x])[0], want, atol=1e-5)
    np.testing.assert_allclose(evaluate(whole, [x])[0], want, atol=1e-5)
    assert "float stay" not in note
    assert "quant.conv" in {n.op.name for n in whole.nodes}


def test_qonnx_bipolar_weights_are_codes() -> None:
    w = RNG.standard_normal((4, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Quant", ["x", "s", "z", "bits"], ["q"], domain=QONNX, signed=1, narrow=0),
        helper.make_node("BipolarQuant", ["w", "s"], ["k"], domain=QONNX),
        helper.make_node("MatMul", ["q", "k"], ["y"]),
    ]
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    constants = {"s": f32(0.125), "z": f32(0), "bits": f32(4), "w": w}
    graph, whole, note = loaded(model(nodes, x, constants, [3, 6]))
    want = quant(x, 0.125, 0, -8, 7) @ np.where(w >= 0, 0.125, -0.125)
    np.testing.assert_allclose(evaluate(graph, [x])[0], want, atol=1e-6)
    np.testing.assert_allclose(evaluate(whole, [x])[0], want, atol=1e-6)
    assert "float stay" not in note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": f32(9)}, "9 bits"),
        ({"z": f32(0.5)}, "no integer"),
        ({"s": np.full((2, 2), 0.1, np.float32)}, "scales of shape"),
    ],
)
def test_what_qonnx_has_and_we_have_not(change: dict[str, Any], words: str) -> None:
    nodes = [helper.make_node("Quant", ["x", "s", "z", "bits"], ["y"], domain=QONNX, signed=1, narrow=0)]
    x = np.zeros((2, 2), np.float32)
    constants = {"s": f32(0.125), "z": f32(0), "bits": f32(4), **change}
    with pytest.raises(IntaglioError, match=words):
        intaglio.load(model(nodes, x, constants, [2, 2]))
