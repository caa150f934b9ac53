"""Transformers without floats: softmax and layer norm of sums, which no cast has rounded to codes.

A network that keeps its residual stream and its attention scores in floats becomes integers throughout: sums are
rounded to i32 codes as fine as the op that reads them needs, and no finer cast is asked of `quantize`.

    scores * c + mask, softmax     1/256 a step; exponentials of every difference from a table
    x + product, layer norm        2**15 steps to either side of the largest sum that there can be
    sums of embeddings             are rounded to 16 bits where a layer norm reads them
    layer norm of other floats     stays, its result is rounded to 16 bits
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.edit import Editor
from ...ir.graph import Node, Value
from ...ir.types import Affine, Float, Int
from .emit import Encoding, codes_of, span_of
from .norms import EXPONENTIALS, LONGEST, NORMAL, _weights, normalised
from .products import real_bias
from .values import Code, Fixed, Real, Sums, Total

__all__ = ["WHOLE", "entered"]

I16, I32, F32 = Int("i16"), Int("i32"), Float("f32")

STEPS, EDGE = 256, 1 << 20
"""Steps of a score to 1, and the largest one: beyond it lie only masks."""
ENTRIES = 12 * STEPS
"""Of the table of exponentials: what is 12 less than the largest is no 2**-17 of it."""
LEVELS, SQUARES = 1 << 15, 25.9
"""Steps of a layer norm's operand, and the logarithm of what their number times the length of a row may reach."""


def softmax(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    """exp(x - max x) of scores in steps of 1/256, over its sum: as `norms.softmax`."""
    (x,) = given
    if not isinstance(x, (Sums, Total)) or not _coarse(x):
        return None
    powers = np.rint(np.exp(-np.arange(ENTRIES) / STEPS) * (1 << EXPONENTIALS)).astype(np.int32)

    def below(axis: int) -> Value:
        scores = _scores(editor, x)
        most = editor.emit("math.reduce_max", scores, axes=(axis,), keepdims=True)
        return editor.emit("math.sub", most, scores)

    return _weights(editor, node, below, powers)


def _coarse(real: Code | Sums | Total) -> bool:
    """Whether `_scores` has codes for it: sums that fit, and no clamps around totals."""
    if isinstance(real, Total):
        return real.low == -math.inf and real.high == math.inf and _coarse(real.left) and _coarse(real.right)
    return isinstance(real, Code) or bool(np.all(real.largest < 1 << 31))


def _scores(editor: Editor, real: Code | Sums | Total) -> Value:
    """Numbers as i32 in steps of 1/256; a mask is one row for all."""
    if isinstance(real, Total):
        return editor.emit("math.add", _scores(editor, real.left), _scores(editor, real.right))
    made = codes_of(editor, real, Encoding(1 / STEPS, 0, -EDGE, EDGE, I32))
    assert made is not None
    return made.raw


def masked(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    """A sum with codes of fewer axes."""
    left, right = given
    a, b = (v.type.shape for v in node.inputs if v is not None)
    if isinstance(left, Code) and b == node.output.type.shape:
        left, right, a, b = right, left, b, a
    if isinstance(left, (Sums, Total)) and isinstance(right, Code) and a == node.output.type.shape:
        return Total(left, right)
    return None


def layer_norm(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    """`norms.layer_norm` of sums in steps as fine as the squares of a row have room for."""
    x, scale, *rest = given
    shape = node.output.type.shape
    count, axis = shape[-1], len(shape) - 1
    if not isinstance(x, (Sums, Total)) or not isinstance(scale, Fixed) or scale.reals.ndim != 1:
        return None
    bias = real_bias(rest[0]) if rest else np.zeros(count)  # type: ignore[arg-type]
    if node.attr("axis") % len(shape) != axis or not isinstance(count, int) or count > LONGEST or bias is None:
        return None
    span = span_of(x)
    if not math.isfinite(span) or span <= 0:
        return None
    step = span / LEVELS
    bits = math.floor(SQUARES - math.log2(count * (LEVELS + 1)))
    least = round(float(node.attr("eps")) * (count / step) ** 2)
    if bits < 0 or least > 1 << 50 - 2 * bits:
        return None
    wanted = Encoding(step, 0, -LEVELS - 1, LEVELS + 1, I32)
    made = codes_of(editor, x, wanted)
    if made is None:
        return None
    codes = made.raw
    gain = np.asarray(scale.reals, np.float64)
    signs = np.where(gain < 0, -1, 1)

    def emit(integers: Any) -> Value:
        found = normalised(editor, codes, axis, count, least, signs, bits)
        return found if integers is None else editor.emit("math.add", found, editor.constant(integers))

    return Sums(emit, np.abs(gain) * 2.0**-NORMAL, (math.isqrt(count) + 1) << NORMAL, axis, bias)


def entered(editor: Editor, node: Node, made: Value, given: list[Real | None]) -> Real | None:
    """The result of a layer norm of floats as codes of 16 bits: no number is larger than the root of its length."""
    if node.op.name != "nn.layer_norm":
        return None
    (_, scale, *rest), count = given, node.output.type.shape[-1]
    if not isinstance(scale, Fixed) or not isinstance(count, int):
        return None
    bias = real_bias(rest[0]) if rest else np.zeros(1)
    if node.attr("axis") % node.output.type.rank != node.output.type.rank - 1 or bias is None:
        return None
    return _rounded(editor, made, float(np.max(np.abs(scale.reals) * math.sqrt(count) + np.abs(bias))))


def summed(editor: Editor, node: Node, made: Value) -> Real | None:
    """Sums of rows of constant tables, such as embeddings, as codes of 16 bits."""
    return _rounded(editor, made, _largest(node.output))


def _largest(v: Value | None) -> float:
    """A bound on the magnitude of constants, what is gathered of them and sums of those; infinite for others."""
    if v is None or v.node is None:
        return math.inf
    if v.node.constant is not None:
        array = np.asarray(v.node.constant.array)
        return float(np.abs(array).max(initial=0.0)) if array.dtype.kind == "f" else math.inf
    if v.node.op.name == "math.add":
        return sum(map(_largest, v.node.inputs))
    if v.node.op.name in ("shape.gather", "shape.slice", "shape.unsqueeze", "shape.expand"):
        return _largest(v.node.inputs[0])
    return math.inf


def _rounded(editor: Editor, made: Value, most: float) -> Sums | None:
    """Floats of that magnitude in 16 bits."""
    last = I16.range[1]
    step = float(np.float32(most / last))
    if not step > 0 or not math.isfinite(step):
        return None
    rounded = editor.emit("quant.quantize", made, to=Affine(I16, F32, step, 0))
    wide = editor.emit("math.cast", editor.emit("quant.store", rounded, to=I16), to=I32)

    def emit(integers: Any) -> Value:
        return wide if integers is None else editor.emit("math.add", wide, editor.constant(integers))

    return Sums(emit, step, last + 1)


WHOLE = {"nn.softmax": softmax, "nn.layer_norm": layer_norm, "math.add": masked}
"""Rules of `integer{whole=true}`, tried after those that there are always."""
