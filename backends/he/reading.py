"""From a graph of tensors to a network (network.py): pooling, slices, pads and factors turn into weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ...ir.diagnostics import IntaglioError, error
from ...ir.graph import Graph, Node, Value
from .folding import folded
from .merging import merged
from .network import Array, Layer, Network
from .plans import Geometry

__all__ = ["read_network"]


def read_network(graph: Graph) -> Network:
    """The network of a graph with one input of batch size 1 and one output; IG0546 for what has no such form."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise error(
            "IG0546", "an encrypted model has one input and one output", hint="cut the model, or join its inputs"
        )
    given = graph.inputs[0]
    if not given.type.static or not given.type.shape or given.type.shape[0] != 1:
        hint = "add `freeze{N=1}` to the passes: a ciphertext holds one sample"
        raise error("IG0546", f"an encrypted model takes one sample at a time, not {given.type}", hint=hint)
    reader = _Reader(graph)
    for node in graph.nodes:
        reader.read(node)
    return merged(folded(replace(reader.network, output=reader.at[graph.outputs[0]])))


class _Reader:
    def __init__(self, graph: Graph) -> None:
        shape = tuple(int(d) for d in graph.inputs[0].type.shape[1:])  # type: ignore[arg-type]
        self.network = Network([Layer("input", (), shape, name=graph.inputs[0].name)])
        self.at: dict[Value, int] = {graph.inputs[0]: 0}
        self.constants: dict[Value, Array] = {}

    def read(self, node: Node) -> None:
        if node.constant is not None:
            self.constants[node.output] = node.constant.array
            return
        name = node.op.name
        encrypted = [v for v in node.inputs if v is not None and v in self.at]
        reads = getattr(self, "_" + name.replace(".", "_"), None)
        if reads is None or not encrypted:
            raise self._no(node, "" if reads is None else "it has no encrypted operand")
        self.at[node.output] = reads(node)

    def _no(self, node: Node, why: str = "") -> IntaglioError:
        hint = "ciphertexts can be added and multiplied: replace activations by polynomials (pass `polynomial`)"
        what = f"`{node.op.name}` has no encrypted form" + (f": {why}" if why else "")
        notes = (f"from: {node.loc}",) if node.loc is not None else ()
        return error("IG0546", what, label=", ".join(str(v.type) for v in node.inputs if v), notes=notes, hint=hint)

    def _add(self, node: Node, layer: Layer) -> int:
        layer.name = node.output.name or node.op.name
        layer.source = node.loc
        self.network.layers.append(layer)
        return len(self.network.layers) - 1

    def _shape(self, node: Node) -> tuple[int, ...]:
        shape = node.output.type.shape
        if not shape or shape[0] != 1 or not node.output.type.static:
            raise self._no(node, "its result is not one sample")
        return tuple(int(d) for d in shape[1:])  # type: ignore[arg-type]

    def _other(self, node: Node, i: int) -> Array:
        v = node.inputs[i]
        if v is None or v not in self.constants:
            raise self._no(node, "it needs a constant there")
        return self.constants[v].astype(np.float64)

    # --- linear ---------------------------------------------------------------------------------------------------

    def _nn_conv(self, node: Node) -> int:
        x = self.at[node.inputs[0]]  # type: ignore[index]
        w = self._other(node, 1)
        b = self._other(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        if w.ndim != 4 or any(d != 1 for d in node.attr("dilations") or ()):
            raise self._no(node, "only plain two-dimensional convolutions are")
        shape, pads = self._shape(node), node.attr("pads") or (0,) * 4
        strides = tuple(node.attr("strides") or (1, 1))
        geometry = Geometry(
            self.network.layers[x].shape, shape, w.shape[2:], strides, tuple(pads[:2]), int(node.attr("g") or 1)
        )
        bias = None if b is None else np.broadcast_to(b[:, None, None], shape).reshape(-1).copy()
        return self._add(node, Layer("linear", (x,), shape, geometry, w, bias))

    def _nn_matmul(self, node: Node) -> int:
        x, w = self.at.get(node.inputs[0], -1), self._other(node, 1)  # type: ignore[arg-type]
        shape = self._shape(node)
        if x < 0 or w.ndim != 2 or len(shape) != 1:
            raise self._no(node, "only a vector times a constant matrix is")
        columns, rows = w.shape
        return self._add(node, Layer("linear", (x,), shape, Geometry((columns,), (rows,)), w.T.copy()))

    def _windows(self, node: Node, window: tuple[int, int], strides: tuple[int, int], value: float) -> int:
        """Each channel alone, times one number everywhere in the window."""
        x = self.at[node.inputs[0]]  # type: ignore[index]
        shape, channels = self._shape(node), self.network.layers[x].shape[0]
        geometry = Geometry(self.network.layers[x].shape, shape, window, strides, (0, 0), channels)
        return self._add(node, Layer("linear", (x,), shape, geometry, np.full((channels, 1, *window), value)))

    def _nn_avg_pool(self, node: Node) -> int:
        kernel = tuple(node.attr("kernel"))
        if any(node.attr("pads") or ()) or len(kernel) != 2:
            raise self._no(node, "only pooling of images without pads is")
        return self._windows(node, kernel, tuple(node.attr("strides") or kernel), 1 / math.prod(kernel))

    def _math_reduce_mean(self, node: Node) -> int:
        x = self.at[node.inputs[0]]  # type: ignore[index]
        shape = self.network.layers[x].shape
        axes = tuple(a % (len(shape) + 1) for a in node.attr("axes") or ())
        if len(shape) != 3 or axes != (2, 3):
            raise self._no(node, "only the mean over the pixels is")
        c, h, w = shape
        weights = np.repeat(np.eye(c), h * w, axis=1) / (h * w)
        return self._add(node, Layer("linear", (x,), (c,), Geometry(shape, (c,)), weights))

    def _shape_slice(self, node: Node) -> int:
        x = self.at[node.inputs[0]]  # type: ignore[index]
        steps = node.attr("steps") or ()
        if tuple(node.attr("axes")) != (2, 3) or any(node.attr("starts")) or len(steps) != 2:
            raise self._no(node, "only every n-th pixel is")
        shape, full = self._shape(node), self.network.layers[x].shape
        if any(n != -(-m // s) for n, m, s in zip(shape[1:], full[1:], steps, strict=True)):
            raise self._no(node, "only every n-th pixel is")
        return self._windows(node, (1, 1), tuple(steps), 1.0)

    def _shape_pad(self, node: Node) -> int:
        x, pads, shape = self.at[node.inputs[0]], node.attr("pads"), self._shape(node)  # type: ignore[index]
        n = len(pads) // 2
        old = self.network.layers[x]
        if (
            len(shape) != 3
            or any(p for i, p in enumerate(pads) if i % n != 1)
            or old.kind != "linear"
            or old.bias is not None
        ):
            raise self._no(node, "only more channels after a linear layer are")
        g = old.geometry
        assert g is not None and old.weights is not None
        groups = max(1, g.groups)
        dense = np.zeros((shape[0], g.source[0], *g.window))
        each, per = g.source[0] // groups, len(old.weights) // groups
        for m, w in enumerate(old.weights):
            dense[m + pads[1], m // per * each : (m // per + 1) * each] = w
        layer = Layer("linear", old.inputs, shape, replace(g, target=shape, groups=1), dense)
        return self._add(node, layer)

    def _shape_reshape(self, node: Node) -> int:
        x = self.at[node.inputs[0]]  # type: ignore[index]
        if math.prod(self._shape(node)) != math.prod(self.network.layers[x].shape):
            raise self._no(node)
        return x  # elements keep their row-major numbers

    _shape_squeeze = _shape_unsqueeze = _shape_reshape

    # --- sums and products ----------------------------------------------------------------------------------------

    def _math_add(self, node: Node) -> int:
        a, b = node.inputs
        assert a is not None and b is not None
        if a in self.at and b in self.at:
            pair = (self.at[a], self.at[b])
            return self._add(node, Layer("sum", pair, self.network.layers[pair[0]].shape, factors=(1.0, 1.0)))
        x, i = (self.at[a], 1) if a in self.at else (self.at[b], 0)
        shape = self._shape(node)
        constant = np.broadcast_to(self._other(node, i), (1, *shape)).reshape(-1)
        old = self.network.layers[x]
        if old.kind in ("linear", "sum") and not self.network.users(x):
            old.bias = constant.copy() if old.bias is None else old.bias + constant
            return x
        return self._add(node, Layer("sum", (x,), old.shape, factors=(1.0,), bias=constant.copy()))

    def _math_mul(self, node: Node) -> int:
        a, b = node.inputs
        if a is not b and (a in self.at) != (b in self.at):
            return self._times(node, *((self.at[a], 1) if a in self.at else (self.at[b], 0)))  # type: ignore[index]
        if a is not b or a not in self.at:
            raise self._no(node, "only squares and products by constants are")
        return self._add(node, Layer("square", (self.at[a],), self.network.layers[self.at[a]].shape))

    def _times(self, node: Node, x: int, i: int) -> int:
        """A number for each channel: a convolution of one tap; or for each element."""
        shape = self._shape(node)
        factor = self._other(node, i)
        if math.prod(shape) != math.prod(self.network.layers[x].shape):
            raise self._no(node, "only the constant is broadcast")
        if len(shape) == 3 and factor.shape[-2:] in ((), (1,), (1, 1)):
            weights = np.broadcast_to(factor, (1, *shape))[0, :, :1, :1].reshape(-1, 1, 1, 1)
            geometry = Geometry(shape, shape, (1, 1), groups=shape[0])
        elif len(shape) == 1:
            weights, geometry = np.diag(np.broadcast_to(factor, (1, *shape))[0]), Geometry(shape, shape)
        else:
            raise self._no(node, "only numbers for channels of images are")
        return self._add(node, Layer("linear", (x,), shape, geometry, weights.copy()))

    def _approx_poly(self, node: Node) -> int:
        x = self.at[node.inputs[0]]  # type: ignore[index]
        coeffs = tuple(map(float, node.attr("coeffs")))
        while len(coeffs) > 1 and coeffs[-1] == 0:
            coeffs = coeffs[:-1]
        if len(coeffs) < 3:
            raise self._no(node, "a polynomial of degree below 2 is no activation")
        return self._add(node, Layer("poly", (x,), self.network.layers[x].shape, coeffs=coeffs))
