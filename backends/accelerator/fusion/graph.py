"""From a graph to the steps that fusion chooses from: `workload.py`'s works, and who reads whose results.

A value that only changes its shape is the one it was made from; a tensor keeps its rows through ops that work element
by element, and through softmax and layer norm along other axes. All other vector work (pools, transposes, slices) needs
whole tensors, or is not fused where it reads but a part of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ....ir.graph import Graph, Node, Value
from ..vector import SELECTS, elements_of, tensor_bits
from ..workload import FREE, PRODUCTS, Work, _constant, layer_of, works_of_node
from .steps import Layout, Read, Step, layout_of, rowwise

__all__ = ["steps_of"]

LAST = {"nn.softmax", "nn.log_softmax", "nn.layer_norm"}
"""They work along an axis; the last one is no axis of rows."""
ROWS = {"nn.batch_norm"}
"""Not element by element, and yet each row for itself."""


def steps_of(graph: Graph, floats: int = 64, fit: Callable[[Work], Work] = lambda work: work) -> list[Step]:
    """The steps of a graph in order; `fit` gives a work the machine's number formats, as the plan's have."""
    state = _Steps(floats)
    for node in graph.nodes:
        works = [fit(w) for w in works_of_node(node, floats)]
        body = node.attrs.get("body")
        if not works:
            state.same(node)
        elif isinstance(body, Graph) and node.op.name == "tile.kernel":
            state.kernel(node, body, works)
        else:
            state.add(works[0], [node], node.outputs[0], {})
    outputs = {state.made.get(v) for v in graph.outputs}
    return [replace(s, kept=s.kept or i in outputs) for i, s in enumerate(state.steps)]


class _Steps:
    def __init__(self, floats: int) -> None:
        self.floats = floats
        self.steps: list[Step] = []
        self.made: dict[Value, int] = {}  # the step that makes a value
        self.cast: set[Value] = set()  # changed their shape since

    def same(self, node: Node, outer: dict[Value, Value] | None = None) -> None:
        """A node that moves nothing: its result is its operand."""
        source = node.inputs[0] if node.inputs else None
        source = (outer or {}).get(source, source) if source is not None else None
        if source in self.made:
            for v in node.outputs:
                self.made[v] = self.made[source]
                if node.op.name.startswith("shape.") or source in self.cast:
                    self.cast.add(v)

    def kernel(self, node: Node, body: Graph, works: list[Work]) -> None:
        """A kernel's works, each with the nodes of the body that are in it (as `workload._kernel` divides them)."""
        outer = {b: v for b, v in zip(body.inputs, node.inputs, strict=True) if v is not None}
        parts: list[list[Node]] = [[] for _ in works]
        at, seen = 0, False
        for one in body.nodes:
            if one.op.name in FREE:
                continue
            if layer_of(one, outer) is not None:
                at, seen = at + seen, True
            parts[at].append(one)
        inner: dict[Value, int] = {}
        for work, nodes in zip(works, parts, strict=True):
            self.add(work, nodes, nodes[-1].outputs[0], outer, inner)
            for one in nodes:
                inner.update(dict.fromkeys(one.outputs, len(self.steps) - 1))
            for one in body.nodes:  # shape changes of what was made so far
                if one.op.name in FREE and one.inputs and one.inputs[0] in inner:
                    inner.update(dict.fromkeys(one.outputs, inner[one.inputs[0]]))
                    self.cast.update(one.outputs)
        for inside, value in zip(body.outputs, node.outputs, strict=True):
            self.made[value] = inner.get(inside, len(self.steps) - 1)

    def add(
        self,
        work: Work,
        nodes: list[Node],
        result: Value,
        outer: dict[Value, Value],
        inner: dict[Value, int] | None = None,
    ) -> None:
        own = {v for one in nodes for v in one.outputs}
        reads: list[Read] = []
        plain = True  # the product's layer has the axes of its tensors, in their order
        for one in nodes:
            layer = work.layer if layer_of(one, outer) is not None else None
            roles = ("I", "W") if layer is not None else ()
            if layer is not None and _swapped(one, outer):
                roles, plain = ("W", "I"), False
            elif layer is not None:
                plain = one.op.name != "math.einsum" and one.outputs[0].type.rank <= 4
            for n, v in enumerate(one.inputs):
                if v is None or v in own:
                    continue
                source = outer.get(v, v)
                step = (inner or {}).get(v, self.made.get(source, -1))
                role = roles[n] if n < len(roles) else "V"
                bits = tensor_bits(source.type, self.floats) if role == "V" else 0
                known = step >= 0 and plain and v not in self.cast and source not in self.cast
                layout = self.steps[step].layout if known else None
                if role == "V":
                    same = layout is not None and elements_of(source.type) == elements_of(result.type)
                else:
                    same = role == "I" and layer is not None and rowwise(layout, layer)
                reads.append(Read(step, role, bits, same))
        layout = self._layout(work, nodes, reads, outer) if plain else None
        if work.layer is not None:
            bits = work.layer.words("O") * work.layer.bits[2]
        else:
            bits = sum(v.write_bits for v in work.vectors)
        fusible = not any(one.op.name in SELECTS for one in nodes)
        index = len(self.steps)
        self.steps.append(Step(work, tuple(reads), bits, layout, fusible=fusible))
        for one in nodes:
            for v in one.outputs:
                self.made[v] = index
        self.made[result] = index

    def _layout(self, work: Work, nodes: list[Node], reads: list[Read], outer: dict[Value, Value]) -> Layout | None:
        products = [one for one in nodes if layer_of(one, outer) is not None]
        if not all(one in products or self._local(one, on_path=bool(products)) for one in nodes):
            return None
        if work.layer is not None:
            return layout_of(work.layer)
        return next((self.steps[r.tensor].layout for r in reads if r.rowwise), None)

    def _local(self, node: Node, *, on_path: bool = False) -> bool:
        """Whether an op's rows depend on the same rows only."""
        if node.op.name in LAST:
            return node.attr("axis") in (-1, node.outputs[0].type.rank - 1)
        return node.op.has("elementwise") or node.op.name in ROWS or (on_path and node.op.name.startswith("quant."))


def _swapped(node: Node, outer: dict[Value, Value]) -> bool:
    """Whether a product's first operand is its weights (`workload._matmul`)."""
    a, b = node.inputs[0], node.inputs[1]
    if node.op.name not in PRODUCTS or a is None or b is None:
        return False
    return _constant(a, outer) is not None and _constant(b, outer) is None
