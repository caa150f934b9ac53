"""Conversions between element types, and between real numbers and their quantised encodings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.constants import Constant
from ....ir.dims import Extent
from ....ir.graph import Node
from ....ir.types import Affine, Bool, Elem, Float, Int, Pow2, Sign, Tensor, elem_of
from ..api import modules
from .context import Context
from .conversions import reinterpreted, to_integer
from .elements import compute_dtype, from_memory, storage_dtype, stored, to_memory
from .expr import Expr, Index, any_of, cast, const, dtype_of, is_float, is_nan, libm, like, select, smaller
from .functions import nearest_int, round_half_even
from .narrow import FORMATS, encode_e8m0
from .problems import refused
from .table import lower, scalar
from .tensor import Lazy


def _elem(node: Node, i: int = 0) -> Elem:
    type = node.inputs[i].type  # type: ignore[union-attr]
    assert isinstance(type, Tensor)
    return type.elem


# --- casts ----------------------------------------------------------------------------------------------------------


@scalar("math.cast")
def cast_(ctx: Context, node: Node, x: Expr) -> Expr:
    return convert(ctx, x, node.attr("to"), node.attr("saturate"), node.attr("round_up"))


def convert(ctx: Context, x: Expr, to: Elem, saturate: bool = True, round_up: bool = True) -> Expr:
    """`math.cast` of one value; the result still has to be rounded to `to` by the caller."""
    dtype = compute_dtype(to)
    if isinstance(to, Bool):
        return x if dtype_of(x) == "bool" else any_of(x != like(x, 0), is_nan(x)) if is_float(x) else x != like(x, 0)
    if dtype_of(x) == "bool":
        return cast(cast(x, "uint8"), dtype)
    if isinstance(to, Int):
        return _to_int(ctx, x, to, dtype)
    if isinstance(to, Float) and (to.name.startswith("f8") or to.name == "f4e2m1"):
        return _to_tiny(ctx, cast(x, "float32"), to, saturate, round_up)
    return cast(x, dtype)


def _to_int(ctx: Context, x: Expr, to: Int, dtype: str) -> Expr:
    if not is_float(x):
        return cast(x, dtype)
    return to_integer(ctx, x, dtype)


def _to_tiny(ctx: Context, x: Expr, to: Float, saturate: bool, round_up: bool) -> Expr:
    if to.name == "f8e8m0":
        return from_memory(to, encode_e8m0(x, ctx.let, saturate=saturate, round_up=round_up), ctx.let)
    if not saturate or to.name == "f4e2m1":
        return x  # rounding takes care of inf and nan
    largest = FORMATS[to.name].largest_value
    x = ctx.let(x)
    return select(x > like(x, largest), like(x, largest), select(x < like(x, -largest), like(x, -largest), x))


@lower("math.bitcast")
def bitcast(ctx: Context, node: Node, x: Lazy) -> Lazy:
    to = node.attr("to")

    def convert_bits(value: Expr) -> Expr:
        raw = to_memory(x.elem, value, ctx.let)
        return from_memory(to, reinterpreted(raw, storage_dtype(to)), ctx.let)

    return _exactly(ctx, node, x, convert_bits)


def _exactly(ctx: Context, node: Node, x: Lazy, fn: Any) -> Lazy:
    """Elementwise, without the rounding that `Context.map` adds."""

    def read(index: Index) -> Expr:
        return fn(ctx.read(x, index))

    return Lazy(ctx.result_type(node), read, x.source)


# --- encodings ------------------------------------------------------------------------------------------------------


@lower("quant.store")
def store(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return _exactly(ctx, node, x, lambda v: v)


@lower("quant.load")
def load(ctx: Context, node: Node, x: Lazy) -> Lazy:
    return _exactly(ctx, node, x, lambda v: v)


def _spread(ctx: Context, value: float | Constant, elem: Affine | Sign, shape: tuple[Extent, ...], dtype: str) -> Any:
    """A scale or zero point as a function of the index."""
    if not isinstance(value, Constant):
        return lambda index: const(value, dtype)
    array = value.array.astype(np.float32 if dtype == "float32" else dtype)
    if array.size == 1:
        return lambda index: const(array.reshape(()).item(), dtype)
    axis, group = elem.axis, getattr(elem, "group", None)
    table = ctx.table(array, Tensor(array.shape, elem_of(array.dtype)))
    if axis is None:
        return lambda index: ctx.read(table, tuple(0 if d == 1 else i for i, d in zip(index, array.shape, strict=True)))
    axis %= len(shape)
    if group is None:
        return lambda index: ctx.read(table, (index[axis],))
    div = modules().tirx.indexdiv
    return lambda index: ctx.read(table, (*index[:axis], div(index[axis], group), *index[axis + 1 :]))


@lower("quant.quantize")
def quantize(ctx: Context, node: Node, x: Lazy) -> Lazy:
    to = node.attr("to")
    type = ctx.result_type(node)
    if isinstance(to, Sign):
        return _exactly(ctx, node, x, lambda v: v >= like(v, 0))
    if isinstance(to, Pow2):
        return _exactly(ctx, node, x, lambda v: _to_pow2(ctx, v, to))
    assert isinstance(to, Affine)
    real = "float64" if to.real.name == "f64" else "float32"
    scale = _spread(ctx, to.scale, to, type.shape, real)
    if not isinstance(to.store, Int):
        saturated = to.store

        def read_float(index: Index) -> Expr:
            scaled = cast(ctx.read(x, index), real) / scale(index)
            return ctx.rounded(saturated, convert(ctx, scaled, saturated))

        return Lazy(type, read_float, x.source)
    low, high = to.store.range
    dtype = compute_dtype(to.store)
    zeros = np.asarray(to.zero.array if isinstance(to.zero, Constant) else to.zero)
    if real == "float32" and to.store.bits <= 16 and int(np.abs(zeros).max(initial=0)) < 1 << 21:
        offset = _spread(ctx, to.zero, to, type.shape, real)

        def read_clamped(index: Index) -> Expr:  # whole numbers as bounds go before the rounding, which is easy then
            scaled, moved = ctx.let(cast(ctx.read(x, index), real) / scale(index)), offset(index)
            least, most = like(scaled, low) - moved, like(scaled, high) - moved
            bounded = select(scaled > most, most, select(scaled >= least, scaled, least))
            return cast(nearest_int(bounded) + cast(moved, "int32"), dtype)

        return Lazy(type, read_clamped, x.source)
    zero = _spread(ctx, to.zero, to, type.shape, "float64")

    def read(index: Index) -> Expr:
        moved = cast(round_half_even(cast(ctx.read(x, index), real) / scale(index), ctx.let), "float64")
        moved = ctx.let(moved + zero(index))
        least = like(moved, low)
        bounded = select(moved > like(moved, high), like(moved, high), select(moved >= least, moved, least))
        return cast(cast(bounded, "int64"), dtype)

    return Lazy(type, read, x.source)


@lower("quant.dequantize")
def dequantize(ctx: Context, node: Node, x: Lazy) -> Lazy:
    elem, to = x.elem, node.attr("to")
    type = ctx.result_type(node)
    assert isinstance(elem, (Affine, Sign, Pow2))
    real = "float64" if isinstance(elem, (Sign, Pow2)) or elem.real.name == "f64" else "float32"
    if isinstance(elem, Pow2):
        return _exactly(ctx, node, x, lambda v: ctx.rounded(to, cast(_from_pow2(v, elem), compute_dtype(to))))
    scale = _spread(ctx, elem.scale, elem, type.shape, real)

    integer = isinstance(elem, Affine) and isinstance(elem.store, Int)
    wide = "int32" if isinstance(elem, Affine) and isinstance(elem.store, Int) and elem.store.bits <= 16 else "int64"
    zero = _spread(ctx, elem.zero, elem, type.shape, wide) if isinstance(elem, Affine) and integer else None

    def value(index: Index, code: Expr) -> Expr:
        if isinstance(elem, Sign):
            return select(code, const(1.0, real), const(-1.0, real))
        return cast(code, real) if zero is None else cast(cast(code, wide) - zero(index), real)

    def read(index: Index) -> Expr:
        number = value(index, ctx.read(x, index)) * scale(index)
        return ctx.rounded(to, cast(number, compute_dtype(to)))

    return Lazy(type, read, x.source)


def _to_pow2(ctx: Context, x: Expr, to: Pow2) -> Expr:
    """round(log2|x|) + bias clamped to the code's bits, with x's sign; 0 for 0."""
    wide = ctx.let(cast(x, "float64"))
    size = ctx.let(modules().tirx.abs(wide))
    zero = like(wide, 0)
    top = like(wide, (1 << (to.bits - 1)) - 1)
    power = round_half_even(libm("log2")(select(size == zero, like(wide, 1), size)), ctx.let) + like(wide, to.bias)
    code = ctx.let(smaller(select(power > zero, power, zero), top))
    code = cast(cast(select(size == zero, zero, code), "int32"), "int8")
    return select(wide < zero, const(0, "int8") - code, code)


def _from_pow2(x: Expr, elem: Pow2) -> Expr:
    code = cast(x, "int32")
    size = select(code < like(code, 0), like(code, 0) - code, code)
    value = libm("exp2")(cast(size - const(elem.bias, "int32"), "float64"))
    return select(code == like(code, 0), like(value, 0), select(code < like(code, 0), like(value, 0) - value, value))


def plain_only(node: Node) -> None:
    """Ops that do not know encodings refuse them."""
    for v in node.inputs:
        if v is not None and isinstance(v.type, Tensor) and stored(v.type.elem) is not v.type.elem:
            raise refused(node, f"it does not take {v.type.elem}", "dequantize its operands")
