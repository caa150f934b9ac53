"""What each op makes of integer operands: the table of rules, and those for ops that move, clamp or map elements.

A rule is given a node and what stands for its operands (None: a float), and returns what stands for its result, or None
to leave it float. `Problem` says why a node that could have been integer is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.edit import Editor
from ...ir.graph import Node, Value
from ...ir.types import Float, Tensor
from .emit import unary
from .norms import layer_norm, softmax
from .products import conv, matmul
from .sums import add, average, divide, is_constant, multiply
from .values import Code, Fixed, Function, Joined, Mapped, Moved, Real, Sums, Total

__all__ = ["RULES", "elementwise"]

Rule = Callable[[Editor, Node, list[Real | None]], Real | None]


def relu(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    return _clamp(given[0], 0.0, math.inf)


def maximum(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    return _bounded(node, given, lower=True)


def minimum(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    return _bounded(node, given, lower=False)


def _bounded(node: Node, given: list[Real | None], lower: bool) -> Real | None:
    left, right = given
    if isinstance(left, Fixed):
        left, right = right, left
    if not isinstance(right, Fixed) or right.reals.size != 1 or not isinstance(left, (Sums, Total)):
        return None
    if any(v is not None and not is_constant(v) and v.type.shape != node.output.type.shape for v in node.inputs):
        return None
    bound = float(right.reals.reshape(()))
    if math.isnan(bound):
        return None
    return _clamp(left, bound, math.inf) if lower else _clamp(left, -math.inf, bound)


def _clamp(x: Real | None, low: float, high: float) -> Real | None:
    return x.clamped(low, high) if isinstance(x, (Sums, Total)) else None


def moved(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    """What does not compute does the same with codes."""
    x, *others = given
    if isinstance(x, Fixed):
        return _moved_constant(node, x)
    rest = [v for v in others if isinstance(v, Fixed)]
    if x is None or len(rest) < len([v for v in others if v is not None]):
        return None

    def move(value: Value) -> Value:
        return editor.apply(
            node.op, [value, *(editor.constant(v.reals) for v in rest)], node.attrs, loc=node.loc
        ).output

    if isinstance(x, Code):
        return Code(move(x.raw), x.scale, x.zero, x.low, x.high)
    return Moved(x, move) if node.op.has("structural") else None


def _moved_constant(node: Node, x: Fixed) -> Real | None:
    if node.op.name != "shape.transpose" or x.codes is None:
        return None
    perm = node.attr("perm")
    axis = None if x.axis is None else list(perm).index(x.axis)
    return Fixed(x.reals.transpose(perm), x.codes.transpose(perm), x.scale, axis)


def pad(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    x, *rest = given
    if not isinstance(x, Code):
        return None
    fill = rest[0] if rest else Fixed(np.zeros((), np.float32))
    if not isinstance(fill, Fixed) or (node.attr("mode") == "constant" and float(fill.reals.reshape(()))):
        return None
    shortcut = _shortcut(editor, node, x)
    if shortcut is not None:
        return shortcut
    value = editor.constant(np.array(x.zero, x.raw.type.elem.dtype))  # type: ignore[union-attr]
    made = editor.emit("shape.pad", x.raw, value, **dict(node.attrs))
    return Code(made, x.scale, x.zero, min(x.low, x.zero), max(x.high, x.zero))


def _shortcut(editor: Editor, node: Node, x: Code) -> Sums | None:
    """Every s-th pixel and new channels of zeros, the shortcut of small ResNets, as a convolution with ones and zeros.

    Exactly the same, without the copies of the image to and from its layout in blocks that moving pixels takes.
    """
    maker, pads = x.raw.node, node.attr("pads")
    if maker is None or maker.op.name != "shape.slice" or len(pads) != 8 or any(pads[i] for i in (0, 2, 3, 4, 6, 7)):
        return None
    source, before, channels = maker.inputs[0], pads[1], x.raw.type.shape[1]
    if source is None or not isinstance(channels, int) or min(before, pads[5]) < 0:
        return None
    axes = maker.attr("axes") if maker.attr("axes") is not None else tuple(range(len(maker.attr("starts"))))
    steps = maker.attr("steps") or (1,) * len(axes)
    found = {a % 4: (start, step) for a, start, step in zip(axes, maker.attr("starts"), steps, strict=True)}
    if set(found) != {2, 3} or any(start or step < 2 for start, step in found.values()):
        return None
    strides = (found[2][1], found[3][1])
    sizes = [-(-d // s) if isinstance(d, int) else None for d, s in zip(source.type.shape[2:], strides, strict=True)]
    if tuple(sizes) != x.raw.type.shape[2:]:
        return None
    ones = np.zeros((channels + before + pads[5], channels, 1, 1), np.int8)
    ones[range(before, before + channels), range(channels)] = 1

    def emit(integers: Any) -> Value:
        assert integers is None
        return editor.emit("quant.conv", source, editor.constant(ones), zero=x.zero, strides=strides)

    return Sums(emit, x.scale, x.span)


def concat(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    parts = tuple(x for x in given if x is not None and not isinstance(x, Fixed))
    if len(parts) < len(given):
        return None
    codes = [x for x in parts if isinstance(x, Code)]
    if len(codes) < len(parts) or not all(x.same_scale(codes[0]) for x in codes):
        return Joined(parts, node.attr("axis"))
    made = editor.emit("shape.concat", *[x.raw for x in codes], **dict(node.attrs))
    low, high = min(x.low for x in codes), max(x.high for x in codes)
    return Code(made, codes[0].scale, codes[0].zero, low, high)


def elementwise(editor: Editor, node: Node, given: list[Real | None]) -> Real | None:
    """Any function of one code, constants aside: evaluated for every value that the code can have."""
    if len(node.outputs) != 1 or (not node.op.has("elementwise") and node.op.name != "nn.gelu"):
        return None
    type = node.output.type
    if not isinstance(type, Tensor) or type.elem is not Float("f32"):
        return None
    sums = [x.source if isinstance(x, Function) else x for x in given if isinstance(x, (Function, Sums, Total))]
    if sums:
        return _of_sums(node, given, sums)
    sources = [x.code if isinstance(x, Mapped) else x for x in given if isinstance(x, (Code, Mapped))]
    if not sources or any(s.raw is not sources[0].raw for s in sources) or sources[0].raw.type.shape != type.shape:
        return None
    values = []
    for x in given:
        if isinstance(x, Fixed):
            if x.reals.size != 1:
                return None
            values.append(x.reals)
        elif isinstance(x, (Code, Mapped)):
            values.append(x.reals() if isinstance(x, Code) else x.values)
        else:
            return None
    return Mapped(sources[0], unary(node, values))


def _of_sums(node: Node, given: list[Real | None], sums: list[Sums | Total]) -> Function | None:
    """A function of one sum, constants aside."""
    if any(s is not sums[0] for s in sums):
        return None
    parts: list[Callable[[Any], Any]] = []
    for v, x in zip(node.inputs, given, strict=True):
        if isinstance(x, Function):
            parts.append(x.of)
        elif isinstance(x, (Sums, Total)):
            parts.append(lambda values: values)
        elif isinstance(x, Fixed) and x.reals.size == 1:
            parts.append(_always(x.reals))
        else:
            return None
        if not isinstance(x, Fixed) and (v is None or v.type.shape != node.output.type.shape):
            return None
    return Function(sums[0], lambda values: unary(node, [part(values) for part in parts]))


def _always(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


RULES: dict[str, tuple[Rule, ...]] = {
    "nn.conv": (conv,),
    "nn.matmul": (matmul,),
    "math.add": (add,),
    "math.mul": (multiply,),
    "math.div": (divide,),
    "nn.avg_pool": (average,),
    "math.reduce_mean": (average,),
    "nn.softmax": (softmax,),
    "nn.layer_norm": (layer_norm,),
    "math.relu": (relu,),
    "math.maximum": (maximum,),
    "math.minimum": (minimum,),
    "shape.pad": (pad,),
    "shape.concat": (concat,),
    **dict.fromkeys(
        (
            "nn.max_pool",
            "shape.reshape",
            "shape.squeeze",
            "shape.unsqueeze",
            "shape.transpose",
            "shape.expand",
            "shape.slice",
            "shape.tile",
            "shape.reverse",
            "math.reduce_max",
            "math.reduce_min",
        ),
        (moved,),
    ),
}
"""Tried in this order; `elementwise` comes after them."""
