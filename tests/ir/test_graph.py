"""Graphs are compared by content; names and locations are labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from intaglio.ir import Constant, Editor, Graph, Location, Module, Tensor
from intaglio.ir.graph import attributes
from intaglio.ir.testing import graphs
from intaglio.ir.types import Affine, Float, Int


def small(**change: Any) -> Graph:
    """A graph in which one thing at a time can be different."""
    given: dict[str, Any] = {
        "name": "main", "input": "x", "type": Tensor((2, 2), "f32"), "data": [[1.0, 2.0], [3.0, 4.0]], "constant": "w",
        "op": "math.add", "alpha": 0.5, "loc": None, "result": "r", "output": "y", "swap": False, **change,
    }  # fmt: skip
    e = Editor(name=given["name"])
    e.loc = given["loc"]
    x = e.input(given["input"], given["type"])
    w = e.constant(np.array(given["data"], np.float32), given["constant"])
    a = e.emit(given["op"], *((w, x) if given["swap"] else (x, w)), name=given["result"])
    e.output(e.emit("math.leaky_relu", a, alpha=given["alpha"]), given["output"])
    return e.freeze()


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"input": "z"}, {"constant": "v"}, {"loc": Location(("n",), ("r",))}, {"result": "q"}]
)
def test_labels_do_not_matter(change: dict[str, Any]) -> None:
    assert small(**change) == small() and small(**change).digest == small().digest
    assert hash(small(**change)) == hash(small())


@pytest.mark.parametrize(
    "change",
    [
        {"type": Tensor((1, 2), "f32")},
        {"data": [[1.0, 2.0], [3.0, 5.0]]},
        {"data": [1.0, 2.0]},
        {"op": "math.sub"},
        {"alpha": 0.25},
        {"alpha": -0.5},
        {"output": "z"},  # the interface, not a label
        {"swap": True},
    ],
)
def test_content_matters(change: dict[str, Any]) -> None:
    assert small(**change) != small()


@settings(deadline=None, max_examples=50)
@given(graphs(max_nodes=8))
def test_opening_and_freezing_gives_an_equal_graph(case: tuple[Graph, Any]) -> None:
    graph, _ = case
    before = str(graph)
    again = Editor(graph).freeze()
    assert again == graph and again is not graph
    assert Editor(again).freeze() == graph
    assert str(graph) == before


def test_attributes_are_interned_by_value_and_kind() -> None:
    assert attributes({"b": 1, "a": [1, 2]}) is attributes({"a": (1, 2), "b": 1})
    one = [attributes({"a": v}) for v in (1, 1.0, True, "1", (1,), (1.0,), (True,), ((1,),), -0.0, 0.0, 0, None)]
    assert len({id(a) for a in one}) == len(one)
    assert all((a == b) == (a is b) for a in one for b in one)
    assert attributes({"a": float("nan")}) is attributes({"a": float("nan")})
    assert attributes({}) is attributes({})
    with pytest.raises(TypeError):
        one[0]["a"] = 2  # type: ignore[index]


def test_attributes_with_constants_and_bodies_are_compared_by_content() -> None:
    big = np.arange(100)
    assert attributes({"value": Constant(big)}) == attributes({"value": Constant(big.copy(), "name")})
    assert attributes({"value": Constant(big)}) != attributes({"value": Constant(big + 1)})
    assert attributes({"value": Constant(big)}) != attributes({"value": Constant(big.astype(np.float64))})
    assert attributes({"body": small()}) == attributes({"body": small(name="z")})
    assert attributes({"body": small()}) != attributes({"body": small(alpha=1.0)})


def test_memo_does_not_confuse_kinds() -> None:
    """Inference remembers by attributes: what is true of (1, 1) is not of (1.0, 1.0)."""
    e = Editor()
    x, w = e.input("x", Tensor((1, 1, 4, 4), "f32")), e.input("w", Tensor((1, 1, 2, 2), "f32"))
    e.emit("nn.conv", x, w, strides=(1, 1))
    with pytest.raises(Exception, match="IG0204"):
        e.emit("nn.conv", x, w, strides=(1.0, 1.0))


def test_constants_are_read_only_and_compared_by_content() -> None:
    array = np.arange(4, dtype=np.float32)
    c = Constant(array, "c")
    with pytest.raises(ValueError):
        c.array[0] = 1
    array2 = array.copy()
    assert c == Constant(array2, "d") and hash(c) == hash(Constant(array2))
    assert c != Constant(array2.reshape(2, 2)) and c != Constant(array2.view(np.int32))
    zero, minus = Constant(np.array([0.0])), Constant(np.array([-0.0]))
    assert zero != minus  # other bits


def test_every_constant_is_found() -> None:
    scale = Constant(np.array([0.5, 1.0], np.float32), "scale")
    coded = Affine(Int("i8"), Float("f32"), scale, 0, 0)
    inner = Editor(name="body")
    v = inner.input("v", Tensor((2,), "f32"))
    inner.output(inner.emit("math.add", v, inner.constant(np.arange(2, dtype=np.float32), "inner")), "o")
    body = inner.freeze()
    e = Editor()
    x = e.input("x", Tensor((2,), "f32"))
    (k,) = e.apply("tile.kernel", [x], attributes({"body": body}), types=(Tensor((2,), "f32"),)).outputs
    e.output(e.emit("quant.quantize", k, to=coded), "y")
    fixed = attributes({"to": coded})
    e.output(
        e.apply(
            "dyn.apply", [x], attributes({"op": "quant.quantize", "params": (), "fixed": fixed}), types=(x.type,)
        ).output
    )
    graph = e.freeze()
    assert {c.name for c in graph.constants()} == {"scale", "inner"}
    assert {c.name for c in Module("m", {"main": graph}).constants()} == {"scale", "inner"}


def test_modules_are_compared_by_content() -> None:
    a = Module("a", {"main": small()}, {"N": (1, 8)})
    assert a == Module("b", {"main": small(name="x")}, {"N": (1, 8)})
    assert a != Module("a", {"main": small()}, {"N": (1, None)})
    assert a != Module("a", {"other": small()}, {"N": (1, 8)})
    assert a.with_main(small(alpha=1.0)) != a and a.main == small()


def test_locations_fuse() -> None:
    a, b = Location(("a",), ("r",)), Location(("b", "a"))
    assert a.fuse(b, "s") == Location(("a", "b"), ("r", "s"))
    assert a.fuse(None, "r") == a and a.fuse(a) == a


def test_uses() -> None:
    graph = small()
    add, relu = graph.nodes[1:]
    assert graph.uses() == {graph.inputs[0]: [(add, 0)], graph.nodes[0].output: [(add, 1)], add.output: [(relu, 0)]}
