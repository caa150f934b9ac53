"""`rotate`: outliers of attention spread over the channels of a head by a rotation (QuaRot: Ashkboos et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.graph import Graph, Node, Value
from ..canonicalize import Canonicalize, canonicalize
from ..definition import Context, define_pass
from ..options import option
from ..rebuild import array_of
from .constants import with_constants
from .plan import Layer, Plan, bias_of, make_plan

__all__ = ["orthogonal", "rotate"]


@dataclass(frozen=True)
class Rotate:
    scores: bool = option(True, "queries and keys too, not only values")
    seed: int = option(0, "of the signs, or of the rotation where a head's size is no power of two")


@define_pass("rotate", contract="real", options=Rotate)
def rotate(graph: Graph, options: Rotate, context: Context) -> Graph:
    """Rotate the channels of attention heads: (q R)(k R)^T = q k^T, and (p v R) R^T = p v.

    R is Hadamard's matrix with random signs, or a random rotation; it goes into the weights that make queries, keys and
    values and into those that read the heads' results. Every channel becomes a mixture of all of a head, so that none
    sticks out. Nothing is computed anew, so it can be done only where nothing but moves of data (and for the scores a
    factor) is in between. The graph is canonicalised first.

    Before:

        graph @main(%x: f32[4, 2]) -> (y: f32[4]) {
          %w = const [1.0, -127.25] : f32[2]
          %y = nn.matmul(%x, %w) : f32[4]
          return %y
        }

    After `rotate`:

        graph @main(%x: f32[4, 2]) -> (y: f32[4]) {
          %w = const [1.0, -127.25] : f32[2]
          %y = nn.matmul(%x, %w) : f32[4]
          return %y
        }
    """
    graph = canonicalize.run(graph, Canonicalize(), context)
    walk = _Walk(graph, make_plan(graph))
    changed: dict[tuple[Node, int], Any] = {}
    values = scores = 0
    for node in graph.nodes:
        if node.op.name != "nn.matmul" or node in walk.plan.layers or node.output.type.rank < 3:
            continue
        left, right = (walk.made(v, axis) for v, axis in zip(node.inputs, (-1, -2), strict=True))
        if options.scores and left is not None and right is not None and left[0] is not right[0]:
            if left[1] == right[1]:
                r = orthogonal(left[1], options.seed)
                _turn_outputs(changed, left[0], r, walk.plan)
                _turn_outputs(changed, right[0], r, walk.plan)
                scores += 1
            continue
        value, reader = walk.made(node.inputs[1], -1, factors=False), walk.read(node.output)
        if value is not None and reader is not None and value[1] == reader[1]:
            r = orthogonal(value[1], options.seed)
            _turn_outputs(changed, value[0], r, walk.plan)
            _turn_inputs(changed, reader[0], r)
            values += 1
    context.note(f"heads rotated in {scores} products of queries and keys, {values} of weights and values")
    return with_constants(graph, changed)


def orthogonal(size: int, seed: int) -> Any:
    """A rotation f64[size, size]: Hadamard's matrix (Sylvester's) with random signs, or any."""
    rng = np.random.default_rng(seed)
    if size & (size - 1):
        q, r = np.linalg.qr(rng.standard_normal((size, size)))
        return q * np.sign(np.diag(r))
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    return rng.choice([-1.0, 1.0], (size, 1)) * h / np.sqrt(size)


class _Walk:
    """From products of attention to the layers around them."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.plan, self.uses, self.outputs = plan, graph.uses(), set(graph.outputs)

    def made(self, v: Value | None, axis: int, factors: bool = True) -> tuple[Layer, int] | None:
        """The layer whose outputs, cut into heads, lie along an axis of `v`; and the size of a head."""
        axis = axis + v.type.rank if v is not None else axis
        size = 0
        while v is not None and v.node is not None and len(self.uses.get(v, ())) == 1 and v not in self.outputs:
            node = v.node
            layer = self.plan.added.get(node, node)
            if layer in self.plan.layers:
                found = self.plan.layers[layer]
                return (found, size) if size and not found.is_conv and self._biased(found, node) else None
            if node.op.name == "shape.transpose" and not size:
                axis = node.attr("perm")[axis]
            elif node.op.name == "shape.reshape" and not size:
                size = _heads(v, node.inputs[0]) if axis == v.type.rank - 1 else 0
                if not size:
                    return None
            elif not (factors and node.op.name in ("math.mul", "math.div") and _scalar(node.inputs[1])):
                return None
            v = node.inputs[0]
        return None

    def read(self, v: Value) -> tuple[Layer, int] | None:
        """The layer that alone reads `v`, heads side by side; and the size of a head, along the last axis of `v`."""
        axis, size = v.type.rank - 1, 0
        while len(self.uses.get(v, ())) == 1 and v not in self.outputs:
            node, operand = self.uses[v][0]
            if node in self.plan.layers and operand == 0 and size and node.op.name == "nn.matmul":
                return self.plan.layers[node], size
            if node.op.name == "shape.transpose" and not size:
                axis = node.attr("perm").index(axis)
            elif node.op.name == "shape.reshape" and not size and axis == v.type.rank - 1:
                size = _heads(v, node.output)
                if not size:
                    return None
            else:
                return None
            v = node.output
        return None

    def _biased(self, layer: Layer, last: Node) -> bool:
        """Whether the walk has come over the layer's bias, if it has one, and the weights have an axis of outputs."""
        return layer.weights.ndim == 2 and self.plan.biases.get(layer.node, layer.node) is last


def _heads(apart: Value, joined: Value | None) -> int:
    """The size of a head, if one is [..., heads, size] and the other [..., heads * size]; else 0."""
    if joined is None:
        return 0
    a, b = apart.type.shape, joined.type.shape
    whole = len(a) == len(b) + 1 and a[:-2] == b[:-1] and all(isinstance(d, int) for d in (a[-1], a[-2], b[-1]))
    return int(a[-1]) if whole and a[-1] * a[-2] == b[-1] else 0  # type: ignore[arg-type]


def _scalar(v: Value | None) -> bool:
    array = array_of(v)
    return array is not None and array.size == 1


def _turn_outputs(changed: dict[tuple[Node, int], Any], layer: Layer, r: Any, plan: Plan) -> None:
    def turned(a: Any) -> Any:
        return (a.reshape(*a.shape[:-1], -1, len(r)).astype(np.float64) @ r).reshape(a.shape).astype(np.float32)

    changed[layer.node, 1] = turned(changed.get((layer.node, 1), layer.weights))
    held = bias_of(layer, plan)
    if held is not None:
        bias = np.broadcast_to(array_of(held[0].inputs[held[1]]), layer.weights.shape[-1:])
        changed[held] = turned(changed.get(held, bias))


def _turn_inputs(changed: dict[tuple[Node, int], Any], layer: Layer, r: Any) -> None:
    w = changed.get((layer.node, 1), layer.weights)
    heads = w.reshape(-1, len(r), *w.shape[1:]).astype(np.float64)
    changed[layer.node, 1] = np.einsum("ji,hj...->hi...", r, heads).reshape(w.shape).astype(np.float32)
