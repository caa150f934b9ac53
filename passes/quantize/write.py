"""The graph with what the sweep decided: casts to codes and back at every point, weights as codes."""

from __future__ import annotations

from ...ir.graph import Graph, Node, Value
from ...ir.types import Tensor
from ..rebuild import Rebuild
from .dynamic import Tokens
from .formats import F32
from .plan import Plan, bias_of
from .settings import Quantize
from .sweep import Decisions

__all__ = ["written"]


def written(graph: Graph, plan: Plan, found: Decisions, dynamic: Quantize | None = None) -> Graph:
    """Floats between `quantize` and `dequantize`: what reads a point as codes reads it behind a pair of casts.

    With the options of `dynamic`, products of the plan that read codes are written as `Tokens` has it.
    """
    to = Rebuild(graph)
    tokens = Tokens(to, plan, dynamic) if dynamic is not None else None
    coded: dict[Value, Value] = {}

    def casts(v: Value) -> None:
        elem = found.points.get(v)
        now = to.now[v]
        if elem is not None and now is not None:
            coded[v] = to.editor.emit("quant.dequantize", to.editor.emit("quant.quantize", now, to=elem), to=F32)

    for v in graph.inputs:
        casts(v)

    def step(to: Rebuild, node: Node) -> None:
        if tokens is not None and (node, 0) in plan.coded and node in found.weights:
            tokens.put(node, found.weights[node])
            return
        held: dict[Value, Value | None] = {}
        for i, v in enumerate(node.inputs):
            if v is not None and (node, i) in plan.coded and v in coded:
                held.setdefault(v, to.now[v])
                to.now[v] = coded[v]
        extra = _constants(to, node, held)
        if extra is None:
            to.keep(node)
        else:
            operands = [*to.operands(node)[:2], extra]
            to.put(node, to.editor.apply(node.op, operands, node.attrs).outputs)
        for v, now in held.items():
            to.now[v] = now
        for v in node.outputs:
            casts(v)

    def _constants(to: Rebuild, node: Node, held: dict[Value, Value | None]) -> Value | None:
        """Put the new weights and bias in place; a bias that had no operand yet is returned."""
        made, bias = found.weights.get(node), found.biases.get(node)
        if made is not None:
            w = node.inputs[1]
            assert w is not None
            stored = to.editor.constant(made.codes, w.name, Tensor(made.codes.shape, made.elem))
            held.setdefault(w, to.now[w])
            to.now[w] = to.editor.emit("quant.dequantize", stored, to=F32)
        if bias is None:
            return None
        layer = plan.layers[plan.added.get(node, node)]
        place = bias_of(layer, plan)
        name = layer.name + ".bias"
        if place is None:
            return to.editor.constant(bias, name)
        old = node.inputs[place[1]]
        assert old is not None
        held.setdefault(old, to.now[old])
        to.now[old] = to.editor.constant(bias, old.name or name)
        return None

    def last(to: Rebuild, node: Node) -> None:
        """Outputs that are points are read behind their casts."""
        step(to, node)
        if node is graph.nodes[-1]:
            for v in graph.outputs:
                to.now[v] = coded.get(v, to.now[v])

    return to.finish(last)
