"""Corners of the rule language and of the driver that rules rely on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from intaglio.ir import Editor, Graph, IntaglioError, Tensor, evaluate, verify
from intaglio.ir.graph import Value
from intaglio.ir.ops import OPS
from intaglio.ir.rewrite import Exact, Ruleset, parse_rules, rewrite, rule
from intaglio.ir.rewrite.build import Match
from intaglio.ir.target import node_cost
from intaglio.ir.text import parse_graph


def rules(text: str) -> Ruleset:
    return Ruleset(parse_rules("\n".join(f"/// {i}.\nrule r{i} {line}" for i, line in enumerate(text.splitlines()))))


def names(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if n.op.name != "const"]


def unary(*lines: str, type: str = "f32[4]") -> Graph:
    body = "\n".join(f"  {line}" for line in lines)
    return parse_graph(f"graph @main(%x: {type}, %z: {type}) -> (y: {type}) {{\n{body}\n  return %y\n}}\n")


# --- the language -----------------------------------------------------------------------------------------------------


def test_commutative_operands_are_found_in_all_orders_however_many_there_are() -> None:
    """Six products and sums around one another: 64 orders."""
    found = rules("real: mul(mul(x, add(tanh(mul(add(mul(exp(x), 3), x), 5)), 1)), 7) => relu(x)")
    for flips in itertools.product((0, 1), repeat=6):
        e = Editor()
        x = e.input("x", Tensor((4,), "f32"))

        def both(op: str, a: Value, b: float | Value, flip: int, e: Editor = e) -> Value:
            other = b if isinstance(b, Value) else e.constant(np.float32(b))
            return e.emit(op, *((other, a) if flip else (a, other)))

        y = both("math.mul", e.emit("math.exp", x), 3, flips[0])
        y = both("math.mul", both("math.add", y, x, flips[1]), 5, flips[2])
        y = both("math.add", e.emit("math.tanh", y), 1, flips[3])
        y = both("math.mul", both("math.mul", x, y, flips[4]), 7, flips[5])
        e.output(y, "y")
        assert names(rewrite(e.freeze(), found)[0]) == ["math.relu"]


def test_a_name_that_comes_again_makes_the_order_matter() -> None:
    found = rules("real: sub(add(x, y), y) where is_float(x) => x")
    for first, second in (("%x, %z", "%z"), ("%z, %x", "%z")):
        graph = unary(f"%0 = math.add({first}) : f32[4]", f"%y = math.sub(%0, {second}) : f32[4]")
        assert names(rewrite(graph, found)[0]) == []


def test_numbers_match_by_value_sign_and_rounding() -> None:
    def fires(pattern: str, value: float, dtype: str = "f32") -> bool:
        e = Editor()
        x = e.input("x", Tensor((2,), dtype))
        e.output(e.emit("math.add", x, e.constant(np.asarray(value, Tensor((), dtype).dtype))), "y")
        return rewrite(e.freeze(), rules(f"real: add(x, {pattern}) => relu(x)"))[1].total == 1

    assert fires("0", 0.0) and not fires("0", -0.0) and fires("-0.0", -0.0)
    assert fires("-inf", -math.inf) and not fires("-inf", math.inf)
    assert fires("0", 0, "i4") and fires("-0.0", 0, "i32")
    assert fires("0.7071067811865476", 0.70710677) and fires("0.7071067811865476", 0.7071068)
    assert not fires("0.7071067811865476", 0.70711) and not fires("0.5", 0.50000006)
    assert not fires("0.7071067811865476", 0.70710677, "f64")


def test_several_spreads_and_computed_attributes() -> None:
    found = rules(
        "exact: concat(x, concat(*xs, axis=a), *ys, axis=a) => concat(x, *xs, *ys, axis=a)\n"
        "exact: slice(slice(x, **a), **b) where merged_slice(x, a, b) != none => slice(x, **merged_slice(x, a, b))"
    )
    graph = parse_graph(
        "graph @main(%x: f32[2]) -> (y: f32[10]) {\n  %0 = shape.concat(%x, %x) {axis = 0} : f32[4]\n"
        "  %y = shape.concat(%x, %0, %x, %x) {axis = 0} : f32[10]\n  return %y\n}\n"
    )
    after, _ = rewrite(graph, found)
    assert [len(n.inputs) for n in after.nodes] == [5]
    e = Editor()
    x = e.input("x", Tensor((20, 6), "f32"))
    y = e.emit("shape.slice", x, starts=(2, 1), stops=(18, 6), axes=(0, 1), steps=(3, 1))
    e.output(e.emit("shape.slice", y, starts=(-4,), stops=(1 << 40,), axes=(0,), steps=(2,)), "y")
    before = e.freeze()
    after, statistics = rewrite(before, found)
    verify(after)
    data = np.arange(120, dtype=np.float32).reshape(20, 6)
    assert statistics.total == 1 and np.array_equal(*evaluate(before, [data]), *evaluate(after, [data]))


def test_words_of_the_language_name_ops_in_full() -> None:
    found = rules("exact: math.not(math.and(x, math.not(y))) => math.or(math.not(x), y)")
    graph = unary(
        "%0 = math.not(%z) : bool[4]", "%1 = math.and(%0, %x) : bool[4]", "%y = math.not(%1) : bool[4]", type="bool[4]"
    )
    assert names(rewrite(graph, found)[0]) == ["math.not", "math.or"]


def test_a_spread_that_is_not_bound() -> None:
    for right in ("concat(*ys, axis=0)", "concat(x, **b, axis=0)"):
        with pytest.raises(IntaglioError, match="IG0413"):
            rules(f"exact: concat(x, *xs, axis=0) => {right}")


# --- the driver -------------------------------------------------------------------------------------------------------


def test_constants_that_are_combined_step_by_step_stay() -> None:
    @rule("mul(x, c: const)", contract=Exact())
    def more(m: Match) -> Value | None:
        """Uses a constant twice that nothing else reads."""
        doubled = m.emit("math.add", m.c, m.c)
        once = m.emit("math.relu", doubled)
        return m.emit("math.sub", m.x, m.emit("math.add", once, doubled))

    graph = unary("%0 = const 2.0 : f32[]", "%y = math.mul(%x, %0) : f32[4]")
    after, _ = rewrite(graph, Ruleset([more]))
    verify(after)
    assert evaluate(after, [np.zeros(4, np.float32)] * 2)[0].tolist() == [-8.0] * 4


def test_readers_of_what_became_an_input_are_looked_at_again() -> None:
    """What is made last, abs(neg(x)), becomes x; its reader was looked at before."""
    found = rules(
        "exact: neg(abs(x)) => tanh(abs(neg(x)))\nexact: abs(neg(x)) where is_float(x) => x\nexact: tanh(x) => exp(x)"
    )
    graph = unary("%0 = math.abs(%x) : f32[4]", "%y = math.neg(%0) : f32[4]")
    assert names(rewrite(graph, found)[0]) == ["math.exp"]


def test_the_rule_at_fault_is_named() -> None:
    found = rules("exact: relu(x) => neg(x)\nexact: tanh(x) => reshape(x, shape=[5])")
    with pytest.raises(IntaglioError, match="rule `r1` builds something ill-typed"):
        rewrite(unary("%0 = math.relu(%x) : f32[4]", "%y = math.tanh(%0) : f32[4]"), found)


def test_some_nodes_only() -> None:
    found = rules("real: relu(x) => maximum(x, 0)")
    graph = unary("%0 = math.relu(%x) : f32[4]", "%1 = math.neg(%0) : f32[4]", "%y = math.relu(%1) : f32[4]")
    after, statistics = rewrite(graph, found, only=lambda n: n.inputs[0].node is None)  # type: ignore[union-attr]
    assert statistics.total == 1 and names(after) == ["math.maximum", "math.neg", "math.relu"]


def test_deep_chains_are_no_loops() -> None:
    e = Editor()
    x = e.input("x", Tensor((4, 4), "f32"))
    y = e.emit("shape.transpose", x, perm=(1, 0))
    for _ in range(500):
        y = e.emit("math.tanh", y)
    e.output(y, "y")
    found = rules("exact: tanh(transpose(x, perm=p)) => transpose(tanh(x), perm=p)")
    after, statistics = rewrite(e.freeze(), found)
    assert statistics.total == 500 and names(after)[-1] == "shape.transpose"


def test_the_cost_of_einsum_is_that_of_its_loops() -> None:
    e = Editor()
    a, b = e.input("a", Tensor((2, 3), "f32")), e.input("b", Tensor((3, 5), "f32"))
    product = e.emit("math.einsum", a, b, equation="ij,jk->ik").node
    assert product is not None and product.op is OPS["math.einsum"] and node_cost(product).flops == 2 * 2 * 3 * 5
