"""Softmax and layer norm of codes, in integer ops that there are for other reasons."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.edit import Editor
from ...ir.graph import Node, Value
from ...ir.types import Affine, Float, Int
from .emit import centred
from .products import real_bias
from .values import Code, Fixed, Real, Sums

__all__ = ["layer_norm", "normalised", "softmax", "softmax_of_floats"]

I32, I64 = Int("i32"), Int("i64")

EXPONENTIALS, PROBABILITIES = 15, 14
"""Bits behind the binary point of exponentials, and of what they are divided to."""

OCTAVE = 64
"""Steps in which exp(-x) falls to its half where x is not a code: it is off by 2**(1 / 128), 0.55 %, at most."""

FINE, RATIO = 10, 18
"""Bits behind the binary point of such an x, and of the factor that makes steps of an octave of it."""


def softmax(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    """exp(x - max x) from a table of every difference of two codes, over its sum: one integer division each."""
    (x,) = given
    if not isinstance(x, Code) or x.raw.type.elem.bits > 8:  # type: ignore[union-attr]
        return None
    powers = np.rint(np.exp(-np.arange(256) * x.scale) * (1 << EXPONENTIALS)).astype(np.int32)

    def below(axis: int) -> Value:
        wide = [
            editor.emit("math.cast", v, to=I32)
            for v in (editor.emit("math.reduce_max", x.raw, axes=(axis,), keepdims=True), x.raw)
        ]
        return editor.emit("math.sub", wide[0], wide[1])

    return _weights(editor, node, below, powers)


def softmax_of_floats(editor: Editor, node: Node, x: Value) -> Real | None:
    """The same for numbers that are no codes: how far they are below the largest is rounded, to 64ths of an octave.

    2**(-i / 64) is 2**(-(i mod 64) / 64), of which there are 64, shifted to the right.
    """
    steps = np.arange(OCTAVE * (EXPONENTIALS + 1))
    octave = np.rint(np.exp2(-(steps % OCTAVE) / OCTAVE) * (1 << EXPONENTIALS)).astype(np.int32)
    powers = (octave >> steps // OCTAVE).astype(np.int32)

    def below(axis: int) -> Value:
        most = editor.emit("math.reduce_max", x, axes=(axis,), keepdims=True)
        to = Affine(Int("u16"), Float("f32"), 2.0**-FINE, 0)
        fine = editor.emit("quant.quantize", editor.emit("math.sub", most, x), to=to)
        wide = editor.emit("math.cast", editor.emit("quant.store", fine, to=Int("u16")), to=I32)
        ratio = editor.constant(np.int32(round(OCTAVE / math.log(2) * 2.0 ** (RATIO - FINE))))
        rounded = editor.emit(
            "math.add", editor.emit("math.mul", wide, ratio), editor.constant(np.int32(1 << RATIO - 1))
        )
        return editor.emit("math.shift_right", rounded, editor.constant(np.int32(RATIO)))

    return _weights(editor, node, below, powers)


def _weights(editor: Editor, node: Node, below: Callable[[int], Value], powers: Any) -> Real | None:
    """powers[below] over their sum along an axis, rounded to 14 bits; an unknown extent is taken to be below 2**15."""
    shape = node.output.type.shape
    axis = node.attr("axis") % len(shape)
    extent = shape[axis]
    if isinstance(extent, int) and not 0 < extent < LONGEST_ROW:
        return None

    def emit(integers: Any) -> Value:
        assert integers is None
        power = editor.emit("quant.table", below(axis), editor.constant(powers), first=0)
        total = editor.emit("math.reduce_sum", power, axes=(axis,), keepdims=True)
        half = editor.emit("math.shift_right", total, editor.constant(np.int32(1)))
        scaled = editor.emit("math.mul", power, editor.constant(np.int32(1 << PROBABILITIES)))
        return editor.emit("math.div", editor.emit("math.add", scaled, half), total)

    # shares add up to 1 before they are rounded, by which none is more than doubled
    total = 2.0 ** (PROBABILITIES + 1) if axis == len(shape) - 1 else None
    return Sums(emit, 2.0**-PROBABILITIES, 1 << PROBABILITIES, total=total)


LONGEST_ROW = 1 << 31 - EXPONENTIALS - 1
"""Of exponentials whose sum, and half of it, has room in 32 bits."""

NORMAL, ROOT = 12, 8
"""Bits behind the binary point of what is normalised, and of the deviation that it is divided by."""

LONGEST = 1024
"""Rows for which the square, (127.5 n)^2 at most, has room for twice ROOT bits more below 2**52."""


def layer_norm(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    """(x - mean) / deviation in integers: with d = n c - sum(c), deviation^2 = sum(d^2) / n in the same units.

    The root is the integer one (Kim et al., I-BERT, 2021, section 3.5) with 8 bits more, the quotient has 12 bits
    behind the binary point. The affine map takes the place of a scale and a bias.
    """
    x, scale, *rest = given
    shape = node.output.type.shape
    if not isinstance(x, Code) or not isinstance(scale, Fixed) or scale.reals.ndim != 1:
        return None
    if node.attr("axis") % len(shape) != len(shape) - 1 or not isinstance(shape[-1], int) or shape[-1] > LONGEST:
        return None
    bias = real_bias(rest[0]) if rest else np.zeros(shape[-1])
    if bias is None or x.raw.type.elem.bits > 8:  # type: ignore[union-attr]
        return None
    count, axis = shape[-1], len(shape) - 1
    gain = np.asarray(scale.reals, np.float64)
    least = round(float(node.attr("eps")) * (count / x.scale) ** 2)  # eps in these units
    signs = np.where(gain < 0, -1, 1)

    def emit(integers: Any) -> Value:
        found = normalised(editor, centred(editor, x), axis, count, least, signs, ROOT)
        return found if integers is None else editor.emit("math.add", found, editor.constant(integers))

    return Sums(emit, np.abs(gain) * 2.0**-NORMAL, (math.isqrt(count) + 1) << NORMAL, axis, bias)


def normalised(editor: Editor, codes: Value, axis: int, count: int, least: int, signs: Any, bits: int) -> Value:
    """Rows of i32 less their mean, over their deviation with `bits` behind the point; NORMAL behind that of the result.

    `least` is added to the square of the deviation (times count^2), `signs` are those of the scale to come.
    """
    total = editor.emit("math.reduce_sum", codes, axes=(axis,), keepdims=True)
    apart = editor.emit("math.sub", editor.emit("math.mul", codes, editor.constant(np.int32(count))), total)
    wide = editor.emit("math.cast", apart, to=I64)
    squares = editor.emit("math.reduce_sum", editor.emit("math.mul", wide, wide), axes=(axis,), keepdims=True)
    mean = editor.emit("math.div", squares, editor.constant(np.int64(count)))
    mean = editor.emit("math.add", mean, editor.constant(np.int64(max(least, 1))))
    root = editor.emit("quant.isqrt", editor.emit("math.mul", mean, editor.constant(np.int64(1 << 2 * bits))))
    fine = editor.emit("math.mul", wide, editor.constant(signs.astype(np.int64) << NORMAL + bits))
    return editor.emit("math.cast", editor.emit("math.div", fine, root), to=I32)
