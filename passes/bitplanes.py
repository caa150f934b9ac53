"""Products of few-bit integers as products of signs, which machines multiply by the word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.edit import Editor
from ..ir.graph import Graph, Node, Value
from ..ir.types import Int, Tensor
from .definition import Context, define_pass
from .options import option
from .rebuild import array_of

__all__ = ["BitPlanes", "bitplanes"]

WORD = 32


@dataclass(frozen=True)
class BitPlanes:
    most: int = option(4, "products of signs that may stand for one product")

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError("at least one product")


@define_pass("bitplanes", contract="exact", options=BitPlanes)
def bitplanes(graph: Graph, options: BitPlanes, context: Context) -> Graph:
    """Write products of codes with constant weights of few bits as sums of products of signs.

    A code q of M bits is a sum of signs c_m, 2 q - (2^M - 1) = sum_m 2^m c_m, so the product of M and K bits is M K
    products of signs, by bitwise operations, and sums of codes (the {-1,+1} decomposition, Sun et al. 2021). One of
    M K <= 4 is faster than one of bytes. How many bits a code has is what it is clamped to, or what its type can hold.

    Before:

        graph @main(%x: u2[1, 3]) -> (y: i32[1, 2]) {
          %w = const [-1, 1, 1, 1, -1, -1] : i8[3, 2]
          %y = quant.matmul(%x, %w) {a_zero = 1} : i32[1, 2]
          return %y
        }

    After `bitplanes`:

        graph @main(%x: u2[1, 3]) -> (y: i32[1, 2]) {
          %0 = quant.pack_bits(%x) : i32[1, 1]
          %1 = const [2, 3] : i32[2, 1]
          %2 = quant.sign_matmul(%0, %1) {depth = 3} : i32[1, 2]
          %3 = quant.pack_bits(%x) {bit = 1} : i32[1, 1]
          %4 = quant.sign_matmul(%3, %1) {depth = 3} : i32[1, 2]
          %5 = const 2 : i32[]
          %6 = math.mul(%4, %5) : i32[1, 2]
          %7 = math.add(%2, %6) : i32[1, 2]
          %8 = math.cast(%x) {to = i32} : i32[1, 3]
          %9 = math.reduce_sum(%8) {axes = [1]} : i32[1, 1]
          %10 = math.mul(%9, %5) : i32[1, 1]
          %11 = const [-3, 3] : i32[2]
          %12 = math.add(%10, %11) : i32[1, 2]
          %13 = math.add(%7, %12) : i32[1, 2]
          %14 = math.shift_right(%13, %5) : i32[1, 2]
          %15 = math.mul(%14, %5) : i32[1, 2]
          %16 = const -1 : i32[]
          %17 = math.mul(%9, %16) : i32[1, 1]
          %18 = const [1, -1] : i32[2]
          %19 = math.add(%17, %18) : i32[1, 2]
          %y = math.add(%15, %19) : i32[1, 2]
          return %y
        }
    """
    editor = Editor(graph)
    count = 0
    for node in list(editor.nodes):
        if node.op.name == "quant.matmul":
            editor.loc = node.loc
            found = _planes(editor, node, options.most)
            if found is not None:
                editor.replace(node, [found])
                count += 1
    context.note(f"{count} products by bit planes")
    return editor.freeze() if count else graph


@dataclass(frozen=True)
class _Codes:
    """first + step * q with q from 0 to 2**bits - 1."""

    first: int
    step: int
    bits: int

    @property
    def top(self) -> int:
        return (1 << self.bits) - 1


def _planes(editor: Editor, node: Node, most: int) -> Value | None:
    x, w, *rest = node.inputs
    weight = array_of(w)
    if x is None or weight is None or weight.ndim != 2 or node.attr("b_zero") or not weight.size:
        return None
    if not isinstance(x.type, Tensor) or not isinstance(x.type.elem, Int) or len(x.type.shape) < 2:
        return None
    weight = weight.astype(np.int64)
    depth, zero = len(weight), node.attr("a_zero")
    a, b = _range_of(x), _codes_of(weight)
    if a.bits * b.bits > most or 8 * depth << a.bits + b.bits >= 1 << 31:
        return None
    q = (weight - b.first) // b.step
    total: Value | None = None
    for m in range(b.bits):
        plane = (q >> m & 1).astype(np.uint8).T  # 0 and 1, packed as signs
        words = editor.constant(_packed(plane))
        for k in range(a.bits):
            signs = editor.emit("quant.pack_bits", _shifted(editor, x, a.first), bit=k)
            product = editor.emit("quant.sign_matmul", signs, words, depth=depth)
            if m + k:
                product = editor.emit("math.mul", product, editor.constant(np.int32(1 << m + k)))
            total = product if total is None else editor.emit("math.add", total, product)
    assert total is not None
    wide = editor.emit("math.cast", x, to=Int("i32"))
    rows = editor.emit("math.reduce_sum", wide, axes=(len(x.type.shape) - 1,), keepdims=True)
    # 4 <q, p> = sum 2^(m+k) <c_m, d_k> + 2 P sum(q) + 2 Q sum(p) - n P Q, with sum(p) = sum(x) - n first
    columns = 2 * a.top * q.sum(0) - depth * a.top * b.top - 2 * b.top * depth * a.first
    total = _plus(editor, total, editor.emit("math.mul", rows, editor.constant(np.int32(2 * b.top))), columns)
    total = editor.emit("math.shift_right", total, editor.constant(np.int32(2)))
    if b.step != 1:
        total = editor.emit("math.mul", total, editor.constant(np.int32(b.step)))
    # <w, x - z> = step <q, p> + first sum(p) + X sum(w) - z sum(w), X the first x
    columns = weight.sum(0) * (a.first - zero) - b.first * depth * a.first
    if rest and rest[0] is not None:
        total = editor.emit("math.add", total, rest[0])
    return _plus(editor, total, editor.emit("math.mul", rows, editor.constant(np.int32(b.first))), columns)


def _plus(editor: Editor, total: Value, rows: Value, columns: Any) -> Value:
    """total + rows[.., 1] + columns[N]."""
    both = editor.emit("math.add", rows, editor.constant(columns.astype(np.int32)))
    return editor.emit("math.add", total, both)


def _shifted(editor: Editor, x: Value, first: int) -> Value:
    """x with its first code where its type begins."""
    lowest = x.type.elem.range[0]  # type: ignore[union-attr]
    if first == lowest:
        return x
    return editor.emit("math.sub", x, editor.constant(np.array(first - lowest).astype(x.type.elem.dtype)))  # type: ignore[union-attr]


def _packed(ones: Any) -> Any:
    padded = np.pad(ones, [(0, 0), (0, -ones.shape[1] % WORD)])
    return np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little")).view(np.int32)


def _codes_of(weight: Any) -> _Codes:
    first = int(weight.min())
    step = math.gcd(*[int(v) for v in np.unique(weight - first)]) or 1
    return _Codes(first, step, max(1, int((weight.max() - first) // step).bit_length()))


def _range_of(x: Value) -> _Codes:
    """What an activation may be, by its maker's clamps or by its type."""
    low, high = x.type.elem.range  # type: ignore[union-attr]
    maker = x.node
    if maker is not None and maker.op.name in ("quant.requantize", "quant.add"):
        low = low if maker.attr("low") is None else maker.attr("low")
        high = high if maker.attr("high") is None else maker.attr("high")
    return _Codes(low, 1, max(1, (high - low).bit_length()))
