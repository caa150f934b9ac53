"""The interpreter: every op computes what its type says, and inputs that do not fit are explained."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from intaglio.ir import Editor, Graph, IntaglioError, Tensor, dim, evaluate
from intaglio.ir.graph import attributes
from intaglio.ir.interpret import check_inputs
from intaglio.ir.testing import graphs, random_graph

N, S = dim("N"), dim("S")


@settings(deadline=None, max_examples=150)
@given(graphs(max_nodes=12))
def test_results_have_their_types(case: tuple[Graph, list[Any]]) -> None:
    graph, inputs = case
    first = evaluate(graph, inputs, check=True)
    again = evaluate(graph, inputs)
    assert [a.tobytes() for a in first] == [a.tobytes() for a in again]  # bodies do not change their operands


def test_random_graphs_cover_the_table() -> None:
    """The generator is worth its name: most of the ops that it knows turn up."""
    found = {n.op.name for seed in range(60) for n in random_graph(np.random.default_rng(seed), 40).nodes}
    assert len(found) >= 75


def test_a_graph_means_what_its_ops_compute() -> None:
    e = Editor()
    x = e.input("x", Tensor((N, 2), "f32"))
    lo, hi = e.apply("shape.split", [x], attributes({"axis": 1, "sizes": (1, 1)})).outputs
    e.output(e.emit("math.sub", hi, lo), "difference")
    e.output(x, "same")
    seen = []
    array = np.array([[1, 5], [2, 4]], np.float32)
    difference, same = evaluate(
        e.freeze(), [array], check=True, observe=lambda node, results: seen.append(node.op.name)
    )
    assert difference.tolist() == [[4], [2]] and same is array
    assert seen == ["shape.split", "math.sub"]


def test_symbols_in_attributes_take_their_size() -> None:
    e = Editor()
    x = e.input("x", Tensor((N, S, 2), "f32"))
    e.output(e.emit("shape.reshape", x, shape=(N * S, 2)), "y")
    (y,) = evaluate(e.freeze(), [np.zeros((3, 5, 2), np.float32)], check=True)
    assert y.shape == (15, 2)


def test_what_cannot_be_computed_names_the_node() -> None:
    e = Editor()
    x, i = e.input("x", Tensor((4,), "f32")), e.input("i", Tensor((1,), "i64"))
    e.output(e.emit("shape.gather", x, i), "y")
    with pytest.raises(IntaglioError) as caught:
        evaluate(e.freeze(), [np.zeros(4, np.float32), np.array([9])])
    (found,) = caught.value.diagnostics
    assert found.code == "IG0605" and "shape.gather" in found.message and found.label == "float32[4], int64[1]"


EXPECTED = [("x", Tensor((N, 3), "f32")), ("y", Tensor((2 * N, S), "i64")), ("z", Tensor((N * S,), "bool"))]


def arrays(**change: Any) -> dict[str, Any]:
    return {"x": np.zeros((2, 3), np.float32), "y": np.zeros((4, 5), np.int64), "z": np.zeros(10, np.bool_), **change}


def test_inputs_that_fit_come_in_order() -> None:
    given = dict(reversed(arrays().items()))
    assert [a.dtype.name for a in check_inputs(EXPECTED, given)] == ["float32", "int64", "bool"]
    check_inputs(EXPECTED, arrays(), {"N": (1, 2), "S": (5, None)})


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"w": np.zeros(1)}, "IG0601", "there is no input `w`"),
        ({"x": np.zeros((2, 3))}, "IG0602", "input `x` is float64, expected float32"),
        ({"z": [1] * 10}, "IG0602", "input `z` is int64, expected bool"),
        ({"x": np.zeros(6, np.float32)}, "IG0603", "input `x` has 1 axes, expected 2"),
        ({"x": np.zeros((2, 4), np.float32)}, "IG0603", "input `x` has extent 4 in axis 1, expected 3"),
        ({"y": np.zeros((5, 5), np.int64)}, "IG0603", "input `y` has extent 5 in axis 0, expected 4"),
        ({"z": np.zeros(9, np.bool_)}, "IG0603", "input `z` has extent 9 in axis 0, expected 10"),
    ],
)
def test_inputs_that_do_not_fit(change: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(IntaglioError) as caught:
        check_inputs(EXPECTED, arrays(**change))
    assert [(d.code, d.message) for d in caught.value.diagnostics] == [(code, message)]


def test_missing_inputs_and_ranges() -> None:
    with pytest.raises(IntaglioError, match="input `y` is missing"):
        check_inputs(EXPECTED, {"x": 1, "z": 2})
    with pytest.raises(IntaglioError, match=r"IG0604.*input `x` makes N = 2, the model takes 3\.\.4"):
        check_inputs(EXPECTED, arrays(), {"N": (3, 4)})
    with pytest.raises(IntaglioError, match=r"makes S = 5, the model takes 6\.\."):
        check_inputs(EXPECTED, arrays(), {"S": (6, None)})


def test_products_are_checked_when_their_factors_are_known() -> None:
    expected = [("z", Tensor((N * S,), "bool")), ("x", Tensor((N,), "bool")), ("y", Tensor((S,), "bool"))]
    good = {"z": np.zeros(6, np.bool_), "x": np.zeros(2, np.bool_), "y": np.zeros(3, np.bool_)}
    check_inputs(expected, good)
    with pytest.raises(IntaglioError, match="input `z` has extent 7 in axis 0, expected 6"):
        check_inputs(expected, {**good, "z": np.zeros(7, np.bool_)})


@pytest.mark.parametrize(
    "name", ["math.relu", "math.neg", "math.abs", "math.add", "math.minimum", "math.bit_and", "math.div"]
)
def test_narrow_integers_stay_narrow(name: str) -> None:
    """NumPy computes four-bit integers in eight bits; the graph's type is what comes out, and overflow wraps."""
    e = Editor()
    x = e.input("x", Tensor((4,), "i4"))
    binary = name in ("math.add", "math.minimum", "math.bit_and", "math.div")
    e.output(e.emit(name, x, x) if binary else e.emit(name, x), "y")
    data = np.array([-8, -1, 1, 7], dtype=ml_dtypes.int4)
    (out,) = evaluate(e.freeze(), [data], check=True)
    assert out.dtype == ml_dtypes.int4
    if name == "math.neg":
        assert out.astype(int).tolist() == [-8, 1, -1, -7]
