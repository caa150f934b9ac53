"""Exported models: ONNX Runtime runs them with our result, and they come back as what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

import onnxruntime

import intaglio
from intaglio.compiler.cli import main
from intaglio.compiler.exporters.onnx import export_onnx
from intaglio.ir import Editor, Graph, IntaglioError, Module, Tensor, dim, evaluate
from intaglio.ir.ops.quant_integer import fixed_point
from intaglio.ir.types import Affine, Float, Int
from intaglio.passes.definition import Context
from intaglio.passes.integer import integer

from ..passes.test_integer import network


def module(graph: Graph) -> Module:
    return Module("m", {"main": graph}, {})


def run(model: Any, *inputs: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})[0]


def step_of(graph: Graph) -> float:
    return float(next(n for n in reversed(graph.nodes) if n.op.name == "quant.quantize").attr("to").scale)


@pytest.mark.parametrize("store", ["u8", "i8"])
@pytest.mark.parametrize("seed", range(3))
def test_simulated_and_integer_networks(seed: int, store: str) -> None:
    graph, x = network(seed, store)
    simulated, computed = run(export_onnx(module(graph)), x), run(export_onnx(module(integer(graph))), x)
    step = step_of(graph)
    assert np.abs(simulated - evaluate(graph, [x])[0]).max() <= 2.01 * step
    assert np.abs(computed - evaluate(integer(graph), [x])[0]).max() <= 2.01 * step


def test_comes_back() -> None:
    graph, x = network(1)
    again = intaglio.load(export_onnx(module(graph))).main
    assert [n.op.name for n in again.nodes].count("quant.quantize") == sum(
        n.op.name == "quant.quantize" for n in graph.nodes
    )
    np.testing.assert_allclose(evaluate(again, [x])[0], evaluate(graph, [x])[0], atol=1e-6)
    assert np.array_equal(evaluate(integer(again), [x])[0], evaluate(integer(graph), [x])[0])


def one_layer(op: str, seed: int) -> tuple[Graph, Any]:
    rng = np.random.default_rng(seed)
    e = Editor()
    multiplier, shift = fixed_point(rng.uniform(1e-4, 1e-3, 8))
    scales = [e.constant(multiplier), e.constant(shift)]
    if op == "conv":
        x = e.input("x", Tensor((1, 4, 9, 9), "u8"))
        w, b = rng.integers(-128, 128, (8, 4, 3, 3)), rng.integers(-9999, 9999, 8)
        attrs: dict[str, Any] = {"zero": 77, "pads": (1, 1, 1, 1), "strides": (2, 2)}
        y = e.emit("quant.conv", x, e.constant(w.astype(np.int8)), e.constant(b.astype(np.int32)), **attrs)
    elif op == "matmul":
        x = e.input("x", Tensor((5, 64), "i8"))
        w, b = rng.integers(-128, 128, (64, 8)), rng.integers(-9999, 9999, 8)
        y = e.emit("quant.matmul", x, e.constant(w.astype(np.int8)), e.constant(b.astype(np.int32)), a_zero=-3)
    else:
        x = e.input("x", Tensor((1, 8, 9, 9), "u8"))
        y = e.emit("quant.sum_pool", x, kernel=(3, 3), zero=11)
        multiplier, shift = fixed_point(rng.uniform(0.05, 0.2, 8))
        scales = [e.constant(multiplier), e.constant(shift)]
    if not op.startswith("bare"):
        y = e.emit("quant.requantize", y, *scales, to=Int("i8"), zero=5, low=5)
        y = e.emit("quant.add", y, y, to=Int("u8"), a_multiplier=900, b_multiplier=300, shift=10, a_zero=5, b_zero=5)
        y = e.emit("quant.table", y, e.constant(rng.integers(0, 256, 256).astype(np.uint8)))
    e.output(y, "y")
    info = Int(x.type.elem.name).range  # type: ignore[union-attr]
    return e.freeze(), rng.integers(info[0], info[1] + 1, x.type.shape).astype(x.type.dtype)  # type: ignore[union-attr]


@pytest.mark.parametrize("op", ["conv", "matmul", "sum_pool"])
@pytest.mark.parametrize("seed", range(3))
def test_integer_ops(op: str, seed: int) -> None:
    graph, x = one_layer(op, seed)
    table = next(n for n in graph.nodes if n.op.name == "quant.table")
    codes = Graph(graph.name, graph.inputs, graph.nodes, (table.inputs[0],), ("y",))  # type: ignore[arg-type]
    got, want = run(export_onnx(module(codes)), x), evaluate(codes, [x])[0]
    assert got.dtype == want.dtype
    assert np.abs(got.astype(int) - want).max() <= 1
    assert np.mean(got == want) > 0.98
    looked_up = run(export_onnx(module(graph)), x)
    assert np.array_equal(looked_up[got == want], evaluate(graph, [x])[0][got == want])


@pytest.mark.parametrize("op", ["conv", "matmul"])
def test_bare_sums_are_exact(op: str) -> None:
    graph, x = one_layer(op, 7)
    sums = next(n.output for n in graph.nodes if n.op.name == f"quant.{op}")
    bare = Graph(graph.name, graph.inputs, graph.nodes, (sums,), ("y",))
    assert np.array_equal(run(export_onnx(module(bare)), x), evaluate(bare, [x])[0])


def test_softmax_in_integers_is_exact() -> None:
    """Its shifts are divisions, and its table a gather."""
    e = Editor()
    x = e.input("x", Tensor((4, 30), "f32"))
    y = e.emit("quant.quantize", e.emit("nn.softmax", x, axis=-1), to=Affine(Int("u8"), Float("f32"), 1 / 255, 0))
    e.output(e.emit("quant.dequantize", y, to=Float("f32")))
    made = integer(e.freeze(), Context())
    assert any(n.op.name == "math.shift_right" for n in made.nodes)
    data = (np.random.default_rng(0).standard_normal((4, 30)) * 3).astype(np.float32)
    assert np.array_equal(run(export_onnx(module(made)), data), evaluate(made, [data])[0])


def test_shifts_of_what_is_not_known_are_not_exported() -> None:
    e = Editor()
    a, b = (e.input(n, Tensor((3,), "i32")) for n in "ab")
    e.output(e.emit("math.shift_right", a, b))
    with pytest.raises(IntaglioError, match="IG0450"):
        export_onnx(module(e.freeze()))


def test_command_exports_an_artifact(tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    graph, x = network(2)
    compiled = intaglio.compile(module(graph), "cpu", threads=1)
    compiled.save(tmp_path / "artifact")
    assert main(["export", str(tmp_path / "artifact"), "-o", str(tmp_path / "out.onnx")]) == 0
    import onnx

    got = run(onnx.load(tmp_path / "out.onnx"), x)
    assert np.abs(got - compiled.program.run([x])[0]).max() <= 2.01 * step_of(graph)


def test_what_cannot_be_exported_is_named() -> None:
    e = Editor()
    x = e.input("x", Tensor((3, 3), "f32"))
    e.output(e.emit("nn.det", x), "y")
    with pytest.raises(IntaglioError) as caught:
        export_onnx(module(e.freeze()))
    assert caught.value.diagnostics[0].code == "IG0450"
    assert "nn.det" in caught.value.diagnostics[0].message
    e = Editor()
    x = e.input("x", Tensor((dim("N"), dim("M")), "f32"))
    e.output(e.emit("shape.reshape", x, shape=(dim("M"), dim("N"))), "y")
    with pytest.raises(IntaglioError) as caught:
        export_onnx(Module("m", {"main": e.freeze()}, {"N": (1, None), "M": (1, None)}))
    assert caught.value.diagnostics[0].code == "IG0451"


def test_outputs_keep_their_names() -> None:
    """Also where the value has the output's name, and where an output is an input."""
    e = Editor()
    x = e.input("x", Tensor((3,), "f32"))
    e.output(e.emit("math.relu", x, name="y"), "y")
    e.output(x, "same")
    model = export_onnx(module(e.freeze()))
    assert [o.name for o in model.graph.output] == ["y", "same"]
    assert np.array_equal(run(model, np.array([-1, 0, 2], np.float32)), [0, 0, 2])
