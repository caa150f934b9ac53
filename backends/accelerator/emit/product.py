"""Products of two activations, such as those of attention, and products whose results have more than 8 bits.

    quant.matmul(q [1, H, T, D], k [1, H, D, S])  then quant.requantize      heads are groups of the layer

Either operand is a tensor in DRAM with steps along its axes: heads side by side in [T, H D] are read where they are,
and the result goes where the next layer wants it. The second operand takes the place of the weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ir.diagnostics import error
from ....ir.graph import Value
from ..formats import DENSE
from ..layer import Layer
from ..workload import layer_of
from .contraction import Activation, Buffers, Contraction, Packed, emit
from .groups import Group
from .rowwise import constant
from .stream import Writer
from .tensors import array_of, bytes_of, clamp, int_of
from .weights import packed_weights

if TYPE_CHECKING:
    from .network import Network

__all__ = ["emit_product", "prepare_product", "product_layer"]


def product_layer(group: Group) -> Layer:
    """The layer: heads are groups, results as wide as they are stored."""
    node = group.sums
    found = layer_of(node, {})
    assert found is not None
    requantize = group.node("quant.requantize")
    assert requantize is not None
    w, bits = node.inputs[1], list(found.bits)
    assert w is not None
    bits[0] = next(b for b in (2, 4, 8) if int_of(w).bits <= b)
    bits[2] = 8 * bytes_of(requantize.output)
    return replace(found, bits=tuple(bits))  # type: ignore[arg-type]


def prepare_product(net: Network, group: Group) -> Any:
    """Among the constants: weights, where these are some, and the table of requantisation, an entry a column."""
    node, layer = group.sums, net.layers[group]
    requantize = group.node("quant.requantize")
    assert requantize is not None
    e = layer.extent
    table = np.zeros((e["G"], e["K"], 4), np.int32)
    table[..., 1], table[..., 2] = (array_of(v) for v in requantize.inputs[1:3])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        table[..., 0] = array_of(node.inputs[2])
    packed: tuple[int, Any] = (0, ({}, DENSE))
    if constant(node.inputs[1]):
        weights = array_of(node.inputs[1]).astype(np.int64) - node.attr("b_zero")
        tiles = {d: t[0] for d, t in net.mappings[group].tiles.items()}
        data, places = packed_weights(weights.T[None, :, :, None, None], tiles, layer.bits[0])
        packed = (net.constants.add(data), (places, DENSE))
    return (*packed, net.constants.add(table.tobytes()), table.nbytes)


def emit_product(net: Network, group: Group, to: Writer) -> None:
    """All of it, from and to DRAM."""
    node, requantize = group.sums, group.node("quant.requantize")
    assert requantize is not None
    layer, mapping = net.layers[group], net.mappings[group]
    weights, (places, _), table, length = net.weights[group]
    line = net.table(table, length, to)
    x, w = node.inputs[:2]
    assert x is not None and w is not None
    result = requantize.output
    base, head, row, column = _steps(net, result)
    output = Activation(base, (0, head, bytes_of(result), row, 0), int_of(result).signed, requantize.attr("zero"))
    if column != bytes_of(result):
        raise error("IG0585", f"the columns of `{node.output.name or node.output.type}` are apart in memory")
    e, tiles = layer.extent, {d: t[0] for d, t in mapping.tiles.items()}
    low, high = clamp(requantize)
    buffers: dict[str, Buffers] = net.buffers(group)
    made = Contraction(
        layer,
        tiles,
        mapping.orders[0],
        _operand(net, x, node.attr("a_zero")),
        Packed(weights) if constant(w) else _columns(net, w, node.attr("b_zero")),
        output,
        table=line,
        low=low,
        high=high,
        partial=net.partial,
        weight_bits=layer.bits[0],
        output_bits=layer.bits[2],
    )
    if tiles["C"] < e["C"]:
        visits = -(-e["G"] // tiles["G"]) * -(-e["K"] // tiles["K"]) * -(-e["P"] // tiles["P"])
        net.spill = max(net.spill, visits * buffers["O"].size)
    emit(made, buffers, places, to)


def _steps(net: Network, v: Value) -> tuple[int, int, int, int]:
    """Of a matrix, or one a head: where it begins, and bytes from head to head, row to row, column to column."""
    base, strides = net.tensors.rows(v)
    return base, strides[-3] if len(strides) == 4 else 0, strides[-2], strides[-1]


def _operand(net: Network, x: Value, zero: int) -> Activation:
    base, head, row, column = _steps(net, x)
    if column != 1:
        raise error("IG0585", f"what is summed of `{x.name or x.type}` is apart in memory")
    return Activation(base, (0, head, 1, row, 0), int_of(x).signed, zero)


def _columns(net: Network, w: Value, zero: int) -> Activation:
    """The second operand [depth, columns]: columns are output channels, depth is summed."""
    base, head, depth, column = _steps(net, w)
    return Activation(base, (0, head, depth, column, 0), int_of(w).signed, zero)
