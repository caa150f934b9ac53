"""The rule language: what matches, what is built, and what the messages say."""

from __future__ import annotations

import traceback

import numpy as np
import pytest

from intaglio.ir import Editor, IntaglioError, Location, Tensor, dim, evaluate, verify
from intaglio.ir.graph import Graph, Value, attributes
from intaglio.ir.rewrite import Exact, Lossy, Ruleset, parse_rules, rewrite, rule
from intaglio.ir.rewrite.build import Match


def rules(text: str) -> Ruleset:
    return Ruleset(parse_rules(text))


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if n.op.name != "const"]


def unary(*names: str, shape: tuple[object, ...] = (2, 3), elem: str = "f32") -> Graph:
    e = Editor()
    v = e.input("x", Tensor(shape, elem))  # type: ignore[arg-type]
    for i, name in enumerate(names):
        e.loc = Location((f"layer{i}",))
        v = e.emit(name, v)
    e.output(v, "y")
    return e.freeze()


RELU = "rule relu-relu exact: relu(relu(x)) => relu(x)"


def test_chains_collapse_to_a_fixed_point() -> None:
    graph = unary(*["math.relu"] * 9)
    after, statistics = rewrite(graph, rules(RELU))
    assert ops(after) == ["math.relu"]
    assert statistics.fired == {"relu-relu": 8}
    assert ops(graph) == ["math.relu"] * 9, "the graph that was given stays as it was"


def test_nothing_to_do_gives_the_same_graph() -> None:
    graph = unary("math.neg", "math.abs")
    after, statistics = rewrite(graph, rules(RELU))
    assert after is graph
    assert statistics.total == 0


def test_new_nodes_carry_fused_locations_and_the_rule() -> None:
    after, _ = rewrite(unary("math.relu", "math.relu"), rules(RELU))
    loc = after.nodes[0].loc
    assert loc is not None
    assert set(loc.sources) == {"layer0", "layer1"}
    assert loc.rules == ("relu-relu",)


def test_limit() -> None:
    after, statistics = rewrite(unary(*["math.relu"] * 5), rules(RELU), limit=1)
    assert statistics.total == 1
    assert len(ops(after)) == 4


@pytest.mark.parametrize("first", [True, False])
def test_commutative_ops_match_in_both_orders(first: bool) -> None:
    e = Editor()
    x, one = e.input("x", Tensor((3,), "f32")), e.constant(np.float32(1))
    e.output(e.emit("math.mul", *((one, x) if first else (x, one))), "y")
    after, _ = rewrite(e.freeze(), rules("rule mul-one exact: mul(x, 1) => x"))
    assert ops(after) == []
    assert after.outputs[0] is after.inputs[0]


def test_sub_does_not() -> None:
    e = Editor()
    x, zero = e.input("x", Tensor((3,), "f32")), e.constant(np.float32(0))
    e.output(e.emit("math.sub", zero, x), "y")
    _, statistics = rewrite(e.freeze(), rules("rule sub-zero exact: sub(x, 0) => x"))
    assert statistics.total == 0


@pytest.mark.parametrize(
    ("written", "number", "fires"), [("0", 0.0, True), ("0", -0.0, False), ("-0.0", -0.0, True), ("-0.0", 0.0, False)]
)
def test_zeros_match_by_sign(written: str, number: float, fires: bool) -> None:
    e = Editor()
    x, zero = e.input("x", Tensor((3,), "f32")), e.constant(np.full(3, number, np.float32))
    e.output(e.emit("math.add", x, zero), "y")
    _, statistics = rewrite(e.freeze(), rules(f"rule z real: add(x, {written}) => x"))
    assert bool(statistics.total) == fires


def test_a_name_twice_is_the_same_value_or_equal_constant() -> None:
    text = "rule same exact: sub(mul(x, c: const), mul(y, c: const)) => mul(sub(x, y), c)"
    for other, fires in ((2.0, True), (3.0, False)):
        e = Editor()
        x, y = e.input("x", Tensor((3,), "f32")), e.input("y", Tensor((3,), "f32"))
        a, b = e.constant(np.full(3, 2.0, np.float32), "a"), e.constant(np.full(3, other, np.float32), "b")
        e.output(e.emit("math.sub", e.emit("math.mul", x, a), e.emit("math.mul", y, b)), "z")
        _, statistics = rewrite(e.freeze(), rules(text))
        assert bool(statistics.total) == fires


def test_attributes_bind_and_unmentioned_ones_are_at_their_default() -> None:
    e = Editor()
    x = e.input("x", Tensor((2, 3, 4), "f32"))
    e.output(e.emit("shape.transpose", e.emit("shape.transpose", x, perm=(1, 2, 0)), perm=(2, 0, 1)), "y")
    graph = e.freeze()
    merged, _ = rewrite(
        graph, rules("rule tt exact: transpose(transpose(x, perm=p), perm=q) => transpose(x, perm=[p[i] for i in q])")
    )
    assert [n.attrs["perm"] for n in merged.nodes] == [(0, 1, 2)]

    e = Editor()
    v = e.input("x", Tensor((1, 2, 8, 8), "f32"))
    e.output(e.emit("nn.max_pool", e.emit("nn.max_pool", v, kernel=(2, 2)), kernel=(2, 2), strides=(2, 2)), "y")
    _, statistics = rewrite(e.freeze(), rules("rule p exact: max_pool(max_pool(x, kernel=k), kernel=k) => x"))
    assert statistics.total == 0, "strides are not at their default, so the pattern does not match"


def test_rest_of_the_attributes() -> None:
    e = Editor()
    x, w = e.input("x", Tensor((1, 2, 8, 8), "f32")), e.constant(np.ones((2, 2, 3, 3), np.float32), "w")
    b = e.constant(np.ones((2, 1, 1), np.float32))
    e.output(e.emit("math.add", e.emit("nn.conv", x, w, pads=(1, 1, 1, 1), strides=(2, 2)), b), "y")
    text = """rule bias real:
        add(conv(x, w, none, **a), c: const) where one_use(conv), shape(c) == [dim(w, 0), 1, 1]
        => conv(x, w, reshape(c, shape=[dim(w, 0)]), **a)"""
    graph = e.freeze()
    after, _ = rewrite(graph, rules(text))
    assert ops(after) == ["nn.conv"]
    data = np.random.default_rng(0).standard_normal((1, 2, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(evaluate(after, [data])[0], evaluate(graph, [data])[0], rtol=1e-6)


def test_one_use_protects_shared_work() -> None:
    e = Editor()
    x = e.input("x", Tensor((2, 3), "f32"))
    inner = e.emit("math.relu", x)
    e.output(e.emit("math.relu", inner), "y")
    e.output(inner, "z")
    graph = e.freeze()
    guarded = rules("rule r exact: relu(i@relu(x)) where one_use(i) => relu(x)")
    assert rewrite(graph, guarded)[1].total == 0
    after, statistics = rewrite(graph, rules(RELU))
    assert statistics.total == 1
    assert ops(after) == ["math.relu", "math.relu"], "correct, but no better: that is what one_use is for"


def test_variadic_operands_and_result_numbers() -> None:
    e = Editor()
    x = e.input("x", Tensor((4, 6), "f32"))
    parts = e.apply("shape.split", [x], attributes({"axis": 1, "sizes": (2, 4)})).outputs
    e.output(e.emit("shape.concat", *parts, axis=1), "y")
    text = """rule sc exact:
        concat(split(x, axis=i, sizes=s)#0, split(x, axis=i, sizes=s)#1, axis=i) where len(s) == 2 => x"""
    after, _ = rewrite(e.freeze(), rules(text))
    assert ops(after) == []
    e = Editor()
    x = e.input("x", Tensor((4, 6), "f32"))
    e.output(e.emit("shape.concat", x, x, x, axis=0), "y")
    after, _ = rewrite(e.freeze(), rules("rule c exact: concat(a, a, a, axis=0) => tile(a, repeats=[3, 1])"))
    assert ops(after) == ["shape.tile"]


def test_constants_on_the_right_are_folded() -> None:
    e = Editor()
    x = e.input("x", Tensor((3,), "f32"))
    a, b = e.constant(np.float32(2)), e.constant(np.float32(5))
    e.output(e.emit("math.mul", e.emit("math.mul", x, a), b), "y")
    after, _ = rewrite(e.freeze(), rules("rule m real: mul(mul(x, a: const), b: const) => mul(x, a * b)"))
    assert ops(after) == ["math.mul"]
    constant = next(n.constant for n in after.nodes if n.constant is not None)
    assert float(constant.array) == 10.0


def test_symbolic_shapes_flow_through() -> None:
    e = Editor()
    x = e.input("x", Tensor((dim("N"), 4), "f32"))
    y = e.emit("shape.reshape", e.emit("shape.reshape", x, shape=(dim("N"), 2, 2)), shape=(dim("N") * 4,))
    e.output(y, "y")
    after, _ = rewrite(e.freeze(), rules("rule rr exact: reshape(reshape(x, shape=_), shape=s) => reshape(x, shape=s)"))
    verify(after)
    assert ops(after) == ["shape.reshape"]
    assert evaluate(after, [np.ones((3, 4), np.float32)])[0].shape == (12,)


# --- mistakes -------------------------------------------------------------------------------------------------------

BAD = [
    ("rule a exact: rely(x) => x", "IG0412", 1, 15, "did you mean"),
    ("rule a exact: relu(x) => y", "IG0413", 1, 26, "bound are"),
    ("rule a exact: relu(x, y) => x", "IG0412", 1, 15, ""),
    ("rule a exact: relu(x) where foo(x) => x", "IG0412", 1, 29, ""),
    ("rule a exact: transpose(x, perms=p) => x", "IG0412", 1, 28, "it has: perm"),
    ("rule a exact:\n  relu(x, => x", "IG0410", 2, 11, "expected"),
    ("rule a exakt: relu(x) => x", "IG0410", 1, 8, "expected"),
    ("rule a exact: x => x", "IG0412", 1, 15, ""),
    ("rule a exact: relu(x) => x\nrule a exact: neg(x) => x", "IG0411", 2, 6, ""),
    ("rule a exact: top_k(x, k=k) => x", "IG0412", 1, 32, ""),
    ("rule a bounded(abs=1e-3, foo=2): relu(x) => x", "IG0412", 1, 26, "abs="),
    ("rule a exact: relu(x)", "IG0410", 1, 21, "=>"),
]


@pytest.mark.parametrize(("text", "code", "line", "column", "hint"), BAD)
def test_mistakes_are_found_when_rules_are_read(text: str, code: str, line: int, column: int, hint: str) -> None:
    with pytest.raises(IntaglioError) as caught:
        parse_rules(text, "some.rules")
    d = caught.value.diagnostics[0]
    assert d.code == code
    assert d.position is not None
    assert (d.position.file, d.position.line, d.position.column) == ("some.rules", line, column), str(d)
    assert hint in d.hint


def test_a_rule_that_changes_a_type_is_named() -> None:
    with pytest.raises(IntaglioError, match="rule `cut` replaces f32\\[2, 3\\] by f32\\[3, 2\\]"):
        rewrite(unary("math.relu"), rules("rule cut exact: relu(x) => transpose(x, perm=[1, 0])"))


def test_a_rule_that_builds_nonsense_is_named() -> None:
    with pytest.raises(IntaglioError, match="rule `bad` builds something ill-typed"):
        rewrite(unary("math.relu"), rules("rule bad exact: relu(x) => reshape(x, shape=[7])"))


def test_loops_are_cut_off_and_named() -> None:
    text = "rule there exact: relu(x) => neg(neg(x))\nrule back exact: neg(neg(x)) => relu(x)"
    with pytest.raises(IntaglioError) as caught:
        rewrite(unary("math.relu"), rules(text))
    d = caught.value.diagnostics[0]
    assert d.code == "IG0402"
    assert "there" in d.message
    assert "back" in d.message


def test_growth_without_end_is_cut_off() -> None:
    with pytest.raises(IntaglioError, match="does not come to an end"):
        rewrite(unary("math.relu"), rules("rule grow exact: relu(x) => relu(relu(x))"))


# --- Python on the right --------------------------------------------------------------------------------------------


def test_python_right_sides() -> None:
    @rule("mul(x, c: const) where splat(c) != none", contract=Exact())
    def doubling(m: Match, *, factor: float = 2.0) -> Value | None:
        """x * 2 is x + x."""
        if float(m.c.node.constant.array.reshape(-1)[0]) != factor:
            return None
        return m.emit("math.add", m.x, m.x)

    e = Editor()
    x = e.input("x", Tensor((3,), "f32"))
    e.output(e.emit("math.mul", x, e.constant(np.float32(2))), "y")
    graph = e.freeze()
    after, statistics = rewrite(graph, Ruleset([doubling]))
    assert ops(after) == ["math.add"]
    assert statistics.fired == {"doubling": 1}
    assert doubling.doc == "x * 2 is x + x."
    assert rewrite(graph, Ruleset([doubling.with_options(factor=3.0)]))[1].total == 0
    with pytest.raises(IntaglioError, match="no option `fator`"):
        doubling.with_options(fator=3.0)


def test_lossy_contracts_say_what_they_lose() -> None:
    (made,) = parse_rules("rule p lossy(rel_l2 <= 0.01): tanh(x) => x")
    assert made.contract == Lossy("rel_l2", 0.01)


def test_tracebacks_show_the_generated_source() -> None:
    @rule("relu(x)", contract=Exact())
    def broken(m: Match) -> Value:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError) as caught:
        rewrite(unary("math.relu"), Ruleset([broken], "demo"))
    text = "".join(traceback.format_exception(caught.value))
    assert "<rules demo>" in text
    assert "build.call(" in text


def test_the_order_is_deterministic() -> None:
    graph = unary(*["math.relu", "math.neg"] * 20)
    text = RELU + "\nrule neg-neg exact: neg(neg(x)) => x\nrule abs-neg exact: abs(neg(x)) => abs(x)"
    results = {rewrite(graph, rules(text))[0].digest for _ in range(3)}
    assert len(results) == 1
