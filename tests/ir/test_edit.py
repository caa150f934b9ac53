"""The editor: what it makes means what it says, and the graph it was opened on stays as it was."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings

from intaglio.ir import Editor, Graph, IntaglioError, Tensor, evaluate, verify
from intaglio.ir.graph import attributes
from intaglio.ir.testing import graphs


def same(a: Any, b: Any) -> bool:
    return all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
    )


@settings(deadline=None, max_examples=100)
@given(graphs(max_nodes=8), st.data())
def test_replacing_a_node_by_its_copy_keeps_the_meaning(case: tuple[Graph, Any], data: st.DataObject) -> None:
    graph, inputs = case
    before = str(graph)
    assume(graph.nodes)
    e = Editor(graph)
    victim = data.draw(st.sampled_from(e.nodes))
    types = tuple(v.type for v in victim.outputs)
    copy = e.apply(victim.op, victim.inputs, victim.attrs, types=types)
    e.replace(victim, copy.outputs)
    assert not e.alive(victim) and e.alive(copy)
    edited = e.freeze()
    verify(edited)
    assert edited == graph or len(edited.nodes) == len(graph.nodes)
    assert same(evaluate(edited, inputs, check=True), evaluate(graph, inputs))
    assert str(graph) == before


@settings(deadline=None, max_examples=50)
@given(graphs(max_nodes=8), st.data())
def test_a_detour_keeps_the_meaning(case: tuple[Graph, Any], data: st.DataObject) -> None:
    """Every reader of one value reads it through a transposition there and back."""
    graph, inputs = case
    e = Editor(graph)
    value = data.draw(st.sampled_from([*e.inputs, *(v for n in e.nodes for v in n.outputs)]))
    back = tuple(range(len(value.type.shape)))
    readers = e.users(value)
    through = e.emit("shape.transpose", value, perm=back)
    if value.node is None:
        e.replace_value(value, through)
        through.node.inputs = (value,)  # type: ignore[union-attr]
    else:
        for node in readers:
            node.inputs = tuple(through if v is value else v for v in node.inputs)
    edited = e.freeze()
    verify(edited)
    assert same(evaluate(edited, inputs, check=True), evaluate(graph, inputs))


def chain() -> tuple[Editor, list[Any]]:
    e = Editor()
    x = e.input("x", Tensor((2,), "f32"))
    a = e.emit("math.neg", x, name="a")
    b = e.emit("math.abs", a)
    c = e.emit("math.add", a, b)
    e.output(c, "y")
    return e, [x, a, b, c]


def test_erasing_takes_what_only_the_erased_needed() -> None:
    e, (_, a, b, c) = chain()
    e.replace(c.node, [a])
    assert not e.alive(c.node) and not e.alive(b.node) and e.alive(a.node)
    assert [n.op.name for n in e.freeze().nodes] == ["math.neg"]


def test_nodes_in_use_are_not_erased() -> None:
    e, (_, a, b, c) = chain()
    e.erase(a.node)
    e.erase(c.node)  # read by the graph's output
    assert all(e.alive(v.node) for v in (a, b, c))


def test_names_stay_with_what_replaces() -> None:
    e, (x, a, *_) = chain()
    e.replace(a.node, [e.emit("math.relu", x)])
    graph = e.freeze()
    assert graph.nodes[0].op.name == "math.relu" and graph.nodes[0].output.name == "a"


def test_replacing_values() -> None:
    e, (x, a, b, _) = chain()
    z = e.input("z", Tensor((2,), "f32"))
    e.replace_value(x, z)
    e.replace_value(b, a)
    graph = e.freeze()
    (y,) = evaluate(graph, [np.array([9, 9], np.float32), np.array([1, 2], np.float32)])
    assert y.tolist() == [-2, -4] and len(graph.nodes) == 2


def test_outputs_can_be_inputs_and_repeat() -> None:
    e = Editor()
    x = e.input("x", Tensor((2,), "f32"))
    e.output(x, "a")
    e.output(x, "b")
    graph = e.freeze()
    verify(graph)
    again = Editor(graph)
    again.replace_value(again.inputs[0], again.emit("math.neg", again.inputs[0]))
    assert graph.nodes == () and graph.output_names == ("a", "b")


def test_small_constants_are_shared() -> None:
    e = Editor()
    one, two = e.constant(np.float32(1)), e.constant(np.float32(1), "again")
    assert one is two
    assert e.constant(np.float32(-0.0)) is not e.constant(np.float32(0.0))
    assert e.constant(np.int32(1)) is not one
    big = np.zeros(100, np.float32)
    assert e.constant(big) is not e.constant(big)


def test_what_is_not_needed_is_not_frozen() -> None:
    e, (x, *_) = chain()
    e.emit("math.exp", x)
    assert len(e.freeze().nodes) == 3


def test_order_is_operands_first_and_stable() -> None:
    e, (_, a, _, c) = chain()
    e.outputs[:] = []
    e.output(e.emit("math.mul", c, a), "d")
    assert [n.op.name for n in e.freeze().nodes] == ["math.neg", "math.abs", "math.add", "math.mul"]


def test_long_chains_need_no_deep_stack() -> None:
    e = Editor()
    v = e.input("x", Tensor((2,), "f32"))
    for _ in range(20_000):
        v = e.emit("math.neg", v)
    e.output(v, "y")
    graph = e.freeze()
    e = Editor(graph)
    e.replace(e.nodes[-1], [e.inputs[0]])
    assert len(graph.nodes) == 20_000 and e.freeze().nodes == ()


def test_mistakes_are_raised_at_once() -> None:
    e, (x, *_) = chain()
    for make, code in [
        (lambda: e.emit("math.rleu", x), "IG0208"),
        (lambda: e.emit("math.relu"), "IG0203"),
        (lambda: e.emit("math.relu", x, x), "IG0203"),
        (lambda: e.emit("math.relu", x, alpha=1.0), "IG0204"),
        (lambda: e.emit("math.leaky_relu", x, alpha=1), "IG0204"),
        (lambda: e.emit("nn.matmul", x, e.constant(np.zeros(3, np.float32))), "IG0207"),
        (lambda: e.apply("const", [], attributes({}), types=(x.type,)), "IG0204"),
    ]:
        with pytest.raises(IntaglioError) as caught:
            make()
        assert caught.value.diagnostics[0].code == code


def test_absent_operands_at_the_end_leave_no_trace() -> None:
    e = Editor()
    x, w = e.input("x", Tensor((1, 1, 4), "f32")), e.input("w", Tensor((1, 1, 3), "f32"))
    assert e.emit("nn.conv", x, w, None).node.inputs == (x, w)  # type: ignore[union-attr]
