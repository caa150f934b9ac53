"""From a graph to the layers and vector work of an accelerator.

    nn.conv, quant.conv            convolution (strides, pads, dilations, groups; 1-d and 3-d)
    nn.matmul, quant.matmul,       product, batched where both operands change with the batch; attention is two of them
    math.einsum of two operands    with a softmax between
    nn.conv_transpose              the product before the overlapping sums
    everything else                vector work (`vector.py`)

A `tile.kernel` is one unit of work: what follows its product is done on the way to memory, and reads there only what
the product does not give. Bits come from the element types, through `quant.dequantize` to what is stored; zeros of
constant weights are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.dims import Dim
from ...ir.graph import Graph, Node, Value
from ...ir.types import NM, Block, Csr, Float, Tensor
from .layer import Layer
from .vector import Vector, bits_of, extents, tensor_bits, vector_of

if TYPE_CHECKING:
    from .pieces import Pieces

__all__ = ["Work", "work_of", "works_of_node"]

CONVS = {"nn.conv", "quant.conv"}
PRODUCTS = {"nn.matmul", "quant.matmul"}
FREE = {"const", "shape.reshape", "shape.squeeze", "shape.unsqueeze", "shape.extents", "quant.store", "quant.load"}
"""Nothing moves for these."""
SPARSE_BELOW = 0.98  # density; rounding to few bits makes a few zeros everywhere, which is no sparsity


@dataclass(frozen=True)
class Work:
    """One step of the program: a product (or none) and the vector work after it."""

    name: str
    op: str
    layer: Layer | None
    vectors: tuple[Vector, ...] = ()
    outputs: int = 0  # elements that are written
    pieces: Pieces | None = None  # of work on rows: `grouped.py`
    host: bool = False  # done by the host, before, between and after programs


def work_of(graph: Graph, floats: int = 64) -> list[Work]:
    """The work of one run of a graph, in order; symbolic extents count as 1, and IG0503 says where one is unknown.

    `floats`: bits that floats of vector work take at most, for a machine that has no wider numbers.
    """
    return [w for node in graph.nodes for w in works_of_node(node, floats)]


def works_of_node(node: Node, floats: int) -> list[Work]:
    """The work of one node, in order; none where nothing moves."""
    body = node.attrs.get("body")
    if isinstance(body, Graph) and node.op.name == "tile.kernel":
        return _kernel(node, body, floats)
    if node.op.name in FREE:
        return []
    _known(node)
    layer = layer_of(node, {})
    name = _name(node)
    if layer is not None:
        return [Work(name, node.op.name, layer, (), layer.words("O"))]
    return [Work(name, node.op.name, None, (vector_of(node, on_path=False, floats=floats),))]


def _kernel(node: Node, body: Graph, floats: int) -> list[Work]:
    """Products of a kernel, each with the vector work between it and the next; operands from outside are read."""
    _known(node)
    outer = {b: v for b, v in zip(body.inputs, node.inputs, strict=True) if v is not None}
    name = _name(node)
    works: list[Work] = []
    heads: list[Vector] = []
    for one in body.nodes:
        if one.op.name in FREE:
            continue
        layer = layer_of(one, outer)
        if layer is not None:
            works.append(Work(name, one.op.name, layer, tuple(heads), layer.words("O")))
            heads = []
            continue
        vector = vector_of(one, on_path=True)
        extra = sum(tensor_bits(outer[v].type, floats) for v in one.inputs if v in outer)
        vector = replace(vector, read_bits=extra)
        if works:
            works[-1] = replace(works[-1], vectors=(*works[-1].vectors, vector))
        else:
            heads.append(vector)
    if works:
        return _numbered(works)
    written = sum(tensor_bits(v.type, floats) for v in node.outputs)
    last = replace(heads[-1], write_bits=written) if heads else None
    return [Work(name, " ".join(v.op for v in heads), None, (*heads[:-1], last))] if last is not None else []


def _numbered(works: list[Work]) -> list[Work]:
    """Several products of one kernel get names of their own; only the last one's result leaves the chip: see docs."""
    if len(works) == 1:
        return works
    return [
        replace(w, name=f"{w.name}.{i}", layer=replace(w.layer, name=f"{w.layer.name}.{i}") if w.layer else None)
        for i, w in enumerate(works)
    ]


def _name(node: Node) -> str:
    if node.loc is not None and node.loc.sources:
        return node.loc.sources[0]
    return node.outputs[0].name or node.op.name


def _known(node: Node) -> None:
    for v in (*node.inputs, *node.outputs):
        if v is not None and any(isinstance(d, Dim) for d in extents(v.type)):
            raise error(
                "IG0503",
                f"layers are mapped for known sizes, and that of {v.type} at `{_name(node)}` only running can tell",
                hint="run `freeze{N=…}` first; ops whose result depends on data have no mapping",
            )


# --- products ---------------------------------------------------------------------------------------------------------


def layer_of(node: Node, outer: Mapping[Value, Value]) -> Layer | None:
    """The layer of a convolution or product, None for other nodes; `outer` gives the values of a kernel's operands."""
    op = node.op.name
    if op in CONVS:
        return _conv(node, outer)
    if op in PRODUCTS:
        return _matmul(node, outer)
    if op == "nn.conv_transpose":
        return _transposed(node, outer)
    if op == "math.einsum":
        return _einsum(node, outer)
    return None


def _shape(v: Value) -> list[int]:
    """The extents, which `_known` has found to be numbers."""
    return [d for d in extents(v.type) if isinstance(d, int)]


def _conv(node: Node, outer: Mapping[Value, Value]) -> Layer:
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None and w is not None
    rank = x.type.rank - 2
    n, m, per = _shape(x)[0], *_shape(w)[:2]
    groups = node.attr("g")
    strides = list(node.attr("strides") or (1,) * rank)
    dilations = list(node.attr("dilations") or (1,) * rank)
    pads = list(node.attr("pads") or (0,) * (2 * rank))[:rank]
    image, window, out = _shape(x)[2:], _shape(w)[2:], _shape(node.outputs[0])[2:]
    while rank < 2:
        for seq, value in ((strides, 1), (dilations, 1), (pads, 0), (image, 1), (window, 1), (out, 1)):
            seq.append(value)
        rank += 1
    # more than two axes: outer outputs are batch, outer window elements are channels; their overlap is read again
    batch = n * math.prod(out[:-2]) if n else 0
    channels = per * math.prod(window[:-2])
    sizes = (batch, groups, m // groups, channels, *out[-2:], *window[-2:])
    return _weighed(
        Layer(
            _name(node),
            tuple(max(1, int(s)) for s in sizes),  # type: ignore[arg-type]
            tuple(strides[-2:]),
            tuple(dilations[-2:]),
            tuple(pads[-2:]),
            (image[-2], image[-1]),
            _bits(node, x, w, outer),
        ),
        w,
        outer,
        0,
    )


def _matmul(node: Node, outer: Mapping[Value, Value]) -> Layer:
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None and b is not None
    left, right = _shape(a), _shape(b)
    left = [1, *left] if len(left) == 1 else left
    right = [*right, 1] if len(right) == 1 else right
    rows, reduction, columns = left[-2], left[-1], right[-1]
    outs = _shape(node.outputs[0])
    batch = math.prod(outs[: len(outs) - (a.type.rank > 1) - (b.type.rank > 1)])
    swap = _constant(a, outer) is not None and _constant(b, outer) is None
    if math.prod(right[:-2]) == 1:  # one right operand for the whole batch: its rows are rows
        rows, batch = rows * batch, 1
    elif math.prod(left[:-2]) == 1:
        columns, batch = columns * batch, 1
    if swap:  # the constant is the weight, wherever it stands
        rows, columns, a, b = columns, rows, b, a
    layer = _product(node, batch, rows, reduction, columns, a, b, outer)
    return _weighed(layer, b, outer, 0 if swap else -1)


def _product(
    node: Node, batch: int, rows: int, reduction: int, columns: int, i: Value, w: Value, outer: Mapping[Value, Value]
) -> Layer:
    sizes = (1, max(batch, 1), max(columns, 1), max(reduction, 1), max(rows, 1), 1, 1, 1)
    return Layer(_name(node), sizes, image=(max(rows, 1), 1), bits=_bits(node, i, w, outer), kind="gemm")


def _transposed(node: Node, outer: Mapping[Value, Value]) -> Layer:
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None and w is not None
    groups = node.attr("g")
    pixels = math.prod(_shape(x)) // max(1, _shape(x)[1])
    c, m, *window = _shape(w)
    return _weighed(_product(node, groups, pixels, c // groups, m * math.prod(window), x, w, outer), w, outer, 1)


def _einsum(node: Node, outer: Mapping[Value, Value]) -> Layer | None:
    values = [v for v in node.inputs if v is not None]
    if len(values) != 2:
        return None
    from ...ir.shapes import einsum_terms

    (a, b), out = einsum_terms(node.attr("equation"), [v.type.rank for v in values])
    size: dict[str, int] = {}
    for term, v in ((a, values[0]), (b, values[1])):
        for letter, d in zip(term, _shape(v), strict=True):
            size[letter] = max(size.get(letter, 1), d)

    def product(letters: set[str]) -> int:
        return math.prod(size[x] for x in letters)

    shared = set(a) & set(b)
    batch, reduction = shared & set(out), shared - set(out)
    rows, columns = (set(a) - shared) & set(out), (set(b) - shared) & set(out)
    if not reduction:
        return None
    return _product(
        node, product(batch), product(rows), product(reduction), product(columns), values[0], values[1], outer
    )


# --- operands ---------------------------------------------------------------------------------------------------------


SAME = {"quant.dequantize", "shape.transpose", "shape.reshape"}
"""What is stored is what these take."""


def _source(v: Value, outer: Mapping[Value, Value]) -> Value:
    """The value that is stored: through casts of an encoding, transposes, and out of a kernel's body."""
    while True:
        if v in outer:
            v = outer[v]
        elif v.node is not None and v.node.op.name in SAME and v.node.inputs[0] is not None:
            v = v.node.inputs[0]
        else:
            return v


def _constant(v: Value, outer: Mapping[Value, Value]) -> Any:
    node = _source(v, outer).node
    return node.constant if node is not None else None


def _bits(node: Node, i: Value, w: Value, outer: Mapping[Value, Value]) -> tuple[int, int, int, int]:
    """Of W, I, the stored result and the accumulator."""
    found = []
    for v in (w, i):
        t = _source(v, outer).type
        found.append(bits_of(t.elem) if isinstance(t, Tensor) else 32)
    result = node.outputs[0].type
    out = bits_of(result.elem) if isinstance(result, Tensor) else 32
    if isinstance(result, Tensor) and isinstance(result.elem, Float):
        return found[0], found[1], max(out, 8) if max(found) > 8 else max(found), 32
    # sums of integers are requantised on the way to memory, to the width of the input
    return found[0], found[1], found[1], 32


def _weighed(layer: Layer, w: Value, outer: Mapping[Value, Value], axis: int) -> Layer:
    """With the zeros of W: their share, their pattern if the type has one, and how many each output channel has."""
    kind = _source(w, outer).type
    pattern = ""
    if isinstance(kind, Tensor):
        if isinstance(kind.layout, NM):
            pattern = f"nm:{kind.layout.n}:{kind.layout.m}"
        elif isinstance(kind.layout, Block):
            pattern = "block"
        elif isinstance(kind.layout, Csr):
            pattern = "csr"
    constant = _constant(w, outer)
    if constant is None:
        return replace(layer, pattern=pattern)
    array = np.asarray(constant.array)
    density = np.count_nonzero(array) / max(array.size, 1)
    if density >= SPARSE_BELOW:
        return replace(layer, pattern=pattern)
    nonzeros: tuple[int, ...] = ()
    if array.ndim >= 2:
        axis %= array.ndim
        if array.shape != w.type.shape and array.shape == w.type.shape[::-1]:  # stored transposed
            axis = array.ndim - 1 - axis
        counted = np.count_nonzero(array, axis=tuple(i for i in range(array.ndim) if i != axis))
        nonzeros = tuple(int(c) for c in counted)
    return replace(layer, pattern=pattern, density=(float(density), layer.density[1]), nonzeros=nonzeros)


def distinct_layers(works: Sequence[Work]) -> list[Layer]:
    """One of each kind of layer, in the order of first use."""
    found: dict[Any, Layer] = {}
    for w in works:
        if w.layer is not None:
            found.setdefault(w.layer.key(), w.layer)
    return list(found.values())
