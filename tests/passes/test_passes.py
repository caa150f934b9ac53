"""What the exact passes do, and that they never change a bit of any result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.ir import Affine, Editor, Float, Graph, Int, IntaglioError, Tensor, dim, evaluate, testing, verify
from intaglio.ir.dims import UNKNOWN
from intaglio.ir.graph import Location, Value, attributes
from intaglio.ir.interpret import bind_symbols
from intaglio.passes.cleanup import cse, dce
from intaglio.passes.definition import Context, Pass
from intaglio.passes.fold import fold
from intaglio.passes.freeze import freeze

N = dim("N")


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


# --- random graphs --------------------------------------------------------------------------------------------------

UNARY = ["math.relu", "math.neg", "math.exp", "math.abs", "math.floor", "math.sigmoid"]
BINARY = ["math.add", "math.sub", "math.mul", "math.maximum", "math.div"]
SHAPES: list[tuple[Any, ...]] = [(N, 4), (1, 4), (4,), (N, 1)]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Graphs with repetitions, constants, dead nodes, and a size that the graph itself computes."""
    e = Editor()
    values = [e.input("x", Tensor((N, 4), "f32"))]
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.sampled_from([(4,), (1, 4), (1,)]))
        data = draw(st.lists(st.floats(-8, 8, width=32), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        values.append(e.constant(np.array(data, dtype=np.float32).reshape(shape)))
    for _ in range(draw(st.integers(1, 12))):
        if draw(st.booleans()):
            made = e.emit(draw(st.sampled_from(UNARY)), draw(st.sampled_from(values)))
        else:
            made = e.emit(draw(st.sampled_from(BINARY)), draw(st.sampled_from(values)), draw(st.sampled_from(values)))
        values.append(made)
    if draw(st.booleans()):
        values.append(_reshaped(e, draw(st.sampled_from([v for v in values if v.type.shape == (N, 4)]))))
    for i in range(draw(st.integers(1, 3))):
        e.output(draw(st.sampled_from(values)), f"y{i}")
    return e.freeze()


def _reshaped(e: Editor, x: Value) -> Value:
    """x flattened by a shape that the graph computes from its own: what exporters write."""
    extents = e.emit("shape.extents", x)
    count = e.emit("math.reduce_prod", extents, keepdims=True)
    attrs = attributes({"op": "shape.reshape", "params": ("shape",)})
    return e.apply("dyn.apply", [x, count], attrs, types=(Tensor((UNKNOWN,), "f32"),)).outputs[0]


@pytest.mark.parametrize("rewrite", [fold, cse, dce, freeze], ids=lambda p: p.name)
@given(graph=graphs(), seed=st.integers(0, 99))
@settings(deadline=None)
def test_not_a_bit_changes(rewrite: Pass, graph: Graph, seed: int) -> None:
    verify(graph)
    options = {"N": 3} if rewrite is freeze else {}
    after = rewrite(graph, Context(dims={"N": (1, 64)}), **options)
    verify(after)
    x = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
    for a, b in zip(evaluate(graph, [x]), evaluate(after, [x], check=True), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@given(graphs())
@settings(deadline=None)
def test_once_is_enough(graph: Graph) -> None:
    for rewrite in (fold, cse, dce):
        once = rewrite(graph)
        assert rewrite(once) == once


@given(graphs())
@settings(deadline=None)
def test_what_is_frozen_is_static(graph: Graph) -> None:
    after = freeze(graph)
    assert all(v.type.static for n in after.nodes for v in n.outputs)
    assert "dyn.apply" not in ops(after)
    assert "shape.extents" not in ops(after)


# --- freeze ---------------------------------------------------------------------------------------------------------


def batch(low: int = 1) -> tuple[Graph, Context]:
    e = Editor()
    x = e.input("x", Tensor((N, 3, dim("S")), "f32"))
    e.output(e.emit("math.relu", x), "y")
    return e.freeze(), Context(dims={"N": (low, 64), "S": (0, None)})


def test_freeze_takes_the_smallest_sizes() -> None:
    graph, context = batch(low=4)
    assert freeze(graph, context).inputs[0].type == Tensor((4, 3, 1), "f32")


def test_freeze_takes_only_what_is_named() -> None:
    graph, context = batch()
    assert freeze(graph, context, S=7).inputs[0].type == Tensor((N, 3, 7), "f32")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"M": 1}, "no dimension `M`"), ({"N": 65}, "outside its range"), ({"N": 0}, "outside its range")],
)
def test_freeze_refuses(sizes: dict[str, int], message: str) -> None:
    graph, context = batch()
    with pytest.raises(IntaglioError, match=message) as caught:
        freeze(graph, context, **sizes)
    assert caught.value.diagnostics[0].code == "IG0405"


def test_freeze_reaches_into_bodies() -> None:
    inner = Editor(name="body")
    x = inner.input("x", Tensor((N, 3), "f32"))
    inner.output(inner.emit("math.relu", x), "y")
    e = Editor()
    outer = e.input("x", Tensor((N, 3), "f32"))
    e.output(
        e.apply("tile.kernel", [outer], attributes({"body": inner.freeze()}), types=(Tensor((N, 3), "f32"),)).outputs[
            0
        ],
        "y",
    )
    after = freeze(e.freeze(), N=5)
    verify(after)
    assert after.nodes[0].attrs["body"].inputs[0].type == Tensor((5, 3), "f32")


def test_freeze_names_the_node_that_does_not_fit() -> None:
    e = Editor()
    x = e.input("x", Tensor((N, 4), "f32"))
    e.loc = Location(("flatten",))
    shape = e.constant(np.array([5, -1]))
    attrs = attributes({"op": "shape.reshape", "params": ("shape",)})
    e.output(e.apply("dyn.apply", [x, shape], attrs, types=(Tensor((UNKNOWN, UNKNOWN), "f32"),)).outputs[0], "y")
    with pytest.raises(IntaglioError, match='from: "flatten"'):
        freeze(e.freeze(), N=3)


# --- fold -----------------------------------------------------------------------------------------------------------


def weights(elements: int, then: str, **attrs: Any) -> Graph:
    e = Editor()
    x = e.input("x", Tensor((N, 1), "f32"))
    w = e.emit(then, e.constant(np.ones((1, elements), np.float32), "w"), **attrs)
    e.output(e.emit("math.mul", x, w), "y")
    return e.freeze()


def test_fold_keeps_names() -> None:
    after = fold(weights(100, "math.exp"))
    assert [n.constant.name for n in after.nodes if n.constant] == ["w"]


def test_fold_does_not_blow_up_constants() -> None:
    graph = weights(1000, "shape.tile", repeats=(1, 1000))
    assert fold(graph) == graph
    assert "shape.tile" not in ops(fold(graph, grow=4_000_000))


@pytest.mark.parametrize(
    ("store", "elements", "folded"),
    [("i8", 1, True), ("i8", 16, False), ("i32", 16, True), ("i32", 5000, False)],
)
def test_fold_leaves_weights_quantised(store: str, elements: int, folded: bool) -> None:
    e = Editor()
    x = e.input("x", Tensor((N, elements), "f32"))
    stored = Tensor((elements,), Affine(Int(store), Float("f32"), 0.5))
    w = e.emit(
        "quant.dequantize", e.constant(np.ones(elements, store.replace("i", "int")), "w", stored), to=Float("f32")
    )
    e.output(e.emit("math.mul", x, w), "y")
    graph = e.freeze()
    assert ("quant.dequantize" not in ops(fold(graph))) is folded
    assert "quant.dequantize" not in ops(fold(graph, dequantize=5000))


def test_fold_leaves_what_fails() -> None:
    e = Editor()
    data, index = e.constant(np.arange(3.0)), e.constant(np.array([7]))
    e.output(e.emit("shape.gather", data, index), "y")
    assert ops(fold(e.freeze())) == ["const", "const", "shape.gather"]


# --- cse, dce -------------------------------------------------------------------------------------------------------


def test_cse_shares_equal_constants_and_chains() -> None:
    e = Editor()
    x = e.input("x", Tensor((N, 20), "f32"))
    a, b = (e.emit("math.exp", e.emit("math.add", x, e.constant(np.ones(20, np.float32), name))) for name in "ab")
    e.output(e.emit("math.mul", a, b), "y")
    assert ops(cse(e.freeze())) == ["const", "math.add", "math.exp", "math.mul"]


def test_cse_tells_zeros_apart() -> None:
    e = Editor()
    x = e.input("x", Tensor((2,), "f32"))
    for i, zero in enumerate((0.0, -0.0)):
        e.output(e.emit("math.mul", x, e.constant(np.float32(zero))), f"y{i}")
    assert len(cse(e.freeze()).nodes) == 4


def test_dce_keeps_inputs() -> None:
    e = Editor()
    x, unused = e.input("x", Tensor((2,), "f32")), e.input("unused", Tensor((3,), "f32"))
    e.emit("math.exp", unused)
    e.output(x, "y")
    after = dce(e.freeze())
    assert not after.nodes
    assert [v.name for v in after.inputs] == ["x", "unused"]


# --- on graphs of every op ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewrite", [fold, cse, dce, freeze], ids=lambda p: p.name)
@given(case=testing.graphs(max_nodes=12))
@settings(deadline=None)
def test_not_a_bit_changes_on_any_op(rewrite: Pass, case: tuple[Graph, list[Any]]) -> None:
    graph, inputs = case
    sizes: dict[str, int] = {}
    for v, array in zip(graph.inputs, inputs, strict=True):
        bind_symbols(v.type.shape, array.shape, sizes)
    after = rewrite(graph, Context(dims={s: (n, n) for s, n in sizes.items()}), **(sizes if rewrite is freeze else {}))
    verify(after)
    for a, b in zip(evaluate(graph, inputs), evaluate(after, inputs), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
