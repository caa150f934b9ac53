"""Measuring: in turn, enough runs, and inputs of the right types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from intaglio.compiler.arrays import as_typed, read_arrays, summary, write_arrays
from intaglio.compiler.measure import LEAST, WARM_UP, Contender, measure, onnxruntime_contender, random_inputs, table
from intaglio.ir import Editor, IntaglioError, Module, Tensor, dim, evaluate


def test_runs_are_interleaved() -> None:
    order: list[str] = []
    results = measure([Contender(n, lambda n=n: order.append(n)) for n in "ab"], seconds=0.0)  # type: ignore[misc]
    timed = order[2 * WARM_UP :]
    assert timed == ["a", "b"] * LEAST
    assert [r.name for r in results] == ["a", "b"]
    assert all(r.runs == LEAST and r.low <= r.median <= r.high for r in results)
    assert table(results).splitlines()[1].endswith("1.00")


def test_random_inputs_are_accepted() -> None:
    e = Editor()
    for name, elem in [("x", "f32"), ("i", "i64"), ("b", "bool"), ("h", "bf16"), ("q", "i4")]:
        e.output(e.input(name, Tensor((dim("N"), 2), elem)), f"{name}_out")
    module = Module("m", {"main": e.freeze()}, {"N": (3, 9)})
    found = random_inputs(module)
    for (name, array), v in zip(found.items(), module.main.inputs, strict=True):
        assert (name, array.shape, array.dtype) == (v.name, (3, 2), v.type.dtype)  # type: ignore[union-attr]
    assert len(evaluate(module.main, list(found.values()))) == 5


def test_every_element_type_survives_a_file(tmp_path: Path) -> None:
    e = Editor()
    types = {}
    for elem in ("f32", "f16", "bf16", "f8e4m3fn", "i8", "u64", "bool"):
        types[f"/{elem}"] = e.input(f"/{elem}", Tensor((4,), elem)).type
    types["file"] = e.input("file", Tensor((), "f64")).type
    e.output(e.inputs[0], "y")
    arrays = random_inputs(Module("m", {"main": e.freeze()}))
    write_arrays(tmp_path / "a.npz", arrays)
    found = as_typed(read_arrays(tmp_path / "a.npz", list(types)), types)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()
        assert summary(name, array).startswith(f"{name}: {array.dtype}")


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3)), np.array(np.nan), np.array([True, False]), np.arange(9, dtype=np.uint8)]
)
def test_summaries_of_odd_arrays(array: object) -> None:
    assert "\n" not in summary("x", array)


def test_another_runtime_that_refuses(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(IntaglioError, match="IG0011"):
        onnxruntime_contender(tmp_path / "bad.onnx", {}, 1)
