"""What a target refuses is rewritten, and what is left is reported with its place in the model."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.ir import Graph, IntaglioError, Location, Node, evaluate, verify
from intaglio.ir.edit import Editor
from intaglio.ir.legality import Case, Legality
from intaglio.ir.target import Cost
from intaglio.ir.text import parse_graph
from intaglio.ir.types import Tensor
from intaglio.passes.definition import Context
from intaglio.passes.legalize import legalize

TABLE = Legality(
    Case("math.*", elems=("f32", "bool")),
    Case("math.erf", refuse="write it as a polynomial"),
    Case("math.tan", refuse="it has sine and cosine"),
    Case("const"),
    Case("nn.conv", elems=("f32",), ranks=(4,), attrs={"g": (1,)}),
    Case("shape.*", static=True),
    Case("nn.max_pool"),
)


class Small:
    """A target with a table."""

    name = "small"

    def legal(self, node: Node) -> str:
        return TABLE.explain(node)

    def cost(self, graph: Graph) -> Cost:
        return Cost()


def graph_of(*lines: str, type: str = "f32[2, 4]") -> Graph:
    body = "\n".join(f"  {line}" for line in lines)
    return parse_graph(f"graph @main(%x: {type}) -> (y: {type}) {{\n{body}\n  return %y\n}}\n")


def test_illegal_nodes_are_written_as_legal_ones() -> None:
    graph = graph_of("%0 = nn.softmax(%x) : f32[2, 4]", "%y = math.tan(%0) : f32[2, 4]")
    context = Context(target=Small())
    after = legalize(graph, context)
    verify(after)
    assert {n.op.name for n in after.nodes} == {
        "math.reduce_max", "math.sub", "math.exp", "math.reduce_sum", "math.div", "math.sin", "math.cos",
    }  # fmt: skip
    x = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_allclose(evaluate(after, [x])[0], evaluate(graph, [x])[0], rtol=1e-6)
    assert context.notes == ["without-softmax 1, without-tan 1"]


def test_what_is_legal_stays() -> None:
    graph = graph_of("%0 = math.relu(%x) : f32[2, 4]", "%y = math.neg(%0) : f32[2, 4]")
    assert legalize(graph, Context(target=Small())) is graph
    assert legalize(graph) is graph  # no target: everything is legal


def test_what_is_left_is_reported() -> None:
    e = Editor()
    x = e.input("x", Tensor((2, 4), "f32"))
    e.loc = Location(("encoder.gelu",))
    e.output(e.emit("nn.gelu", x), "y")
    with pytest.raises(IntaglioError) as caught:
        legalize(e.freeze(), Context(target=Small()))
    (found,) = caught.value.diagnostics
    assert found.code == "IG0420"
    assert found.message == "the target does not run `math.erf`: write it as a polynomial"
    assert found.notes == ('from: "encoder.gelu", last rewritten by without-gelu',)
    context = Context(target=Small())
    after = legalize(e_again(), context, strict=False)
    assert "math.erf" in {n.op.name for n in after.nodes}
    assert context.notes[-1] == found.message


def e_again() -> Graph:
    return graph_of("%y = nn.gelu(%x) : f32[2, 4]")


@pytest.mark.parametrize(
    ("line", "type", "reason"),
    [
        ("%y = math.relu(%x) : f32[2]", "f32[2]", ""),
        ("%y = math.relu(%x) : f16[2]", "f16[2]", "f16 is none of f32, bool"),
        ("%y = math.erf(%x) : f32[2]", "f32[2]", "write it as a polynomial"),
        ("%y = shape.reverse(%x) {axes = [0]} : f32[N]", "f32[N]", "f32[N] has no fixed shape"),
        ("%y = nn.softmax(%x) : f32[2]", "f32[2]", "there is no `nn.softmax`"),
    ],
)
def test_tables_explain(line: str, type: str, reason: str) -> None:
    (node,) = graph_of(line, type=type).nodes
    assert TABLE.explain(node) == reason


def test_tables_look_at_ranks_and_attributes() -> None:
    e = Editor()
    x = e.input("x", Tensor((1, 2, 5), "f32"))
    flat = e.emit("nn.conv", x, e.constant(np.ones((2, 2, 1), np.float32)))
    assert TABLE.explain(flat.node) == "a result of 3 axes, not 4"  # type: ignore[arg-type]
    z = e.input("z", Tensor((1, 2, 5, 5), "f32"))
    grouped = e.emit("nn.conv", z, e.constant(np.ones((2, 1, 1, 1), np.float32)), g=2)
    assert TABLE.explain(grouped.node) == "g = 2 is none of 1"  # type: ignore[arg-type]


def test_options_do_without_ops() -> None:
    after = legalize(graph_of("%y = math.relu(%x) : f32[2, 4]"), without=("math.relu",))
    assert [n.op.name for n in after.nodes if n.op.name != "const"] == ["math.maximum"]
    with pytest.raises(IntaglioError, match="IG0420"):
        legalize(graph_of("%y = math.erf(%x) : f32[2, 4]"), without=("math.erf",))
