"""The networks of bench_cpu.py are what they are called, and its tables and workers do not lie. Nothing is timed."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from .bench_cpu import difference
from .cpu_table import GOALS, KERNEL_GOALS, Measured, Row, geomean, goals_table, speed_table
from .int8 import INT8
from .models import BF16, MODELS, fix_dims, mobilenet_v2, resnet18, resnet50
from .peers import WorkerFailed, WorkerProcess

PARAMETERS = {  # torchvision's counts of the trainable ones
    resnet18: 11_689_512,
    resnet50: 25_557_032,
    mobilenet_v2: 3_504_872,
}


@pytest.mark.parametrize("make", PARAMETERS, ids=lambda f: f.__name__)
def test_architectures(make: object) -> None:
    model = make()  # type: ignore[operator]
    onnx.checker.check_model(model, full_check=True)
    running = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    limits = {name for node in model.graph.node if node.op_type == "Clip" for name in node.input[1:]}
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert sum(a.size for name, a in arrays.items() if name not in running | limits) == PARAMETERS[make]  # type: ignore[index]


def test_every_model_is_fixed() -> None:
    for model in MODELS:
        if not model.missing() and model.name not in ("resnet50", "minilm_l6"):  # large
            proto = model.build()
            onnx.checker.check_model(proto)
            assert all(d.dim_value > 0 for v in proto.graph.input for d in v.type.tensor_type.shape.dim)
            inputs = model.inputs(proto)
            assert all(np.isfinite(a).all() for a in inputs.values())
            again = model.inputs(proto)
            assert all(np.array_equal(a, again[name]) for name, a in inputs.items())


def test_int8_models_have_casts() -> None:
    pytest.importorskip("onnxruntime")
    small = next(m for m in INT8 if m.name == "ad01_autoencoder_int8")
    if small.missing():
        pytest.skip(small.missing())
    ops = [node.op_type for node in small.build().graph.node]
    assert ops.count("QuantizeLinear") >= 10
    assert ops.count("DequantizeLinear") >= 20


def test_fixing_leaves_the_model_alone() -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    shapes = (value("x", 1, ["N", 2]), value("y", 1, ["N", 2]))
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", shapes[:1], shapes[1:]))
    fixed = fix_dims(model, {"N": 3})
    assert [d.dim_value for d in fixed.graph.output[0].type.tensor_type.shape.dim] == [3, 2]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_difference() -> None:
    a = np.array([1.0, -4.0], np.float32)
    assert difference([a], [a]) == 0
    assert difference([a], [a + 0.5]) == pytest.approx(0.125)
    assert difference([a], [a * np.nan]) == math.inf
    assert difference([a], [a[None]]) == difference([a], []) == math.inf


def test_tables() -> None:
    def row(model: str, ours: float, ort: float, openvino: float, threads: int = 1) -> Row:
        times = {"intaglio": ours, "onnxruntime": ort, "openvino": openvino}
        found = {name: Measured(t, t, t, 9.0, 10_000_000, 20_000_000) for name, t in times.items()}
        return Row(model, model, threads, found, difference=1e-6)

    rows = [row("resnet18", 1e-3, 2e-3, 4e-3), row("resnet20_cifar10", 1e-3, 8e-3, 1e-3)]
    assert geomean(r.ratio("onnxruntime") for r in rows) == pytest.approx(4)
    assert [r.ratio("best") for r in rows] == [2, 1]
    lines = speed_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[-1].split("|")[1:8]] == [
        "geometric mean",
        "",
        "",
        "",
        "4.00",
        "2.00",
        "1.41",
    ]
    broken = Row("resnet50", "ResNet-50", 1, errors={"intaglio": "no"})
    assert broken.failed
    assert "failed" in speed_table([*rows, broken])
    kernels = {KERNEL_GOALS[1][0]: 4.0}
    goals = goals_table([*rows, broken, row("resnet18", 5e-4, 1e-3, 1e-3, threads=2)], kernels)
    said = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[3:6]] for line in goals.splitlines()}
    assert said["ResNet-18 fp32"] == [">= 1.7", "2.00", "yes"]
    assert said["ResNet-18 int8"] == [">= 1", "not measured", ""]
    assert said["two threads"] == [">= 1.8", "2.00", "yes"]
    assert [said[name] for name, *_ in KERNEL_GOALS[:2]] == [[">= 2", "not measured", ""], [">= 3.5", "4.00", "yes"]]
    assert said["compile ResNet-18"] == ["<= 8 s", "9.0 s", "no"]
    assert {m for goal in GOALS for m in goal.models} <= {m.name for m in (*MODELS, *BF16, *INT8)}


def test_worker(tmp_path: Path) -> None:
    """It runs a model, measures, says what is wrong and goes on, and is gone after the block."""
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2])], [value("y", 1, [2])])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m"
    )
    np.savez(tmp_path / "x.npz", x=np.array([-1.0, 2.0], np.float32))
    request = {"model": str(tmp_path / "m"), "inputs": str(tmp_path / "x.npz"), "threads": 1}
    with WorkerProcess(sys.executable, sorted(os.sched_getaffinity(0))[:1]) as worker:
        with pytest.raises(WorkerFailed, match="KeyError"):
            worker.ask("load", engine="none", **request)
        loaded = worker.ask("load", engine="onnxruntime", **request)
        assert loaded["peak"] > 1 << 20
        worker.ask("outputs", path=str(tmp_path / "y.npz"))
        found = worker.ask("run", times=3)
        assert min(found["cpu"], found["wall"]) > 0
        assert worker.ask("memory")["peak"] > 1 << 20
    with np.load(tmp_path / "y.npz") as stored:
        np.testing.assert_array_equal(next(iter(stored.values())), [0, 2])
    with pytest.raises((WorkerFailed, ValueError)):
        worker.ask("memory")
