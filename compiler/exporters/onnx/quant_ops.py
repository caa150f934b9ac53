"""How quantised ops are written: casts as casts, integer arithmetic as float arithmetic between casts.

quant.conv, quant.requantize   ->   QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w), DequantizeLinear(b)))

with scales of 1 for x and the result, and the factor of each channel as the scale of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ....ir.constants import Constant
from ....ir.graph import Node, Value
from ....ir.types import Affine, Elem, Int, Tensor
from .ops import given, window
from .writer import Writer, refused

__all__ = ["FUSED", "QUANT_EXPORTS"]

INT32 = 6  # ONNX's numbers of types
FLOAT = 1
INT64 = 7


def _elem(value: Value | None) -> Elem:
    assert value is not None
    assert isinstance(value.type, Tensor)
    return value.type.elem


# --- casts ----------------------------------------------------------------------------------------------------------


def _parameters(writer: Writer, node: Node, elem: Elem) -> tuple[list[str], dict[str, Any]]:
    """Scale and zero point of an encoding, and the axis or blocks that they run along."""
    if not isinstance(elem, Affine):
        raise refused(node, f"{elem} is no encoding that ONNX has")
    scale = elem.scale.array if isinstance(elem.scale, Constant) else np.asarray(elem.scale)
    zero = elem.zero.array if isinstance(elem.zero, Constant) else np.broadcast_to(np.asarray(elem.zero), scale.shape)
    names = [writer.array(scale.astype(elem.real.dtype)), writer.array(zero.astype(elem.store.dtype))]
    attrs: dict[str, Any] = {} if elem.axis is None else {"axis": elem.axis}
    if elem.group is not None:
        attrs["block_size"] = elem.group
    return names, attrs


def _quantize(writer: Writer, node: Node) -> None:
    names, attrs = _parameters(writer, node, node.attr("to"))
    writer.emit(node, "QuantizeLinear", [*given(writer, node), *names], **attrs)


def _dequantize(writer: Writer, node: Node) -> None:
    elem = _elem(node.inputs[0])
    names, attrs = _parameters(writer, node, elem)
    if isinstance(elem, Affine) and node.attr("to") is not elem.real:
        made = writer.add("DequantizeLinear", [*given(writer, node), *names], **attrs)
        writer.emit(node, "Cast", [made], to=writer.code(node.attr("to")))
        return
    writer.emit(node, "DequantizeLinear", [*given(writer, node), *names], **attrs)


def _alias(writer: Writer, node: Node) -> None:
    (x,) = node.inputs
    assert x is not None
    writer.set(node.output, writer[x])


# --- integer arithmetic, fused with what rescales it ----------------------------------------------------------------


def _real(writer: Writer, x: Value, scale: Any, zero: int, axis: int | None = None) -> str:
    """(x - zero) * scale as floats."""
    dtype = _elem(x).dtype
    factors = np.asarray(scale, np.float32)
    zeros = np.full(factors.shape, zero, dtype)
    attrs: dict[str, Any] = {} if axis is None or not factors.ndim else {"axis": axis}
    if dtype in (np.int8, np.uint8, np.int32):
        points = [writer.array(zeros)] if zero or dtype != np.int32 else []
        return writer.add("DequantizeLinear", [writer[x], writer.array(factors), *points], **attrs)
    return writer.add("Mul", [writer.add("Cast", [writer[x]], to=FLOAT), writer.array(factors)])


def _rounded(writer: Writer, node: Node, real: str) -> None:
    """The result of a requantising node from floats in units of its steps."""
    to = node.attr("to")
    zero, (least, most) = node.attr("zero"), to.range
    low = least if node.attr("low") is None else node.attr("low")
    high = most if node.attr("high") is None else node.attr("high")
    if to.bits > 16:
        shifted = writer.add("Add", [writer.add("Round", [real]), writer.scalar(zero)])
        bounded = writer.add("Clip", [shifted, writer.scalar(low), writer.scalar(high)])
        writer.emit(node, "Cast", [bounded], to=writer.code(to))
        return
    if (low, high) != (least, most):
        bounds = (writer.scalar(low - zero), writer.scalar(high - zero))
        real = writer.add("Relu", [real]) if (low, high) == (zero, most) else writer.add("Clip", [real, *bounds])
    writer.emit(node, "QuantizeLinear", [real, writer.scalar(1), writer.scalar(zero, to.dtype)])


def _factor(writer: Writer, node: Node) -> Any:
    """The real factors of a requantize, or None where they are not known."""
    multiplier, shift = writer.known(node.inputs[1]), writer.known(node.inputs[2])
    if multiplier is None or shift is None:
        return None
    return (multiplier / np.exp2(shift.astype(np.float64))).astype(np.float32)


def _requantize(writer: Writer, node: Node) -> None:
    factor = _factor(writer, node)
    x = node.inputs[0]
    if factor is None or x is None:
        raise refused(node, "its factors are no constants")
    axis = node.attr("axis") % len(node.output.type.shape)
    pending = writer.pending.pop(x, None)
    if pending is not None:
        _rounded(writer, node, pending(factor, axis))
        return
    if factor.ndim:
        factor = factor.reshape([-1 if i == axis else 1 for i in range(len(node.output.type.shape))])
    wide = writer.add("Cast", [writer[x]], to=FLOAT)
    _rounded(writer, node, writer.add("Mul", [wide, writer.array(factor)]))


def _deferred(writer: Writer, node: Node) -> bool:
    """A product or pool that only a requantize reads is written with it."""
    readers = writer.readers.get(node.output, ())
    if len(readers) != 1 or readers[0] is None or readers[0].op.name != "quant.requantize":
        return False
    made = _DEFERRED[node.op.name](writer, node)
    if made is not None:
        writer.pending[node.output] = made
    return made is not None


Deferred = Callable[[Any, int], str]


def _weighted(writer: Writer, w: Value, bias: Value | None, factor: Any, along: int) -> list[str]:
    """Weights with the factors as scales along an axis, and the bias so."""
    count: Any = w.type.shape[along]
    spread = np.broadcast_to(factor, (count,)).astype(np.float32) if np.ndim(factor) else factor
    names = [_real(writer, w, spread, 0, along)]
    if bias is not None:
        names.append(_real(writer, bias, spread, 0, 0))
    return names


def _conv(writer: Writer, node: Node) -> Deferred | None:
    x, w, *rest = node.inputs
    if x is None or w is None or writer.known(w) is None or _elem(w).dtype != np.int8:
        return None

    def write(factor: Any, axis: int) -> str:
        source = _real(writer, x, 1.0, node.attr("zero"))
        weights = _weighted(writer, w, rest[0] if rest else None, factor, 0)
        return writer.add("Conv", [source, *weights], group=node.attr("g"), **window(node))

    return write


def _matmul(writer: Writer, node: Node) -> Deferred | None:
    a, b, *rest = node.inputs
    if a is None or b is None:
        return None

    def write(factor: Any, axis: int) -> str:
        if writer.known(b) is not None and len(b.type.shape) == 2 and not node.attr("b_zero"):
            weights = _weighted(writer, b, rest[0] if rest else None, factor, 1)
        else:
            weights = [_real(writer, b, factor, node.attr("b_zero"))]
            if rest and rest[0] is not None:
                weights.append(_real(writer, rest[0], factor, 0, 0))
        made = writer.add("MatMul", [_real(writer, a, 1.0, node.attr("a_zero")), weights[0]])
        return writer.add("Add", [made, weights[1]]) if len(weights) > 1 else made

    return write


def _sum_pool(writer: Writer, node: Node) -> Deferred | None:
    (x,) = node.inputs
    if x is None or node.attr("ceil"):
        return None
    kernel = node.attr("kernel")

    def write(factor: Any, axis: int) -> str:
        count = math.prod(kernel)
        if np.ndim(factor):
            channels: Any = x.type.shape[1]
            factor = np.broadcast_to(factor, (channels,))
        real = _real(writer, x, np.asarray(factor, np.float64) * count, node.attr("zero"), 1)
        return writer.add("AveragePool", [real], kernel_shape=list(kernel), count_include_pad=1, **window(node))

    return write


_DEFERRED = {"quant.conv": _conv, "quant.matmul": _matmul, "quant.sum_pool": _sum_pool}


# --- integer arithmetic on its own ----------------------------------------------------------------------------------


def _integer_conv(writer: Writer, node: Node) -> None:
    x, w, *rest = node.inputs
    assert x is not None
    zero = writer.scalar(node.attr("zero"), _elem(x).dtype)
    attrs = {"group": node.attr("g"), **window(node)}
    made = writer.add("ConvInteger", [writer[x], writer[w], zero], **attrs)  # type: ignore[index]
    if rest and rest[0] is not None:
        shape = np.asarray([-1, *[1] * (len(node.output.type.shape) - 2)], np.int64)
        made = writer.add("Add", [made, writer.add("Reshape", [writer[rest[0]], writer.array(shape)])])
    writer.set(node.output, made)


def _integer_matmul(writer: Writer, node: Node) -> None:
    a, b, *rest = node.inputs
    assert a is not None
    assert b is not None
    zeros = [writer.scalar(node.attr(f"{n}_zero"), _elem(v).dtype) for n, v in (("a", a), ("b", b))]
    made = writer.add("MatMulInteger", [writer[a], writer[b], *zeros])
    if rest and rest[0] is not None:
        made = writer.add("Add", [made, writer[rest[0]]])
    writer.set(node.output, made)


def _integer_sum(writer: Writer, node: Node) -> None:
    write = _sum_pool(writer, node)
    if write is None:
        raise refused(node, "its windows reach beyond the padding")
    writer.emit(node, "Cast", [writer.add("Round", [write(np.float32(1), 1)])], to=INT32)


def _add(writer: Writer, node: Node) -> None:
    a, b = node.inputs
    assert a is not None
    assert b is not None
    step = 2.0 ** -node.attr("shift")
    parts = [
        _real(writer, v, node.attr(f"{n}_multiplier") * step, node.attr(f"{n}_zero")) for n, v in (("a", a), ("b", b))
    ]
    _rounded(writer, node, writer.add("Add", parts))


def _table(writer: Writer, node: Node) -> None:
    x, table = node.inputs
    assert x is not None
    assert table is not None
    elem = _elem(x)
    assert isinstance(elem, Int)
    index = writer.add("Cast", [writer[x]], to=INT64)
    first = elem.range[0] if node.attr("first") is None else node.attr("first")
    if first:
        index = writer.add("Sub", [index, writer.scalar(first, np.int64)])
    last = int(table.type.shape[0]) - 1  # type: ignore[arg-type]
    if (first, last) != (elem.range[0], elem.range[1] - elem.range[0]):
        index = writer.add("Clip", [index, writer.scalar(0, np.int64), writer.scalar(last, np.int64)])
    writer.emit(node, "Gather", [writer[table], index], axis=0)


def _shift_right(writer: Writer, node: Node) -> None:
    """ONNX shifts unsigned numbers only. (x - x mod 2**n) / 2**n has no remainder; mod has the divisor's sign."""
    x, by = node.inputs
    assert x is not None
    elem = _elem(x)
    constant = None if by is None or by.node is None else by.node.constant
    count = -1 if constant is None or constant.array.size != 1 else int(constant.array.reshape(()))
    if not isinstance(elem, Int) or not 0 <= count < elem.bits - 1:
        raise refused(node, "ONNX has shifts of unsigned numbers only")
    power = writer.scalar(1 << count, elem.dtype)
    rest = writer.add("Mod", [writer[x], power])
    writer.emit(node, "Div", [writer.add("Sub", [writer[x], rest]), power])


FUSED: dict[str, tuple[Callable[[Writer, Node], bool], ...]] = dict.fromkeys(_DEFERRED, (_deferred,))

QUANT_EXPORTS: dict[str, Callable[[Writer, Node], None]] = {
    "quant.quantize": _quantize,
    "quant.dequantize": _dequantize,
    "quant.store": _alias,
    "quant.load": _alias,
    "quant.conv": _integer_conv,
    "quant.matmul": _integer_matmul,
    "quant.sum_pool": _integer_sum,
    "quant.requantize": _requantize,
    "quant.add": _add,
    "quant.table": _table,
    "math.shift_right": _shift_right,
}
