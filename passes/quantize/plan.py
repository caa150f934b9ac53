"""What of a graph is quantised: which weights, and at which values codes are stored.

A *layer* is a convolution or matrix product with constant weights. A *point* is a value that is rounded to codes: what
goes into layers, residual sums and pools, and what comes out of them, after the bias and the activation that the same
kernel applies. Between a point and the next one everything is a single integer kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...ir.graph import Graph, Node, Value
from ...ir.types import Tensor
from ..rebuild import array_of
from .formats import F32

__all__ = ["Layer", "Plan", "bias_of", "make_plan"]

# Codes go through unchanged: the result has the scale of the operand.
PASS = frozenset(
    f"{d}.{n}"
    for d, names in {
        "shape": (
            "reshape",
            "transpose",
            "squeeze",
            "unsqueeze",
            "slice",
            "split",
            "reverse",
            "expand",
            "tile",
            "concat",
        ),
        "nn": ("max_pool",),
    }.items()
    for n in names
)
PAD = "shape.pad"  # also, where it pads with zeros: 0 has a code
# A kernel of its own on codes, with a scale of its own for the result.
COMPUTE = frozenset({"nn.conv", "nn.matmul", "nn.avg_pool", "math.reduce_mean", "math.add", "math.relu"})
# What a kernel applies to its sum before it rounds.
FOLLOW = frozenset({"math.relu", "math.minimum", "math.maximum"})


@dataclass(frozen=True)
class Layer:
    """A node with constant weights; `matrix` views them as [groups, outputs, inputs x window]."""

    node: Node
    name: str
    first: bool  # reads an input of the graph
    last: bool  # no layer behind it

    @property
    def weights(self) -> Any:
        return array_of(self.node.inputs[1])

    @property
    def is_conv(self) -> bool:
        return self.node.op.name == "nn.conv"

    @property
    def axis(self) -> int:
        """The axis of output channels in the weights."""
        return 0 if self.is_conv else self.weights.ndim - 1

    @property
    def groups(self) -> int:
        return int(self.node.attr("g")) if self.is_conv else 1

    def matrix(self, w: Any) -> Any:
        """Weights as [G, M/G, K]."""
        if self.is_conv:
            return w.reshape(self.groups, w.shape[0] // self.groups, -1)
        return w.reshape(len(w), -1).T[None]

    def unmatrix(self, m: Any) -> Any:
        """Back to the shape of the weights."""
        return (m if self.is_conv else m[0].T).reshape(self.weights.shape)


@dataclass
class Plan:
    """`ties` maps a point to the one whose range it shares (its own root)."""

    layers: dict[Node, Layer] = field(default_factory=dict)
    points: set[Value] = field(default_factory=set)
    coded: set[tuple[Node, int]] = field(default_factory=set)  # operands that read codes
    ties: dict[Value, Value] = field(default_factory=dict)
    biases: dict[Node, Node] = field(default_factory=dict)  # the sum that adds a product's bias, by product

    def root(self, v: Value) -> Value:
        while self.ties.get(v, v) is not v:
            v = self.ties[v]
        return v

    @property
    def added(self) -> dict[Node, Node]:
        return {b: a for a, b in self.biases.items()}


def make_plan(graph: Graph) -> Plan:
    """Layers, points and ties of a graph that has been canonicalised."""
    plan = Plan()
    uses, outputs = graph.uses(), set(graph.outputs)
    residual = not any(n.op.name == "nn.layer_norm" for n in graph.nodes)
    _layers(graph, plan, uses)
    chain: dict[Value, bool] = {}  # values that a kernel computes, bias and activation included
    inner: set[Node] = set()  # sums and activations that belong to the kernel before them
    for node in graph.nodes:
        source = _followed(node)
        if source is not None and chain.get(source) and len(uses.get(source, ())) == 1 and source not in outputs:
            inner.add(node)
            chain[node.output] = True
        else:
            chain[node.output] = node.op.name in COMPUTE and _computes(node, residual)
    for node in graph.nodes:
        if node in inner or not (passes_codes(node) or _computes(node, residual)):
            continue
        for i, v in enumerate(node.inputs):
            if v is not None and _real(v) and array_of(v) is None and not (i and node.op.name == "nn.conv"):
                plan.points.add(v)
                plan.coded.add((node, i))
        if passes_codes(node):
            plan.points.update(v for v in node.outputs if _real(v))
    for v in graph.outputs:
        if _real(v) and v.node is not None and (chain.get(v) or passes_codes(v.node)):
            plan.points.add(v)
    _passes(graph, plan, uses, outputs)
    return plan


def passes_codes(node: Node) -> bool:
    """Whether codes go through a node unchanged."""
    if node.op.name == PAD:
        return len(node.inputs) == 1 and node.attr("mode") == "constant"
    return node.op.name in PASS


def bias_of(layer: Layer, plan: Plan) -> tuple[Node, int] | None:
    """The node and operand that hold the bias of a layer."""
    if layer.is_conv:
        return (layer.node, 2) if len(layer.node.inputs) > 2 and array_of(layer.node.inputs[2]) is not None else None
    added = plan.biases.get(layer.node)
    return None if added is None else (added, 1 if array_of(added.inputs[1]) is not None else 0)


def _layers(graph: Graph, plan: Plan, uses: Any) -> None:
    found = [n for n in graph.nodes if n.op.name in ("nn.conv", "nn.matmul") and _weighted(n)]
    behind: dict[Value, bool] = {v: False for v in graph.outputs}
    for node in reversed(graph.nodes):
        below = any(behind.get(v, False) for v in node.outputs)
        for v in node.inputs:
            if v is not None:
                behind[v] = behind.get(v, False) or below or node in found
    near = set(graph.inputs)
    for node in graph.nodes:
        if passes_codes(node) and node.inputs[0] in near:
            near.update(node.outputs)
    taken: dict[str, int] = {}
    for node in found:
        name = node.loc.sources[-1] if node.loc and node.loc.sources else node.output.name or node.op.name
        taken[name] = taken.get(name, 0) + 1
        name += f"#{taken[name]}" if taken[name] > 1 else ""
        plan.layers[node] = Layer(node, name, node.inputs[0] in near, not behind.get(node.output, False))
        readers = uses.get(node.output, [])
        if node.op.name == "nn.matmul" and len(readers) == 1 and _bias_sum(readers[0][0], node):
            plan.biases[node] = readers[0][0]


def _weighted(node: Node) -> bool:
    x, w = node.inputs[0], node.inputs[1]
    if x is None or w is None or not _real(x) or not _real(w) or array_of(x) is not None:
        return False
    array = array_of(w)
    return array is not None and bool(array.size) and (node.op.name == "nn.conv" or array.ndim <= 2)


def _bias_sum(node: Node, product: Node) -> bool:
    """Whether a node adds one number per output channel to a product."""
    if node.op.name != "math.add":
        return False
    other = node.inputs[1] if node.inputs[0] is product.output else node.inputs[0]
    array, w = array_of(other), array_of(product.inputs[1])
    rows = w is None or w.ndim == 2  # the result has an axis of channels
    return rows and array is not None and array.ndim <= 1 and node.output.type is product.output.type


def _followed(node: Node) -> Value | None:
    """The operand that a kernel would still have in its registers, if the node can belong to the kernel before it."""
    if node.op.name in FOLLOW:
        rest = node.inputs[1:]
        scalar = all(v is not None and array_of(v) is not None and array_of(v).size == 1 for v in rest)
        return node.inputs[0] if scalar else None
    for v in node.inputs if node.op.name == "math.add" else ():
        if v is not None and v.node is not None and v.node.op.name == "nn.matmul" and _bias_sum(node, v.node):
            return v
    return None


def _computes(node: Node, residual: bool) -> bool:
    """Whether a node becomes an integer kernel. Sums of transformers do not: their residual stream stays in floats."""
    name = node.op.name
    if name not in COMPUTE:
        return False
    if name == "math.add":
        return residual and all(v is not None and array_of(v) is None and _real(v) for v in node.inputs)
    if name == "nn.conv":
        return node.inputs[1] is not None and array_of(node.inputs[1]) is not None and _real(node.output)
    if name in ("math.reduce_mean", "nn.avg_pool", "math.relu"):
        return residual and _real(node.output)
    return _real(node.output)


def _real(v: Value) -> bool:
    return isinstance(v.type, Tensor) and v.type.elem is F32


def _passes(graph: Graph, plan: Plan, uses: Any, outputs: set[Value]) -> None:
    """Ties: what passes through has the scale of what comes in; so have the parts of a concatenation that has them."""
    for node in graph.nodes:
        if not passes_codes(node):
            continue
        sources = [v for v in node.inputs if v is not None and v in plan.points]
        if node.op.name == "shape.concat":
            alone = all(len(uses[v]) == 1 and v not in outputs and plan.root(v) is v for v in sources)
            if alone and len(sources) == len(node.inputs):
                plan.ties.update(dict.fromkeys(sources, node.output))
            continue
        for v in node.outputs:
            if sources and v in plan.points:
                plan.ties[v] = sources[0]
