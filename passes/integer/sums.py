"""Sums, products and means of codes, element by element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.edit import Editor
from ...ir.graph import Node, Value
from ...ir.types import Int
from .emit import centred
from .products import real_bias
from .values import LIMIT, Code, Fixed, Problem, Real, Sums, Total

__all__ = ["add", "average", "divide", "is_constant", "multiply"]

I32 = Int("i32")


def add(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    left, right = given
    if isinstance(left, Fixed):
        left, right = right, left
    if isinstance(right, Fixed):
        return _plus_constant(editor, node, left, right)
    if not isinstance(left, (Code, Sums, Total)) or not isinstance(right, (Code, Sums, Total)):
        return None
    shape = node.output.type.shape
    if any(v is None or v.type.shape != shape for v in node.inputs):
        return None
    return Total(left, right)


def _plus_constant(editor: Editor, node: Node, sums: Real | None, constant: Fixed) -> Real | None:
    """A bias: one number, or one for each entry along the axis of the sums' scale (or the last axis)."""
    if isinstance(sums, Code):
        return _moved_code(editor, node, sums, constant)
    if not isinstance(sums, Sums) or sums.low > -math.inf or sums.high < math.inf:
        return None
    if node.output.type.shape != _shape(node, sums):
        return None
    array = real_bias(constant)
    rank = len(node.output.type.shape)
    long = [i + rank - array.ndim for i, d in enumerate(array.shape) if d != 1]
    axis = sums.axis if sums.axis is not None else (long[0] if long else None)
    if len(long) > 1 or (long and long[0] != axis) or axis is None:
        return None
    extent = node.output.type.shape[axis]
    values = array.reshape(-1) + (0.0 if sums.bias is None else np.asarray(sums.bias))
    if not isinstance(extent, int):
        return None
    scale = np.broadcast_to(np.asarray(sums.scale, np.float64), (extent,))
    made = Sums(sums.emit, scale, sums.bound, axis, np.broadcast_to(values, (extent,)), sums.low, sums.high)
    return made if np.all(made.largest < LIMIT) else None


FINER = 14
"""Bits by which a constant is finer than the code it is added to."""


def _moved_code(editor: Editor, node: Node, code: Code, constant: Fixed) -> Real | None:
    """A code plus constants of any shape: in i32, with some bits more."""
    if constant.reals.size == 1 or node.output.type.shape != _shape(node, code):
        return None
    scale = code.scale / (1 << FINER)
    steps = np.rint(constant.reals.astype(np.float64) / scale)
    bound = (code.span << FINER) + np.abs(steps).max(initial=0)
    if not bound < LIMIT:
        return None

    def emit(integers: Any) -> Value:
        assert integers is None
        wide = editor.emit("math.mul", centred(editor, code), editor.constant(np.int32(1 << FINER)))
        return editor.emit("math.add", wide, editor.constant(steps.astype(np.int32)))

    return Sums(emit, scale, bound)


def _shape(node: Node, sums: Code | Sums) -> Any:
    """The shape of the operand that is no constant."""
    return next((v.type.shape for v in node.inputs if v is not None and not is_constant(v)), None)


def is_constant(v: Value) -> bool:
    node = v.node
    while node is not None and node.op.name in ("quant.dequantize", "shape.transpose"):
        v = node.inputs[0]  # type: ignore[assignment]
        node = v.node
    return node is not None and node.constant is not None


def multiply(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    left, right = given
    if isinstance(left, Code) and isinstance(right, Code):
        a, b = left, right

        def product(integers: Any) -> Value:
            assert integers is None
            return editor.emit("math.mul", centred(editor, a), centred(editor, b))

        return Sums(product, a.scale * b.scale, a.span * b.span)
    if isinstance(left, Fixed):
        left, right = right, left
    if isinstance(left, Sums) and isinstance(right, Fixed) and right.reals.size == 1 and _open(left):
        factor = float(right.reals.reshape(()))
        if factor > 0 and node.output.type.shape == _shape(node, left):
            bias = None if left.bias is None else left.bias * factor
            return Sums(left.emit, np.asarray(left.scale) * factor, left.bound, left.axis, bias)
    return None


def divide(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    divisor = given[1]
    if not isinstance(divisor, Fixed) or divisor.reals.size != 1 or float(divisor.reals.reshape(())) <= 0:
        return None
    return multiply(editor, node, [given[0], Fixed(1.0 / divisor.reals.astype(np.float64))])


def _open(real: Sums | Total) -> bool:
    return real.low == -math.inf and real.high == math.inf


def average(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    (x,) = given
    if not isinstance(x, Code):
        return None
    a = node.attr
    shape = x.raw.type.shape
    if node.op.name == "nn.avg_pool":
        attrs = {k: v for k, v in node.attrs.items() if k != "count_pads"}
        if (any(a("pads") or ()) and not a("count_pads")) or a("ceil"):
            raise Problem("its windows have different numbers of elements")
    else:
        axes = tuple(sorted(i % len(shape) for i in (a("axes") if a("axes") is not None else range(len(shape)))))
        if axes != tuple(range(2, len(shape))) or not a("keepdims") or not axes:
            return _mean(editor, x, axes, a("keepdims"))
        attrs = {"kernel": shape[2:]}
    kernel = attrs["kernel"]
    if not all(isinstance(d, int) for d in kernel):
        return None
    count = math.prod(kernel)

    def emit(integers: Any) -> Value:
        assert integers is None
        return editor.emit("quant.sum_pool", x.raw, zero=x.zero, **{**attrs, "kernel": tuple(kernel)})

    return Sums(emit, x.scale / count, count * x.span)


def _mean(editor: Editor, x: Code, axes: tuple[int, ...], keepdims: bool) -> Real | None:
    """A mean over any axes: a sum in i32."""
    extents = [x.raw.type.shape[i] for i in axes]
    if not extents or not all(isinstance(d, int) and d > 0 for d in extents):
        return None
    count = math.prod(d for d in extents if isinstance(d, int))

    def emit(integers: Any) -> Value:
        assert integers is None
        return editor.emit("math.reduce_sum", centred(editor, x), axes=axes, keepdims=keepdims)

    return Sums(emit, x.scale / count, count * x.span)
