"""One sweep over the graph: the calibration data go through it node by node, in the original and as quantised so far.

At a layer, its inputs in both versions are at hand: their moments give the rounded weights, both outputs give the
corrected bias. At a point, the histogram of what arrives gives the range. Nothing is ever run twice, and a value is
released when its last reader is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.dims import Dim, symbols
from ...ir.graph import Graph, Node, Value
from ...ir.interpret import bind_symbols
from ...ir.types import Affine
from .dynamic import encoded_tokens, token_bits
from .evaluate import columns, run
from .formats import format_of
from .gptq import Moments
from .histogram import Histogram
from .plan import Layer, Plan, bias_of
from .ranges import affine, choose
from .round import Rounded, round_layer
from .settings import Quantize, Weights

__all__ = ["Decisions", "LayerError", "bound_symbols", "chunks", "encoded", "sweep"]

CHUNK = 32  # samples at a time
SAMPLES_PER_INPUT = 128  # of a Hessian: more would not change it, and its time goes with them
LEAST_SAMPLES = 1 << 14

PRODUCTS = frozenset({"nn.conv", "nn.matmul"})

Chunks = list[Any]


@dataclass(frozen=True)
class LayerError:
    """What rounding did to the output of a layer: signal to noise in dB, all that happened before it included."""

    layer: str
    format: str
    sqnr: float
    weights: int  # how many


@dataclass
class Decisions:
    """What the sweep found, ready to be written into a graph."""

    points: dict[Value, Affine] = field(default_factory=dict)
    weights: dict[Node, Rounded] = field(default_factory=dict)
    biases: dict[Node, Any] = field(default_factory=dict)  # the new bias, by the node that holds it
    errors: list[LayerError] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)  # points at which only one number was seen
    loss: float = 0.0  # |y' - y| / |y| over all outputs
    answers: tuple[Any, Any] | None = None  # the largest of each row of the output, in the original and quantised


def sweep(
    graph: Graph,
    plan: Plan,
    options: Quantize,
    formats: Mapping[Node, Weights],
    batches: Sequence[Mapping[str, Any]],
    observe: Callable[[str], None] | None = None,
    given: Mapping[Node, Rounded] | None = None,
) -> Decisions:
    """Decide ranges, codes and biases. `formats` says how each layer's weights are stored ("float": not at all).

    Layers that `given` has are rounded already.
    """
    made = _Sweep(graph, plan, options, formats, observe, given or {})
    return made.run(chunks(graph, batches, options.samples))


def chunks(graph: Graph, batches: Sequence[Mapping[str, Any]], samples: int) -> list[list[Any]]:
    """The first `samples` samples, in the order of the graph's inputs, cut into pieces that fit a cache."""
    free = [v for v in graph.inputs if v.type.shape and isinstance(v.type.shape[0], Dim)]
    lengths = {s for v in free for s in symbols(v.type.shape[:1])}
    # a symbol that is also another axis (a square adjacency matrix), or an input without it, cannot be cut
    whole = len(free) < len(graph.inputs) or len(lengths) != 1
    whole = whole or any(s in symbols(v.type.shape[1:]) for v in free for s in lengths)
    found: list[list[Any]] = []
    left = samples
    for batch in batches:
        arrays = [np.asarray(batch[v.name]) for v in graph.inputs]
        if whole:
            found.append(arrays)
            left -= len(arrays[0]) if arrays and arrays[0].ndim else 1
        else:
            count = min(len(arrays[0]), left)
            found += [[a[i : min(i + CHUNK, count)] for a in arrays] for i in range(0, count, CHUNK)]
            left -= count
        if left <= 0:
            break
    return found


def bound_symbols(graph: Graph, arrays: Sequence[Any]) -> dict[str, int]:
    """The sizes of symbols for inputs of these shapes."""
    bound: dict[str, int] = {}
    for v, a in zip(graph.inputs, arrays, strict=True):
        bind_symbols(v.type.shape, a.shape, bound)
    return bound


def encoded(x: Any, elem: Affine) -> Any:
    """`dequantize(quantize(x))` in f32."""
    low, high = elem.store.range  # type: ignore[union-attr]
    scale, zero = np.float32(elem.scale), np.float32(elem.zero)  # type: ignore[arg-type]
    y = np.rint(x / scale)
    y += zero
    np.clip(y, low, high, out=y)
    y -= zero
    y *= scale
    return y


class _Sweep:
    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        options: Quantize,
        formats: Mapping[Node, Weights],
        observe: Callable[[str], None] | None,
        given: Mapping[Node, Rounded],
    ) -> None:
        self.given = given
        self.graph, self.plan, self.options, self.formats, self.observe = graph, plan, options, formats, observe
        self.found = Decisions()
        self.original: dict[Value | None, Chunks] = {}
        self.raw: dict[Value | None, Chunks] = {}  # of the quantised network, before codes
        self.coded: dict[Value, Chunks] = {}  # after
        self.symbols: list[dict[str, int]] = []
        self.waiting: dict[Value, Value] = {}  # points whose range is that of a later one
        self.bits = 8 if options.activations == "float" else int(options.activations)

    def run(self, inputs: list[list[Any]]) -> Decisions:
        for arrays in inputs:
            self.symbols.append(bound_symbols(self.graph, arrays))
        self.count = len(inputs)
        for i, v in enumerate(self.graph.inputs):
            self.original[v] = self.raw[v] = [arrays[i] for arrays in inputs]
            if v in self.plan.points:
                self._point(v)
        last = {v: node for node in self.graph.nodes for v in node.inputs if v is not None}
        kept = set(self.graph.outputs)
        with np.errstate(all="ignore"):
            for node in self.graph.nodes:
                self._node(node)
                for operand in node.inputs:
                    if (
                        operand is not None
                        and last[operand] is node
                        and operand not in self.waiting
                        and operand not in kept
                    ):
                        self._release(operand)
        self.found.loss = self._loss()
        self.found.answers = self._answers()
        return self.found

    def _loss(self) -> float:
        noise = signal = 0.0
        for v in self.graph.outputs:
            for a, b in zip(self.original[v], self._told(v), strict=True):
                wide = a.astype(np.float64)
                noise, signal = noise + float(np.sum((wide - b) ** 2)), signal + float(np.sum(wide**2))
        return math.sqrt(noise / signal) if signal > 0 else math.sqrt(noise)

    def _answers(self) -> tuple[Any, Any] | None:
        v = self.graph.outputs[0]
        if not self.count or len(v.type.shape) != 2:
            return None
        old, new = self.original[v], self._told(v)
        return tuple(np.concatenate([a.argmax(1) for a in x]) for x in (old, new))  # type: ignore[return-value]

    def _told(self, v: Value) -> Chunks:
        """An output of the graph, which is read behind its casts if it has any."""
        return self.coded[v] if v in self.found.points else self.raw[v]

    def _release(self, v: Value) -> None:
        for held in (self.original, self.raw, self.coded):
            held.pop(v, None)

    def _node(self, node: Node) -> None:
        constant = node.constant
        if constant is not None:
            self.original[node.output] = self.raw[node.output] = [constant.array] * self.count
            return
        for i, v in enumerate(node.inputs):  # ranges that waited for this node
            if v is not None and self.waiting.get(v) is node.output and (node, i) in self.plan.coded:
                self._together(node)
                break
        layer = self.plan.layers.get(node)
        before = [self._operand(self.original, v) for v in node.inputs]
        after = [
            self.coded[v]
            if v is not None and (node, i) in self.plan.coded and v in self.coded
            else self._operand(self.raw, v)
            for i, v in enumerate(node.inputs)
        ]
        old = self._results(node, before)
        if layer is not None and self.formats[node] != "float":
            new = self._layer(layer, before, after, old)
        elif all(a is b for a, b in zip(before, after, strict=True)):
            new = old
        else:
            new = self._results(node, after)
        if node in self.plan.added and self.plan.added[node] in self.found.weights and self.options.bias:
            self._correct(self.plan.layers[self.plan.added[node]], old[0], new[0])
        for v, a, b in zip(node.outputs, old, new, strict=True):
            self.original[v], self.raw[v] = a, b
            if v in self.plan.points:
                self._point(v)

    def _operand(self, held: dict[Value | None, Chunks], v: Value | None) -> Chunks:
        return [None] * self.count if v is None else held[v]

    def _results(self, node: Node, operands: list[Chunks]) -> list[Chunks]:
        runs = [run(node, [o[c] for o in operands], self.symbols[c]) for c in range(self.count)]
        return [[r[i] for r in runs] for i in range(len(node.outputs))]

    # --- points -------------------------------------------------------------------------------------------------------

    def _point(self, v: Value) -> None:
        if self.options.activations == "float":
            return
        if self.options.dynamic == "token":
            bits = token_bits(v, self.plan, self.options)
            self.coded[v] = [encoded_tokens(chunk, bits) for chunk in self.raw[v]]
            return
        root = self.plan.root(v)
        if v in self.found.points:  # its parts have been encoded like that already
            self._encode(v, self.found.points[v])
        elif root is not v and root in self.found.points:
            self._encode(v, self.found.points[root])
        elif root is not v:
            self.waiting[v] = root
        else:
            self._encode(v, self._range([v]))

    def _together(self, node: Node) -> None:
        """Values that are joined have one range."""
        sources = [v for v in dict.fromkeys(node.inputs) if v is not None and self.waiting.get(v) is node.output]
        elem = self._range(sources)
        self.found.points[node.output] = elem
        for v in sources:
            del self.waiting[v]
            self._encode(v, elem)

    def _range(self, values: Sequence[Value]) -> Affine:
        histogram = Histogram()
        for v in values:
            for chunk in self.raw[v]:
                histogram.update(chunk)
        name = values[0].name or (values[0].node.op.name if values[0].node else "?")
        if not histogram.finite:
            where = f"the activations `{name}` are not finite for the calibration data"
            raise error("IG0432", where, hint="leave out the samples with nan, infinite or huge elements")
        if histogram.low == histogram.high:
            self.found.constant.append(name)
        bits = self.bits if not self._wide(values[0]) else 8
        low, high = choose(histogram, self.options.ranges, bits, self.options.signed)
        return affine(low, high, bits, self.options.signed)

    def _wide(self, v: Value) -> bool:
        """Whether a point keeps 8 bits: inputs and outputs of the network, and what no product reads.

        The last is what sums and pools read, which are cheap in any width. The first and last layer read 8 bits too if
        `edges` says so.
        """
        if v.node is None:
            return True
        alike = {x for x in self.plan.points if self.plan.root(x) is self.plan.root(v)}
        if not alike.isdisjoint(self.graph.outputs):
            return True
        products = [n for n in self.graph.nodes if n.op.name in PRODUCTS and not alike.isdisjoint(n.inputs)]
        layers = [self.plan.layers[n] for n in products if n in self.plan.layers]
        edge = self.options.edges > self.bits and any(layer.first or layer.last for layer in layers)
        return edge or not products

    def _encode(self, v: Value, elem: Affine) -> None:
        self.found.points[v] = elem
        self.coded[v] = [encoded(chunk, elem) for chunk in self.raw[v]]

    # --- layers -------------------------------------------------------------------------------------------------------

    def _layer(self, layer: Layer, before: list[Chunks], after: list[Chunks], old: list[Chunks]) -> list[Chunks]:
        if self.observe is not None:
            self.observe(layer.name)
        o = self.options
        form = format_of(self.formats[layer.node])
        made = self.given.get(layer.node)
        if made is None:
            moments = self._moments(layer, before[0], after[0]) if o.method != "round" else None
            made = round_layer(layer, form, moments, per=o.per, group=o.group, scales=o.scales, symmetric=o.symmetric)
        self.found.weights[layer.node] = made
        new = self._results(layer.node, [after[0], [made.real] * self.count, *after[2:]])
        if layer.is_conv and o.bias:
            self._correct(layer, old[0], new[0])
        self.found.errors.append(LayerError(layer.name, form.name, _sqnr(old[0], new[0]), layer.weights.size))
        return new

    def _correct(self, layer: Layer, old: Chunks, new: Chunks) -> None:
        """Move the bias by the mean difference of the outputs; `new` is corrected in place."""
        if not self.count:
            return
        axis = 1 if layer.is_conv else new[0].ndim - 1
        rest = tuple(i for i in range(new[0].ndim) if i != axis)
        count = sum(math.prod(a.shape[i] for i in rest) for a in old)
        shift = sum(np.sum(a - b, axis=rest, dtype=np.float64) for a, b in zip(old, new, strict=True)) / max(count, 1)
        shift = np.asarray(shift).astype(np.float32)
        held = bias_of(layer, self.plan)
        bias: Any = 0.0
        if held is not None:
            node, i = held
            bias = node.inputs[i].node.constant.array  # type: ignore[union-attr]
        holder = layer.node if held is None else held[0]
        self.found.biases[holder] = (bias + shift).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(new[0].ndim)]
        for b in new:
            b += shift.reshape(shape)

    def _moments(self, layer: Layer, before: Chunks, after: Chunks) -> Moments:
        """Sums over a regular sample of the positions that the weights see."""
        differs = self.options.asymmetric and before is not after
        size = layer.matrix(layer.weights).shape[-1]
        moments = Moments(layer.groups, size, differs)
        wanted = max(LEAST_SAMPLES, SAMPLES_PER_INPUT * size)
        total = sum(_positions(layer, a) for a in after)
        every = max(1, total // wanted)
        for c, (a, b) in enumerate(zip(before, after, strict=True)):
            seen = _samples(layer, b, every, c)
            moments.update(seen, _samples(layer, a, every, c) if differs else None)
        return moments


def _positions(layer: Layer, x: Any) -> int:
    if not layer.is_conv:
        return math.prod(x.shape[:-1])
    strides = layer.node.attr("strides") or (1, 1)
    return int(x.shape[0] * math.prod(-(-x.shape[2 + i] // strides[i]) for i in range(len(strides))))


def _samples(layer: Layer, x: Any, every: int, chunk: int) -> Any:
    """Inputs of the weights as columns, f32[G, K, P]: every so-many-th position."""
    if not layer.is_conv:
        rows = x.reshape(-1, x.shape[-1])[chunk % every :: every]
        return np.ascontiguousarray(rows.T)[None]
    groups, kernel = layer.groups, layer.weights.shape[2:]
    found = []
    for n in range(len(x)):
        cols, _ = columns(x[n : n + 1], kernel, layer.node)
        found.append(cols[0][:, (chunk + n * 7) % every :: every])
    cols = np.concatenate(found, 1)
    return cols.reshape(groups, -1, cols.shape[-1])


def _sqnr(old: Chunks, new: Chunks) -> float:
    """10 log10 of the signal's energy over the error's."""
    signal = sum(float(np.sum(np.square(a), dtype=np.float64)) for a in old)
    noise = sum(float(np.sum(np.square(a - b), dtype=np.float64)) for a, b in zip(old, new, strict=True))
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf
