"""What is no product: elementwise ops, pools, norms, softmax, tables, copies. Costed as operations and bits moved.

An op is its operations on a *unit* (`alu` for sums and comparisons, else by the function: exp, sqrt, table ...) and, if
it is not on the path of a product's results to memory, the bits it reads and writes in the outermost memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...ir.dims import Extent, substitute, symbols
from ...ir.graph import Node
from ...ir.target import node_cost
from ...ir.types import Affine, Bool, Elem, Float, Int, Pow2, Sign, Tensor

__all__ = ["Vector", "bits_of", "extents", "vector_of"]

UNITS = {
    "math.exp": "exp",
    "math.log": "log",
    "math.sqrt": "sqrt",
    "math.reciprocal": "div",
    "math.div": "div",
    "math.mod": "div",
    "math.pow": "exp",
    "math.sigmoid": "sigmoid",
    "math.softplus": "softplus",
    "math.erf": "erf",
    "nn.gelu": "gelu",
    "nn.softmax": "exp",
    "nn.log_softmax": "exp",
    "nn.layer_norm": "sqrt",
    "nn.lrn": "exp",
    "quant.table": "lut",
    "quant.isqrt": "sqrt",
    "approx.poly": "poly",
}
"""The unit that does an op's hardest operation; every other op is the ALU's."""

PASSES = {"nn.softmax": 4, "nn.log_softmax": 4, "nn.layer_norm": 7, "nn.batch_norm": 2, "quant.requantize": 2}
"""ALU operations an element of the result beside the unit's one: maximum, difference, sum, scale and the like."""

ROWWISE = {"nn.layer_norm"}  # the unit works once a row, not once an element


@dataclass(frozen=True)
class Vector:
    """`special` operations of `unit` and `simple` ones of the ALU; bits from and to the outermost memory."""

    op: str
    unit: str
    special: int
    simple: int
    read_bits: int = 0
    write_bits: int = 0


SELECTS = {"shape.gather", "shape.gather_elements", "shape.gather_nd", "shape.slice", "shape.split"}
"""Ops that read as much as they write, however large what they choose from is."""


def bits_of(elem: Elem, floats: int = 64) -> int:
    """Bits that one element takes where nothing is padded to bytes; floats take at most `floats`."""
    if isinstance(elem, Affine):
        return bits_of(elem.store)
    if isinstance(elem, (Sign, Bool)):
        return 1
    if isinstance(elem, Pow2):
        return elem.bits
    if isinstance(elem, Float):
        return 4 if elem.name == "f4e2m1" else min(elem.dtype.itemsize * 8, floats)
    return elem.bits


def extents(value: object) -> list[Extent]:
    """The extents of a type, symbols (a batch size) taken as 1; what only running can tell stays what it is."""
    shape = getattr(value, "shape", ())
    ones: dict[str, Extent] = dict.fromkeys(symbols(shape), 1)
    return [substitute(d, ones) for d in shape]


def elements_of(value: object) -> int:
    """Elements of a tensor type."""
    return math.prod(d for d in extents(value) if isinstance(d, int))


def tensor_bits(value: object, floats: int = 64) -> int:
    return elements_of(value) * bits_of(value.elem, floats) if isinstance(value, Tensor) else 0


def vector_of(node: Node, *, on_path: bool, floats: int = 64) -> Vector:
    """The vector work of a node; `on_path`: its first operand comes from the array, its result is stored anyway."""
    name = node.op.name
    out = elements_of(node.outputs[0].type)
    unit = UNITS.get(name, "alu")
    special = 0 if unit == "alu" else out
    if name in ROWWISE:
        axis = node.attr("axis")
        rows = elements_of(node.outputs[0].type.with_shape(node.outputs[0].type.shape[:axis]))  # type: ignore[union-attr]
        special = rows
    simple = PASSES.get(name, 0) * out
    widened = name == "math.cast" and on_path and all(isinstance(v.type.elem, Int) for v in node.outputs)  # type: ignore[union-attr]
    if unit == "alu" and not simple and not node.op.has("structural") and not widened:  # adders take codes as they are
        simple = max(out, node_cost(node).flops)
    read = write = 0
    if not on_path:
        write = sum(tensor_bits(v.type, floats) for v in node.outputs)
        read = write if name in SELECTS else sum(tensor_bits(v.type, floats) for v in node.inputs if v is not None)
    return Vector(name, unit, special, simple, read, write)
