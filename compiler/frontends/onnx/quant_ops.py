"""Converters of quantisation. With constant scales, QDQ models keep their quantisation as types and casts:

QuantizeLinear(x, 0.1, 0)    ->  quant.quantize to q<i8, f32, scale=0.1>, and its stored integers for other readers
DequantizeLinear(q, 0.1, 0)  ->  quant.dequantize of the q value itself
DequantizeLinear(weights)    ->  a constant of type q<i8, f32, scale=@..., axis=0>, then quant.dequantize
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.constants import Constant
from ....ir.dims import UNKNOWN, same
from ....ir.graph import Value
from ....ir.types import Affine, Float, Int, Tensor, elem_named
from .call import Call, converter, element
from .nn_ops import kernel_of, window_options
from .qlinear_ops import qlinear_conv_of_constants, qlinear_matmul_of_constants
from .tensors import elem_type


def _affine(c: Call, store: Any, real: Any, scale: Value, zero: Value | None, rank: int) -> Affine | None:
    """The quantised element type that constant parameters describe, else None."""
    s, z = c.array(1), c.array(2) if zero is not None else None
    if (
        s is None
        or (zero is not None and z is None)
        or not isinstance(store, (Int, Float))
        or not isinstance(real, Float)
    ):
        return None
    block = c.attr("block_size", 0)
    if s.size == 1 and not block:
        number = 0 if z is None else z.reshape(-1)[0]
        return Affine(store, real, float(s.reshape(-1)[0]), float(number) if isinstance(store, Float) else int(number))
    axis = c.axis(c.attr("axis", 1), rank)
    _check_parameters(c, s.shape, axis, block)
    if z is not None and z.shape != s.shape:
        raise c.fail(f"has scales of shape {list(s.shape)} and zero points of shape {list(z.shape)}")
    name = _name(scale)
    zeros: Any = 0
    if z is not None and np.any(z.astype(np.float32)):
        zeros = Constant(z, _name(zero))
    return Affine(store, real, Constant(s, name), zeros, axis, block or None)


def _check_parameters(c: Call, shape: tuple[Any, ...], axis: int, block: int) -> None:
    """Scales (or zero points) have one entry per channel along `axis`, or per block of `block` along it."""
    wanted = list(c[0].type.shape) if block else [c[0].type.shape[axis]]
    extent = c[0].type.shape[axis]
    if block:
        if block < 0 or (isinstance(extent, int) and block > max(extent, 1)):
            raise c.fail(f"has blocks of {block} along an axis of {extent}")
        wanted[axis] = -(-extent // block) if isinstance(extent, int) else UNKNOWN
    if len(shape) != len(wanted) or not all(map(same, shape, wanted)):
        raise c.fail(f"has scales of shape {list(shape)}, expected [{', '.join(map(str, wanted))}]")


def _name(value: Value | None) -> str:
    constant = value.node.constant if value is not None and value.node is not None else None
    return constant.name if constant is not None else ""


@converter("QuantizeLinear")
def quantize_linear(c: Call) -> Value:
    x, scale, zero = c[0], c[1], c.optional(2)
    if zero is not None:
        store = element(zero)
    else:
        code = c.attr("output_dtype", 0)
        store = elem_type(code, "the result of a QuantizeLinear") if code else elem_named("u8")
    real = element(scale)
    if element(x) is not real:
        x = c.emit("math.cast", x, to=real)
    elem = _affine(c, store, real, scale, zero, len(x.type.shape))
    if elem is None:
        rank = len(x.type.shape)
        return _quantized(c, x, _along(c, scale, rank, x), None if zero is None else _along(c, zero, rank, x), store)
    q = c.emit("quant.quantize", x, to=elem)
    stored = c.emit("quant.store", q, to=store)
    c.importer.encoded[stored] = q
    return stored


@converter("DequantizeLinear")
def dequantize_linear(c: Call) -> Value:
    x, scale, zero = c[0], c[1], c.optional(2)
    store, real = element(x), element(scale)
    code = c.attr("output_dtype", 0)
    to = elem_type(code, "the result of a DequantizeLinear") if code else real
    elem = _affine(c, store, real, scale, zero, len(x.type.shape))
    if elem is None:
        wide = Float("f32") if real.dtype.itemsize < 4 else real
        rank = len(x.type.shape)
        y = c.emit("math.cast", x, to=wide)
        if zero is not None:
            y = c.emit("math.sub", y, c.emit("math.cast", _along(c, zero, rank, x), to=wide))
        factor = _along(c, scale, rank, x)
        y = c.emit("math.mul", y, c.emit("math.cast", factor, to=wide) if wide is not real else factor)
        return c.emit("math.cast", y, to=to) if wide is not to else y
    q = c.importer.encoded.get(x)
    if q is None or element(q) is not elem:
        array = c.array(0)
        if array is not None:
            constant = Constant(array, _name(x))
            q = c.importer.editor.constant(constant, _name(x), Tensor(array.shape, elem))
        else:
            q = c.emit("quant.load", x, to=elem)
    return c.emit("quant.dequantize", q, to=to)


def _along(c: Call, parameter: Value, rank: int, x: Value) -> Value:
    """A scale or zero point made to broadcast against x: per tensor, along `axis`, or per block."""
    shape = parameter.type.shape
    block = c.attr("block_size", 0)
    if block:
        axis = c.axis(c.attr("axis", 1), rank)
        _check_parameters(c, shape, axis, block)
        spread = c.emit("shape.unsqueeze", parameter, axes=(axis + 1,))
        wide = (*shape[: axis + 1], block, *shape[axis + 1 :])
        spread = c.emit("shape.expand", spread, shape=wide)
        merged = (*shape[:axis], shape[axis] * block, *shape[axis + 1 :])
        spread = c.emit("shape.reshape", spread, shape=merged)
        extent = x.type.shape[axis]
        if isinstance(extent, int) and merged[axis] != extent:
            spread = c.emit("shape.slice", spread, starts=(0,), stops=(extent,), axes=(axis,))
        return spread
    if len(shape) == 1 and shape[0] != 1:
        axis = c.axis(c.attr("axis", 1), rank)
        return c.emit("shape.reshape", parameter, shape=tuple(shape[0] if i == axis else 1 for i in range(rank)))
    return c.emit("shape.reshape", parameter, shape=()) if shape else parameter


def _quantized(c: Call, x: Value, scale: Value, zero: Value | None, store: Any) -> Value:
    """round(x / scale) + zero, clamped to the range of `store`: with parameters that only a run knows."""
    scaled = c.emit("math.div", x, scale)
    if not isinstance(store, Int):
        return c.emit("math.cast", scaled, to=store)
    wide = Float("f32")
    if element(scaled) is not wide and element(scaled) is not Float("f64"):
        scaled = c.emit("math.cast", scaled, to=wide)
    y = c.emit("math.round", scaled)
    if zero is not None:
        y = c.emit("math.add", y, c.emit("math.cast", zero, to=element(y)))
    low, high = store.range
    y = c.emit("math.minimum", c.emit("math.maximum", y, c.like(low, y)), c.like(high, y))
    return c.emit("math.cast", y, to=store)


# --- integer arithmetic ---------------------------------------------------------------------------------------------


@converter("ConvInteger")
def conv_integer(c: Call) -> Value:
    x, w = _minus_zero(c, c[0], c.optional(2), None), _minus_zero(c, c[1], c.optional(3), 0)
    options = window_options(c, x.type.shape[2:], kernel_of(c, w))
    return c.emit("nn.conv", x, w, g=c.attr("group", 1), **options)


@converter("MatMulInteger")
def matmul_integer(c: Call) -> Value:
    return c.emit("nn.matmul", _minus_zero(c, c[0], c.optional(2), 0), _minus_zero(c, c[1], c.optional(3), None))


def _minus_zero(c: Call, x: Value, zero: Value | None, axis: int | None) -> Value:
    """x - zero in i32; a vector of zero points runs along `axis` (None: the last one)."""
    wide = c.emit("math.cast", x, to=Int("i32"))
    if zero is None:
        return wide
    zero = c.emit("math.cast", zero, to=Int("i32"))
    if len(zero.type.shape) == 1 and axis is not None:
        rank = len(x.type.shape)
        at = rank - 2 if rank == 2 or c.op_type.endswith("MatMul") or "MatMul" in c.op_type else axis
        zero = c.emit("shape.unsqueeze", zero, axes=tuple(range(1, rank - at)))
    return c.emit("math.sub", wide, zero)


@converter("QLinearConv")
def qlinear_conv(c: Call) -> Value:
    known = qlinear_conv_of_constants(c)
    if known is not None:
        return known
    x = _minus_zero(c, c[0], c.optional(2), None)
    w = _minus_zero(c, c[3], c.optional(5), 0)
    bias = c.optional(8)
    options = window_options(c, x.type.shape[2:], kernel_of(c, w))
    y = c.emit("nn.conv", x, w, bias, g=c.attr("group", 1), **options)
    scale = c.emit("math.mul", c[1], c[4])
    if len(scale.type.shape) == 1:
        scale = c.emit("shape.unsqueeze", scale, axes=tuple(range(1, len(x.type.shape) - 1)))
    return _requantize(c, y, scale, c[6], c[7])


@converter("QLinearMatMul")
def qlinear_matmul(c: Call) -> Value:
    known = qlinear_matmul_of_constants(c)
    if known is not None:
        return known
    y = c.emit("nn.matmul", _minus_zero(c, c[0], c.optional(2), 0), _minus_zero(c, c[3], c.optional(5), None))
    scale_a, scale_b = c[1], c[4]
    if len(scale_a.type.shape) == 1:
        scale_a = c.emit("shape.unsqueeze", scale_a, axes=(1,))
    return _requantize(c, y, c.emit("math.mul", scale_a, scale_b), c[6], c[7])


def _requantize(c: Call, y: Value, scale: Value, out_scale: Value, out_zero: Value) -> Value:
    """round(y * scale / out_scale) + out_zero in the type of out_zero."""
    wide = Float("f32")
    real = c.emit("math.mul", c.emit("math.cast", y, to=wide), _as(c, scale, wide))
    return _quantized(c, real, _as(c, out_scale, wide), out_zero, element(out_zero))


def _as(c: Call, x: Value, elem: Any) -> Value:
    return x if element(x) is elem else c.emit("math.cast", x, to=elem)
