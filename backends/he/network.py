"""From a graph of tensors to what a CKKS circuit is made of: linear layers, polynomials, sums.

Pooling, slices and pads are linear and turn into weights; the scale and the shift of a quadratic go into the layers
around it, so that it costs one level:

    a x^2 + b x + c  =  sgn(a) (sqrt|a| x + b / (2 sqrt|a|))^2 + (c - b^2 / 4a)

Degrees 4 and 8 become monic in the same way, without their second highest term, and cost two and three levels. What a
value means is then `sign * held + offset`, of which only `held` is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ir.diagnostics import IntaglioError, error
from ...ir.graph import Graph, Node, Value
from .plans import Geometry

__all__ = ["Layer", "Network", "product", "read_network"]

Array = npt.NDArray[Any]


@dataclass
class Layer:
    """One step: `kind` is input, linear, square, poly, monic or sum; `inputs` are indices of earlier layers.

    linear: `weights` [M, C / groups, kh, kw] or [rows, columns], `bias` one per result element or None. poly: `coeffs`,
    lowest first; monic: those below the leading 1. sum: factor of each operand, and `bias`. `source` is where in the
    model it comes from.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    geometry: Geometry | None = None
    weights: Array | None = None
    bias: Array | None = None
    coeffs: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    name: str = ""
    source: Any = None

    @property
    def depth(self) -> int:
        """Levels from its operands to its result."""
        if self.kind == "monic":
            return len(self.coeffs).bit_length() - 1
        if self.kind == "poly":
            return math.ceil(math.log2(len(self.coeffs) - 1)) + 1
        return {"linear": 1, "square": 1}.get(self.kind, 0)


@dataclass
class Network:
    """Layers in the order of computation; `output` is the last one's index, its meaning `sign * held + offset`."""

    layers: list[Layer] = field(default_factory=list)
    output: int = 0
    sign: float = 1.0
    offset: Array | float = 0.0

    def users(self, index: int) -> list[int]:
        return [i for i, one in enumerate(self.layers) if index in one.inputs]


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
    return _folded(reader.network, reader.at[graph.outputs[0]])


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
        if a is not b or a not in self.at:
            raise self._no(node, "only squares, and products by weights of a layer, are")
        return self._add(node, Layer("square", (self.at[a],), self.network.layers[self.at[a]].shape))

    def _approx_poly(self, node: Node) -> int:
        x = self.at[node.inputs[0]]  # type: ignore[index]
        coeffs = tuple(map(float, node.attr("coeffs")))
        while len(coeffs) > 1 and coeffs[-1] == 0:
            coeffs = coeffs[:-1]
        if len(coeffs) < 3:
            raise self._no(node, "a polynomial of degree below 2 is no activation")
        return self._add(node, Layer("poly", (x,), self.network.layers[x].shape, coeffs=coeffs))


def _folded(network: Network, output: int) -> Network:
    """Quadratics become squares, their scales, shifts, signs and offsets part of the layers around them."""
    layers = network.layers
    for i, one in enumerate(layers):  # into the layer before
        if one.kind == "poly" and len(one.coeffs) == 3:
            c, b, a = one.coeffs
            scale = math.sqrt(abs(a))
            if not _scalable(layers, one.inputs[0], i):
                continue
            _scale(layers, one.inputs[0], scale, b / (2 * a) * scale)
            one.kind, one.factors, one.bias = "square", (math.copysign(1.0, a),), np.array(c - b * b / (4 * a))
        elif one.kind == "poly" and len(one.coeffs) in (5, 9) and _scalable(layers, one.inputs[0], i):
            scale, shift, sign, lower = _monic(one.coeffs)
            _scale(layers, one.inputs[0], scale, shift)
            one.kind, one.factors, one.bias = "monic", (sign,), np.array(sign * lower[0])
            one.coeffs = (0.0, *lower[1:])
    made = Network()
    meaning: dict[int, tuple[float, Array | float]] = {}  # what sign * held + offset a layer's value is
    for i, one in enumerate(layers):
        if one.kind in ("square", "monic"):
            sign, offset = meaning[one.inputs[0]]
            if np.any(offset) or (one.kind == "monic" and sign != 1.0):  # nobody could shift it before
                raise error("IG0546", f"`{one.name}`: a square of what another square was shifted by")
            meaning[i] = (one.factors[0] if one.factors else 1.0, float(one.bias) if one.bias is not None else 0.0)
        elif one.kind == "linear":
            sign, offset = meaning[one.inputs[0]]
            assert one.weights is not None and one.geometry is not None
            if np.any(offset):
                extra = _through(one, offset)
                one.bias = extra if one.bias is None else one.bias + extra
            one.weights = one.weights * sign
            meaning[i] = (1.0, 0.0)
        elif one.kind == "sum":
            factors, offset = [], 0.0 if one.bias is None else one.bias
            for j, f in zip(one.inputs, one.factors, strict=True):
                factors.append(f * meaning[j][0])
                offset = offset + f * np.asarray(meaning[j][1])
            one.factors = tuple(factors)
            one.bias = np.broadcast_to(offset, (math.prod(one.shape),)).copy() if np.any(offset) else None
            meaning[i] = (1.0, 0.0)
        else:
            if one.kind == "poly" and (meaning[one.inputs[0]][0] != 1.0 or np.any(meaning[one.inputs[0]][1])):
                raise error("IG0546", f"`{one.name}`: a polynomial directly after another one")
            meaning[i] = (1.0, 0.0)
        one.coeffs = () if one.kind == "square" else one.coeffs
    alive, stack = set(), [output]
    while stack:
        i = stack.pop()
        if i not in alive:
            alive.add(i)
            stack += layers[i].inputs
    number = {old: new for new, old in enumerate(sorted(alive))}
    for old in sorted(alive):
        one = layers[old]
        one.inputs = tuple(number[j] for j in one.inputs)
        made.layers.append(one)
    made.output = number[output]
    made.sign, made.offset = meaning[output]
    return _merged(made)


def _monic(coeffs: tuple[float, ...]) -> tuple[float, float, float, tuple[float, ...]]:
    """(k, t, sign, lower): p(x) = sign * (u^d + sum of lower[i] u^i) at u = k x + t, without a term u^(d - 1)."""
    from numpy.polynomial import Polynomial

    d, lead = len(coeffs) - 1, coeffs[-1]
    scale = abs(lead) ** (1 / d)
    shift = scale * coeffs[-2] / (d * lead)
    inside: Any = Polynomial([-shift / scale, 1 / scale])
    found = np.asarray(Polynomial(coeffs)(inside).coef, np.float64) * math.copysign(1.0, lead)
    return scale, shift, math.copysign(1.0, lead), (*map(float, found[: d - 1]), 0.0)


def _scalable(layers: list[Layer], index: int, user: int) -> bool:
    alone = [i for i, one in enumerate(layers) if index in one.inputs] == [user]
    return alone and layers[index].kind in ("linear", "sum")


def _scale(layers: list[Layer], index: int, scale: float, shift: float) -> None:
    """layers[index] becomes scale * itself + shift."""
    one = layers[index]
    size = math.prod(one.shape)
    if one.kind == "linear":
        assert one.weights is not None
        one.weights = one.weights * scale
    else:
        one.factors = tuple(f * scale for f in one.factors)
    if one.bias is not None or shift:
        one.bias = (np.zeros(size) if one.bias is None else one.bias) * scale + shift


def _through(one: Layer, offset: Array | float) -> Array:
    """What a linear layer makes of an input that is `offset` everywhere: pads do not get it."""
    assert one.geometry is not None
    return product(one, np.full(one.geometry.source, offset, np.float64))


def product(one: Layer, x: Array) -> Array:
    """A linear layer's weights times an input in the clear, without the bias; flat."""
    from ...ir.ops.nn import conv

    g, w = one.geometry, one.weights
    assert g is not None and w is not None
    if not g.window:
        return w @ x.reshape(-1)
    p, q = g.target[1:]
    bottom = (p - 1) * g.strides[0] + g.window[0] - g.source[1] - g.pads[0]
    right = (q - 1) * g.strides[1] + g.window[1] - g.source[2] - g.pads[1]
    pads = (*g.pads, max(0, bottom), max(0, right))
    x = x.reshape((1, *g.source))
    found = conv.function(x, w, None, strides=g.strides, pads=pads, dilations=(1, 1), g=g.groups)
    return found[0][:, :p, :q].reshape(-1)


def _merged(network: Network) -> Network:
    """Linear after linear is one dense layer, where the second is dense and the first has no other reader."""
    for i, one in enumerate(network.layers):
        before = network.layers[one.inputs[0]] if one.kind == "linear" and one.inputs else None
        if before is None or before.kind != "linear" or one.geometry is None or one.geometry.window:
            continue
        g = before.geometry
        if g is None or g.window or network.users(one.inputs[0]) != [i]:
            continue
        assert one.weights is not None and before.weights is not None
        extra = None if before.bias is None else one.weights @ before.bias
        one.bias = extra if one.bias is None else one.bias if extra is None else one.bias + extra
        one.weights = one.weights @ before.weights
        one.geometry = replace(g, target=one.geometry.target)
        one.inputs = before.inputs
        return _merged(_without_dead(network))
    return network


def _without_dead(network: Network) -> Network:
    alive, stack = set(), [network.output]
    while stack:
        i = stack.pop()
        if i not in alive:
            alive.add(i)
            stack += network.layers[i].inputs
    number = {old: new for new, old in enumerate(sorted(alive))}
    layers = [network.layers[i] for i in sorted(alive)]
    for one in layers:
        one.inputs = tuple(number[j] for j in one.inputs)
    return Network(layers, number[network.output], network.sign, network.offset)
