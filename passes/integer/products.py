"""Convolutions and products of codes: sums in int32 that are proved to fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.edit import Editor
from ...ir.graph import Node, Value
from .values import LIMIT, Code, Fixed, Problem, Real, Sums, Total

__all__ = ["conv", "matmul", "real_bias"]


def conv(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    x, w, *rest = given
    if not isinstance(x, Code):
        return None
    weight, scale = _weight(w, 0)
    bias = real_bias(rest[0] if rest else None)
    if rest and rest[0] is not None and bias is None:
        return None
    if bias is not None:
        weight, scale = _coarser(weight, scale, bias / x.scale)
    axes = tuple(range(1, weight.ndim))
    attrs = {k: v for k, v in node.attrs.items() if k in ("strides", "pads", "dilations", "g")}
    groups = node.attr("g")

    def part(source: Value, some: Any, bias: Any) -> Sums:
        codes = some.astype(np.int8)

        def emit(integers: Any) -> Value:
            shape = (len(codes),)
            extra = [] if integers is None else [editor.constant(np.broadcast_to(integers, shape).astype(np.int32))]
            return editor.emit("quant.conv", source, editor.constant(codes), *extra, zero=x.zero, **attrs)

        bound = np.abs(some).sum(axes) * x.span
        return Sums(emit, np.asarray(x.scale * scale), bound, 1 if np.ndim(scale) else None, bias)

    return _split(editor, x.raw, 1, weight, 1 if groups == 1 else None, bias, part)


def matmul(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    x, w = given
    if not isinstance(x, Code):
        return None
    rank = len(node.output.type.shape)
    if isinstance(w, Code):
        depth = x.raw.type.shape[-1]
        total = x.total if not isinstance(depth, int) else float(depth * x.span)
        if total is None:
            return None
        y, made = w, x

        def product(integers: Any) -> Value:
            extra = [] if integers is None else [editor.constant(integers)]  # one for each column
            return editor.emit("quant.matmul", made.raw, y.raw, *extra, a_zero=made.zero, b_zero=y.zero)

        return Sums(product, x.scale * w.scale, total * w.span)
    weight, scale = _weight(w, -1)
    if weight.ndim != 2 or len(x.raw.type.shape) < 1:
        return None

    def part(source: Value, some: Any, bias: Any) -> Sums:
        codes = some.astype(np.int8)

        def emit(integers: Any) -> Value:
            shape = (codes.shape[1],)
            extra = [] if integers is None else [editor.constant(np.broadcast_to(integers, shape).astype(np.int32))]
            return editor.emit("quant.matmul", source, editor.constant(codes), *extra, a_zero=x.zero)

        bound = np.abs(some).sum(0) * x.span
        return Sums(emit, np.asarray(x.scale * scale), bound, rank - 1 if np.ndim(scale) else None, bias)

    return _split(editor, x.raw, len(x.raw.type.shape) - 1, weight, 0, None, part)


def _weight(w: Real | None, axis: int) -> tuple[Any, Any]:
    """The codes of a constant and its scale, which is one number or runs along `axis`."""
    if not isinstance(w, Fixed) or w.codes is None:
        raise Problem("its weights are not quantised constants")
    if w.codes.min(initial=0) < -128 or w.codes.max(initial=0) > 127:
        raise Problem("its weights do not fit signed bytes (quantise them symmetrically)")
    if w.axis is not None and w.axis != axis % w.codes.ndim:
        raise Problem(f"the scales of its weights run along axis {w.axis}")
    return w.codes, w.scale


def _coarser(weight: Any, scale: Any, bias: Any) -> tuple[Any, Any]:
    """Larger scales for channels of next to no weight, where the bias would be too many steps for 32 bits.

    Their codes are rounded to what is left of them, which moves the result by less than 2**-29 of the bias a product.
    """
    steps = np.abs(bias) / np.maximum(scale, np.finfo(np.float64).tiny)
    excess = np.maximum(1.0, np.exp2(np.ceil(np.log2(np.maximum(steps, 1.0))) - 29))
    if np.all(excess == 1.0):
        return weight, scale
    shape = (-1, *[1] * (weight.ndim - 1))
    return np.rint(weight / excess.reshape(shape)).astype(np.int64), scale * excess


def real_bias(b: Real | None) -> Any:
    """The real numbers of a constant bias in f64."""
    if not isinstance(b, Fixed):
        return None
    if b.codes is not None and (b.axis is not None or not np.ndim(b.scale)):
        return b.codes * np.asarray(b.scale, np.float64)
    return np.asarray(b.reals, np.float64)


def _split(
    editor: Editor,
    source: Value,
    axis: int,
    weight: Any,
    along: int | None,
    bias: Any,
    part: Callable[[Value, Any, Any], Sums],
) -> Real:
    """The product, in as many parts of the summed axis (`axis` of the source, `along` of the weight) as fit int32."""
    whole = part(source, weight, bias)
    if np.all(whole.largest < LIMIT):
        return whole
    count = 1 if along is None else weight.shape[along]
    if count < 2:
        raise Problem("its sums may exceed 32 bits, and cannot be split")
    sides = []
    for start, stop in ((0, count // 2), (count // 2, count)):
        piece = editor.emit("shape.slice", source, starts=(start,), stops=(stop,), axes=(axis,))
        some = np.take(weight, range(start, stop), along)
        sides.append(_split(editor, piece, axis, some, along, bias if start == 0 else None, part))
    left, right = sides
    assert isinstance(left, (Sums, Total))
    assert isinstance(right, (Sums, Total))
    return Total(left, right)
