"""The verifier: sound graphs pass, and each way of being ill-formed is found under its code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from intaglio.ir import OPS, Constant, Editor, Graph, IntaglioError, Location, Module, Node, Tensor, Value, dim, verify
from intaglio.ir.dims import UNKNOWN
from intaglio.ir.graph import NO_ATTRS, attributes
from intaglio.ir.testing import graphs
from intaglio.ir.types import NM, Affine, Cipher, Float, Int
from intaglio.ir.verify import agrees, check

F4, F3, I4 = Tensor((4,), "f32"), Tensor((3,), "f32"), Tensor((4,), "i64")


@settings(deadline=None, max_examples=50)
@given(graphs(max_nodes=10))
def test_sound_graphs_pass(case: tuple[Graph, Any]) -> None:
    assert check(case[0]) == []


def graph(
    *nodes: Node, inputs: tuple[Value, ...] = (), outputs: tuple[Value, ...] = (), names: tuple[str, ...] = ()
) -> Graph:
    return Graph("main", inputs, nodes, outputs, names)


def node(name: str, /, *inputs: Value | None, type: Any = F4, more: tuple[Any, ...] = (), **attrs: Any) -> Node:
    return Node(OPS[name], inputs, attributes(attrs), (type, *more))


def value(type: Any = F4, name: str = "x") -> Value:
    return Value(None, 0, type, name)


def body(type: Any = F4, read: Value | None = None) -> Graph:
    x = value(type)
    n = node("math.relu", read or x, type=type)
    return Graph("body", (x,), (n,), (n.output,), ("y",))


x, y, short, whole = value(), value(name="y"), value(F3, "s"), value(I4, "i")
cipher = value(Cipher((4,), "row", 3, 40))
relu = node("math.relu", x)
after = node("math.relu", relu.output)

ILL_FORMED: dict[str, tuple[str, Callable[[], Graph | Module]]] = {
    "a value from nowhere": ("IG0211", lambda: graph(node("math.relu", y), inputs=(x,))),
    "a value before its node": ("IG0211", lambda: graph(after, relu, inputs=(x,))),
    "an output from nowhere": ("IG0211", lambda: graph(relu, inputs=(x,), outputs=(y,))),
    "a node twice": ("IG0211", lambda: graph(relu, relu, inputs=(x,))),
    "a wrong type": ("IG0212", lambda: graph(node("math.relu", x, type=F3), inputs=(x,))),
    "a wrong element": ("IG0212", lambda: graph(node("math.relu", x, type=I4), inputs=(x,))),
    "too many results": ("IG0212", lambda: graph(node("math.relu", x, more=(F4,)), inputs=(x,))),
    "too few results": ("IG0212", lambda: graph(node("math.top_k", x, k=4), inputs=(x,))),
    "an unknown attribute": ("IG0204", lambda: graph(node("math.relu", x, alpha=0.5), inputs=(x,))),
    "an integer for a float": ("IG0204", lambda: graph(node("math.leaky_relu", x, alpha=1), inputs=(x,))),
    "an attribute is missing": ("IG0204", lambda: graph(node("math.cast", x), inputs=(x,))),
    "an axis that is not there": ("IG0204", lambda: graph(node("math.reduce_sum", x, axes=(1,)), inputs=(x,))),
    "a body that is none": ("IG0204", lambda: graph(node("tile.kernel", x, body="relu"), inputs=(x,))),
    "elements that differ": ("IG0206", lambda: graph(node("math.add", x, whole), inputs=(x, whole))),
    "a cipher among tensors": (
        "IG0206",
        lambda: graph(node("math.relu", cipher, type=F4), inputs=(cipher,)),
    ),
    "shapes that do not broadcast": ("IG0207", lambda: graph(node("math.add", x, short), inputs=(x, short))),
    "too many operands": ("IG0203", lambda: graph(node("math.relu", x, x), inputs=(x,))),
    "an operand is missing": ("IG0203", lambda: graph(node("math.add", x), inputs=(x,))),
    "an operand is absent": ("IG0203", lambda: graph(node("math.add", None, x), inputs=(x,))),
    "two inputs of one name": ("IG0213", lambda: graph(inputs=(value(), value()))),
    "two outputs of one name": ("IG0213", lambda: graph(inputs=(x,), outputs=(x, x), names=("o", "o"))),
    "an output without a name": ("IG0213", lambda: graph(inputs=(x,), outputs=(x, x), names=("o",))),
    "a constant of another shape": ("IG0209", lambda: graph(node("const", value=Constant(np.zeros(3, np.float32))))),
    "a constant of another type": ("IG0209", lambda: graph(node("const", value=Constant(np.zeros(4))))),
    "a kernel with other operands": ("IG0209", lambda: graph(node("tile.kernel", short, body=body()), inputs=(short,))),
    "a kernel with other results": ("IG0209", lambda: graph(node("tile.kernel", x, body=body(), type=F3), inputs=(x,))),
    "a body that reads from outside": ("IG0211", lambda: graph(node("tile.kernel", x, body=body(read=x)), inputs=(x,))),
    "an op that is not there": ("IG0208", lambda: graph(node("dyn.apply", x, op="math.rleu", params=()), inputs=(x,))),
    "an undeclared dimension": (
        "IG0210",
        lambda: Module("m", {"main": graph(inputs=(value(Tensor((dim("N"), dim("M")), "f32")),))}, {"N": (1, 4)}),
    ),
}


@pytest.mark.parametrize(("code", "make"), ILL_FORMED.values(), ids=ILL_FORMED)
def test_ill_formed_programs_are_found(code: str, make: Callable[[], Graph | Module]) -> None:
    found = check(make())
    assert [d.code for d in found] == [code] * len(found) and found
    with pytest.raises(IntaglioError) as caught:
        verify(make())
    assert caught.value.diagnostics == tuple(found)


def test_findings_say_where_a_node_came_from() -> None:
    bad = Node(OPS["math.relu"], (x, x), NO_ATTRS, (F4,), Location(("layer1",), ("fuse",)))
    (found,) = check(graph(bad, inputs=(x,)))
    assert 'from: "layer1", last rewritten by fuse' in found.notes
    assert found.label == "f32[4], f32[4]"


def test_all_findings_are_reported_up_to_a_limit() -> None:
    wrong = [node("math.relu", x, type=F3) for _ in range(30)]
    assert len(check(graph(*wrong[:7], inputs=(x,)))) == 7
    assert len(check(graph(*wrong, inputs=(x,)))) == 20


def test_written_types_may_claim_layout_and_know_extents() -> None:
    unknown = Tensor((dim("N"), 4), "f32")
    assert agrees(Tensor((4, 4), "f32", NM(2, 4, 0), "sram"), Tensor((4, 4), "f32"))
    assert agrees(Tensor((3, 4), "f32"), Tensor((UNKNOWN, 4), "f32"))
    assert not agrees(unknown, Tensor((3, 4), "f32"))
    assert not agrees(Tensor((4,), "f32"), Tensor((4, 1), "f32"))
    assert not agrees(Tensor((4,), Affine(Int("i8"), Float("f32"), 0.5)), Tensor((4,), "i8"))


def test_long_graphs_need_no_deep_stack() -> None:
    e = Editor()
    v = e.input("x", F4)
    for _ in range(5000):
        v = e.emit("math.relu", v)
    e.output(v, "y")
    verify(e.freeze())
