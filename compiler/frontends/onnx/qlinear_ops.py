"""Ops on codes with their scales beside them (QLinearConv and its kin), and QONNX's Quant: as casts around float ops.

QLinearConv(x, sx, zx, w, sw, zw, sy, zy, b)  ->  quantize(conv(dequantize(x), dequantize(w), b sx sw))
Quant(x, s, z, bits)                          ->  dequantize(quantize(clip(x)))

Pass `integer` makes integer arithmetic of that, as of any model with QuantizeLinear and DequantizeLinear. Scales that
only a run knows are left to `quant_ops.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.constants import Constant
from ....ir.graph import Value
from ....ir.types import Affine, Float, Int, Sign, Tensor
from .call import Call, converter, element
from .known import array_of
from .nn_ops import kernel_of, window_options

__all__ = ["bipolar_quant", "qlinear_conv_of_constants", "qlinear_matmul_of_constants", "quant"]

F32 = Float("f32")
MICROSOFT = "com.microsoft"
QONNX = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")


def encoding(store: Any, scale: Any, zero: Any, axis: int, name: str) -> Affine | None:
    """The type of codes whose scale (and zero point, or None for 0) are these arrays; None where that is none."""
    if scale is None or not isinstance(store, Int):
        return None
    if zero is None:
        zero = np.zeros((), store.dtype)
    if scale.size == 1 and zero.size == 1:
        return Affine(store, F32, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))
    if scale.ndim != 1:
        return None
    zeros = Constant(np.broadcast_to(zero, scale.shape), f"{name}_zero") if np.any(zero) else 0
    return Affine(store, F32, Constant(scale.astype(np.float32), f"{name}_scale"), zeros, axis)


def dequantized(c: Call, x: Value, elem: Affine) -> Value:
    """Codes as real numbers; constant ones stay codes until then."""
    q = c.importer.encoded.get(x)
    if q is None or element(q) is not elem:
        array = array_of(x)
        if array is None:
            q = c.emit("quant.load", x, to=elem)
        else:
            name = x.node.constant.name if x.node is not None and x.node.constant is not None else ""
            q = c.importer.editor.constant(Constant(array, name), name, Tensor(array.shape, elem))
    return c.emit("quant.dequantize", q, to=F32)


def quantized(c: Call, y: Value, elem: Affine) -> Value:
    """Real numbers as codes."""
    q = c.emit("quant.quantize", y, to=elem)
    stored = c.emit("quant.store", q, to=elem.store)
    c.importer.encoded[stored] = q
    return stored


def _of(c: Call, value: int, scale: int, zero: int, axis: int = 0) -> Affine | None:
    """The encoding of operand `value`, whose parameters are operands `scale` and `zero`."""
    given = c.optional(zero)
    point = c.array(zero)
    if given is not None and point is None:
        return None
    store = element(c[value]) if value >= 0 else (Int("u8") if given is None else element(given))
    return encoding(store, c.array(scale), point, axis, f"{c.node.output[0]}_{scale}")


def qlinear_conv_of_constants(c: Call) -> Value | None:
    """QLinearConv with parameters and weights that are known, else None."""
    x, w, y = _of(c, 0, 1, 2), _of(c, 3, 4, 5), _of(c, -1, 6, 7)
    if x is None or w is None or y is None or c.array(3) is None or x.axis is not None or y.axis is not None:
        return None
    weight = dequantized(c, c[3], w)
    options = window_options(c, c[0].type.shape[2:], kernel_of(c, c[3]))
    bias = c.optional(8)
    if bias is not None:
        bias = _bias(c, bias, x.scale, w.scale)
        if bias is None:
            return None
    made = c.emit("nn.conv", dequantized(c, c[0], x), weight, bias, g=c.attr("group", 1), **options)
    return quantized(c, made, y)


def _bias(c: Call, bias: Value, x_scale: Any, w_scale: Any) -> Value | None:
    """An int32 bias in units of the product of the scales."""
    array = array_of(bias)
    if array is None or array.dtype != np.int32:
        return None
    factors = np.asarray(w_scale.array if isinstance(w_scale, Constant) else w_scale, np.float64) * x_scale
    spread = np.broadcast_to(factors, array.shape).astype(np.float32)
    elem = encoding(Int("i32"), spread if factors.ndim else spread[:1], None, 0, f"{c.node.output[0]}_bias")
    assert elem is not None
    return dequantized(c, bias, elem)


def qlinear_matmul_of_constants(c: Call) -> Value | None:
    """QLinearMatMul with parameters that are known, one for each tensor or column; else None."""
    columns = len(c[3].type.shape) - 1
    a, b, y = _of(c, 0, 1, 2), _of(c, 3, 4, 5, columns), _of(c, -1, 6, 7)
    if a is None or b is None or y is None or a.axis is not None or y.axis is not None:
        return None
    return quantized(c, c.emit("nn.matmul", dequantized(c, c[0], a), dequantized(c, c[3], b)), y)


# --- onnxruntime's own ----------------------------------------------------------------------------------------------


def _known(c: Call, *found: Affine | None) -> list[Affine]:
    """Encodings, all of which have to be known, and one for the whole tensor."""
    for elem in found:
        if elem is None or elem.axis is not None:
            raise c.fail("has scales or zero points that are no constants", "IG0108", "make them constants")
    return [elem for elem in found if elem is not None]


@converter(f"{MICROSOFT}::QLinearAdd", f"{MICROSOFT}::QLinearMul")
def qlinear_binary(c: Call) -> Value:
    a, b, y = _known(c, _of(c, 0, 1, 2), _of(c, 3, 4, 5), _of(c, 0, 6, 7))
    op = "math.add" if c.op_type == "QLinearAdd" else "math.mul"
    return quantized(c, c.emit(op, dequantized(c, c[0], a), dequantized(c, c[3], b)), y)


@converter(f"{MICROSOFT}::QLinearSigmoid", f"{MICROSOFT}::QLinearLeakyRelu")
def qlinear_unary(c: Call) -> Value:
    x, y = _known(c, _of(c, 0, 1, 2), _of(c, 0, 3, 4))
    real = dequantized(c, c[0], x)
    if c.op_type == "QLinearSigmoid":
        return quantized(c, c.emit("math.sigmoid", real), y)
    return quantized(c, c.emit("math.leaky_relu", real, alpha=c.attr("alpha", 0.01)), y)


@converter(f"{MICROSOFT}::QLinearGlobalAveragePool", f"{MICROSOFT}::QLinearAveragePool")
def qlinear_average(c: Call) -> Value:
    x, y = _known(c, _of(c, 0, 1, 2), _of(c, 0, 3, 4))
    real = dequantized(c, c[0], x)
    if c.attr("channels_last", 0):
        raise c.fail("has its channels last")
    rank = len(c[0].type.shape)
    if c.op_type == "QLinearGlobalAveragePool":
        return quantized(c, c.emit("math.reduce_mean", real, axes=tuple(range(2, rank)), keepdims=True), y)
    kernel = c.ints("kernel_shape") or ()
    options = window_options(c, c[0].type.shape[2:], kernel)
    if c.attr("ceil_mode", 0):
        raise c.fail("rounds the size of its result up")
    return quantized(c, c.emit("nn.avg_pool", real, kernel=kernel, **options), y)


@converter(f"{MICROSOFT}::QLinearConcat")
def qlinear_concat(c: Call) -> Value:
    parts = []
    for i in range(2, len(c), 3):
        (elem,) = _known(c, _of(c, i, i + 1, i + 2))
        parts.append(dequantized(c, c[i], elem))
    (y,) = _known(c, _of(c, 2, 0, 1))
    return quantized(c, c.emit("shape.concat", *parts, axis=c.axis(c.attr("axis", 0), len(c[2].type.shape))), y)


@converter(f"{MICROSOFT}::QGemm")
def qgemm(c: Call) -> Value:
    transposed = bool(c.attr("transB", 0))
    a, b = _of(c, 0, 1, 2), _of(c, 3, 4, 5, 0 if transposed else 1)
    if a is None or b is None or a.axis is not None:
        raise c.fail("has scales or zero points that are no constants", "IG0108", "make them constants")
    x, w = dequantized(c, c[0], a), dequantized(c, c[3], b)
    x = c.emit("shape.transpose", x, perm=(1, 0)) if c.attr("transA", 0) else x
    product = c.emit("nn.matmul", x, c.emit("shape.transpose", w, perm=(1, 0)) if transposed else w)
    if (alpha := c.attr("alpha", 1.0)) != 1.0:
        product = c.emit("math.mul", product, c.like(alpha, product))
    if c.has(6):
        bias = _bias(c, c[6], a.scale * alpha if isinstance(a.scale, float) else a.scale, b.scale)
        if bias is None:
            raise c.fail("has a bias that is no constant", "IG0108", "make it a constant")
        product = c.emit("math.add", product, bias)
    if not c.has(7):
        return product
    return quantized(c, product, _known(c, _of(c, -1 if c.has(8) else 0, 7, 8))[0])


# --- QONNX ----------------------------------------------------------------------------------------------------------

ROUNDINGS: dict[str, Any] = {
    "ROUND": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_EVEN": np.rint,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
}


@converter(*(f"{domain}::Quant" for domain in QONNX), *(f"{domain}::IntQuant" for domain in QONNX))
def quant(c: Call) -> Value:
    """QONNX's Quant (Pappalardo et al. 2022): fake quantization to any number of bits."""
    x = c[0]
    scale, zero, bits = (c.array(i) for i in (1, 2, 3))
    if scale is None or zero is None or bits is None or bits.size != 1:
        raise c.fail("has a scale, zero point or bit width that is no constant", "IG0108", "make it a constant")
    width, signed = float(bits.reshape(-1)[0]), bool(c.attr("signed", 1))
    if not width.is_integer() or not 1 <= width <= 8:
        raise c.fail(f"has {width:g} bits; 1 to 8 are supported")
    low, high = (-(2 ** (int(width) - 1)), 2 ** (int(width) - 1) - 1) if signed else (0, 2 ** int(width) - 1)
    if c.attr("narrow", 0):
        low, high = (low + 1, high) if signed else (low, high - 1)
    rounding = c.choice("rounding_mode", "ROUND", ROUNDINGS)
    store, rank = Int("i8" if signed else "u8"), len(x.type.shape)
    whole = zero.astype(np.int64)
    if np.any(whole != zero):
        raise c.fail("has a zero point that is no integer")
    axis = next((i for i, d in enumerate(scale.shape[::-1]) if d != 1), None)
    axis = 0 if axis is None else rank - 1 - axis
    if sum(d != 1 for d in scale.shape) > 1 or (zero.size > 1 and zero.shape != scale.shape):
        raise c.fail(f"has scales of shape {list(scale.shape)}; one for each tensor or channel is supported")
    points = None if not np.any(whole) else whole.reshape(-1).astype(store.dtype)
    elem = encoding(store, scale.reshape(-1).astype(np.float32), points, axis, c.node.output[0])
    assert elem is not None
    array = c.array(0)
    if array is not None:
        codes = np.clip(ROUNDINGS[rounding](array / scale) + zero, low, high).astype(store.dtype)
        q = c.importer.editor.constant(Constant(codes, c.node.input[0]), c.node.input[0], Tensor(codes.shape, elem))
        return c.emit("quant.dequantize", q, to=F32)
    if rounding not in ("ROUND", "HALF_EVEN"):
        raise c.fail(f"rounds activations by {rounding}; ROUND is supported")
    for edge, bound, op in ((store.range[0], low, "math.maximum"), (store.range[1], high, "math.minimum")):
        if bound != edge:
            x = c.emit(op, x, c.constant(((bound - zero) * scale).astype(np.float32)))
    return c.emit("quant.dequantize", c.emit("quant.quantize", x, to=elem), to=F32)


@converter(*(f"{domain}::BipolarQuant" for domain in QONNX))
def bipolar_quant(c: Call) -> Value:
    """QONNX's BipolarQuant: the sign, times a scale."""
    scale, array = c.array(1), c.array(0)
    if scale is None or scale.size != 1:
        raise c.fail("has a scale that is no constant of one element", "IG0108", "make it one")
    number = float(np.float32(scale.reshape(-1)[0]))
    if array is None:
        q = c.emit("quant.quantize", c[0], to=Sign(F32, number))
    else:
        codes = np.where(array >= 0, 1, -1).astype(np.int8)
        elem = Affine(Int("i8"), F32, number)
        q = c.importer.editor.constant(Constant(codes, c.node.input[0]), c.node.input[0], Tensor(codes.shape, elem))
    return c.emit("quant.dequantize", q, to=F32)
