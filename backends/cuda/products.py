"""Matrix products and convolutions of a fusion group: operands, epilogue and sizes for the kernel of tiles.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.graph import Node, Value
from ...ir.types import Elem, Tensor
from ..tvm.kernels import VectorUnit
from ..tvm.kernels.batched import unravel
from ..tvm.kernels.geometry import make_window
from ..tvm.lowering.context import Context
from ..tvm.lowering.elements import array_of, storage_dtype
from ..tvm.lowering.epilogue import Epilogue
from ..tvm.lowering.expr import Expr, Index, cast, const
from ..tvm.lowering.group import Group
from .tiles import (
    I8,
    Element,
    choose_tile,
    pack_images,
    pack_matrix,
    pack_rows,
    pack_weight,
    padded_window,
    position,
    product,
    total_of,
    wide,
    windows,
)

__all__ = ["Made", "convolution", "matrix_product"]

Made = tuple[Any, tuple[Any, ...]]
"""A PrimFunc and its operands."""


class _Kernel:
    """One PrimFunc in the making: its context, its epilogue, and the operands it is called with."""

    def __init__(self, group: Group, anchor: Node, element: Element, unit: VectorUnit) -> None:
        self.ctx, self.group, self.element = Context(unit), group, element
        self.ctx.node = anchor
        self.result: Tensor = group.outputs[0].type  # type: ignore[assignment]
        self.anchor: Tensor = anchor.output.type  # type: ignore[assignment]
        self.operands: list[Any] = []
        self._outside = dict(group.operands)
        self._extras: tuple[Any, ...] = ()

    def operand(self, value: Value) -> Any:
        """A value as a parameter."""
        type = value.type
        assert isinstance(type, Tensor)
        shape = self.ctx.declare_shape(type.shape)
        outside = self._outside.get(value)
        self.operands.append(array_of(self.group.known[value].array) if outside is None else outside)
        return self.ctx.emit.arg(f"x{len(self.operands)}", shape, storage_dtype(type.elem))

    def constant(self, array: Any) -> Any:
        """An array of ours as a parameter."""
        self.operands.append(array)
        return self.ctx.emit.arg(f"x{len(self.operands)}", array.shape, str(array.dtype))

    def result_buffer(self, epilogue: Epilogue) -> Any:
        """The parameters of the epilogue, and the one for the result, which comes last."""
        self._extras = self.ctx.emit.extra_args(tuple(epilogue.extras))
        self.operands.extend(epilogue.operands)
        return self.ctx.emit.arg("y", self.ctx.declare_shape(self.result.shape), storage_dtype(self.result.elem))

    def multiplied(self, elem: Elem, raw: Expr) -> Expr:
        """What was loaded of a tensor as it is multiplied: f32 is rounded to f16, bytes are moved to have a sign."""
        dtype = storage_dtype(elem)
        if dtype == "uint8":
            return cast(cast(raw, "int32") - const(BIAS, "int32"), "int8")
        return raw if dtype == self.element.dtype else cast(raw, self.element.dtype)

    def store(self, out: Any, epilogue: Epilogue, index: Index, total: Expr) -> None:
        ctx = self.ctx
        value = ctx.let(total)
        made = ctx.scoped(lambda: ctx.to_memory(self.result.elem, epilogue.value(value, index, self._extras)))
        ctx.emit.store(out, index, made)


# --- bytes: what is multiplied is x - offset, what is meant is x - zero -----------------------------------------------

BIAS = 128
"""Of u8: x - 128 is a byte with a sign."""


def _offset(elem: Elem) -> int:
    return BIAS if storage_dtype(elem) == "uint8" else 0


def _signed(array: Any, zero: int) -> Any | None:
    """A constant of bytes minus its zero point, if that still is i8."""
    moved = array_of(array).astype(np.int32) - zero
    return moved.astype(np.int8) if moved.size and moved.min() >= -128 and moved.max() <= 127 else None


def _correction(weight: Any, axes: tuple[int, ...], missing: int, bias: Any | None) -> Any | None:
    """What the sums lack: `missing` (offset - zero) times those of the weights, and the bias. None for nothing."""
    total = missing * weight.astype(np.int64).sum(axes)
    total = total if bias is None else total + bias
    return total.astype(np.int32) if total.any() else None


def _rounded(array: Any, element: Element) -> Any:
    """A constant of floats as it is multiplied."""
    return array.astype(element.dtype) if array.dtype == np.float32 else array_of(array)


# --- matrix product ---------------------------------------------------------------------------------------------------


def matrix_product(group: Group, anchor: Node, element: Element, unit: VectorUnit) -> Made | None:
    """[*, M, K] times [*, K, N]; a constant matrix is laid out now, other operands by a kernel of their own."""
    x, w, *bias = anchor.inputs
    assert x is not None and w is not None
    a_type, b_type = x.type, w.type
    assert isinstance(a_type, Tensor) and isinstance(b_type, Tensor)
    if len(a_type.shape) < 2 or len(b_type.shape) < 2:
        return None
    depth, columns = b_type.shape[-2:]
    if not isinstance(depth, int) or not isinstance(columns, int) or depth < element.chunk:
        return None
    flat = len(b_type.shape) == 2  # one matrix for all: the rows of a batch are one after the other
    known = group.known.get(w) if flat else None
    weight = None if known is None else known.array
    correction = None
    if element == I8:
        missing = _offset(a_type.elem) - anchor.attr("a_zero")
        added = group.known.get(bias[0]) if bias and bias[0] is not None else None
        weight = None if weight is None else _signed(weight, anchor.attr("b_zero"))
        if weight is not None and (added is not None or not bias or bias[0] is None):
            correction = _correction(weight, (0,), missing, None if added is None else added.array)
        elif known is not None or missing or _offset(b_type.elem) != anchor.attr("b_zero") or bias:
            return None
    elif weight is not None:
        weight = _rounded(weight, element)
    kernel = _Kernel(group, anchor, element, unit)
    ctx, emit = kernel.ctx, kernel.ctx.emit
    with emit.function():
        a = kernel.operand(x)
        b = kernel.operand(w) if weight is None else kernel.constant(pack_matrix(weight, element))
        more = None if correction is None else kernel.constant(correction)
        epilogue = Epilogue(ctx, group, anchor.output, group.nodes[1:])
        out = kernel.result_buffer(epilogue)
        shape = ctx.extents(kernel.anchor.shape)
        outer = shape[:-1] if flat else shape[:-2]
        batch, rows = (1, total_of(outer)) if flat else (total_of(outer), shape[-2])
        a_own, b_own = ((), ()) if flat else (ctx.extents(a_type.shape[:-2]), ctx.extents(b_type.shape[:-2]))

        def read_a(z: Expr, r: Expr, k: Expr) -> Expr:
            index = (*unravel(r, outer), k) if flat else (*unravel(z, a_own), r, k)
            return kernel.multiplied(a_type.elem, a[index])

        def read_b(z: Expr, n: Expr, k: Expr) -> Expr:
            return kernel.multiplied(b_type.elem, b[(*unravel(z, b_own), k, n)])

        in_place = element.padded(depth) == depth and storage_dtype(a_type.elem) == element.dtype
        left = a if in_place else pack_rows(emit, element, total_of(a_own), rows, depth, read_a)
        right = b if weight is not None else pack_rows(emit, element, total_of(b_own), columns, depth, read_b)
        pitch = element.padded(depth) * element.size
        tile = choose_tile(element, rows, columns, batch)

        def operands(z: Expr) -> tuple[Any, ...]:
            index = unravel(z, outer) if not flat else ()
            a_at, b_at = (position(index, own) for own in (a_own, b_own))
            return (
                left.data,
                wide(a_at) * (rows * pitch),
                rows,
                right.data,
                wide(b_at) * (columns * pitch),
                columns,
                pitch,
            )

        def store(total: Expr, z: Expr, r: Expr, c: Expr) -> None:
            index = (*unravel(r, outer), c) if flat else (*unravel(z, outer), r, c)
            kernel.store(out, epilogue, index, total if more is None else total + more[c])

        call = f"ig::product_of_rows<ig::{element.name}, {tile.arguments}>"
        product(emit, element, tile, rows, columns, batch, call, operands, store)
    return ctx.finished(emit.func), tuple(kernel.operands)


# --- convolution ------------------------------------------------------------------------------------------------------


def convolution(group: Group, anchor: Node, element: Element, unit: VectorUnit) -> Made | None:
    """Channels by pixels: the weights times the windows, which are gathered while they are copied."""
    x, w, *bias = anchor.inputs
    assert x is not None and w is not None
    x_type, w_type = x.type, w.type
    assert isinstance(x_type, Tensor) and isinstance(w_type, Tensor)
    known, a = group.known.get(w), anchor.attr
    groups, spatial = a("g"), x_type.shape[2:]
    static = all(isinstance(d, int) for d in (*x_type.shape[1:], *w_type.shape))
    if known is None or not static or w_type.shape[1] < element.chunk // 4 or w_type.shape[0] // groups < 8:  # type: ignore[operator]
        return None
    window = make_window(spatial, w_type.shape[2:], a("strides"), a("pads"), a("dilations"))  # type: ignore[arg-type]
    if window is None:
        return None
    outputs, own = w_type.shape[0], w_type.shape[1]
    added = bias[0] if bias else None
    correction, fill = None, None
    if element == I8:
        weight = _signed(known.array, 0)
        if weight is None or (added is not None and added not in group.known):
            return None
        zero, offset = a("zero"), _offset(x_type.elem)
        constant = None if added is None else group.known[added].array
        correction = _correction(weight, tuple(range(1, weight.ndim)), offset - zero, constant)
        axes = (window.rows, window.columns)
        fill, added = zero - offset if zero != offset and any(d.before or d.after for d in axes) else None, None
        if fill is not None and not -128 <= fill <= 127:
            return None
    else:
        weight = _rounded(known.array, element)
    weight = weight.reshape(outputs, own, window.rows.kernel, window.columns.kernel)
    kernel = _Kernel(group, anchor, element, unit)
    ctx, emit = kernel.ctx, kernel.ctx.emit
    with emit.function():
        source = kernel.operand(x)
        weights = kernel.constant(pack_weight(weight, element))
        more = None if correction is None else kernel.constant(correction)
        epilogue = Epilogue(ctx, group, anchor.output, group.nodes[1:], added)
        out = kernel.result_buffer(epilogue)
        n = ctx.extent(x_type.shape[0])
        pixels, channels = window.rows.out * window.columns.out, outputs // groups

        def read(i: Expr, c: Expr, y: Expr, z: Expr) -> Expr:
            return kernel.multiplied(x_type.elem, source[(i, c, z) if window.is_1d else (i, c, y, z)])

        images = pack_images(emit, element, groups, n, x_type.shape[1], window, read, fill)  # type: ignore[arg-type]
        seen = window if fill is None else padded_window(window)
        depth = element.padded(own) * element.size  # type: ignore[arg-type]
        pitch = depth * window.taps
        area = seen.rows.size * seen.columns.size * depth
        tile = choose_tile(element, channels, n * pixels, groups)

        def operands(z: Expr) -> tuple[Any, ...]:
            places = wide(z) * (channels * pitch), wide(z) * (n * area)
            return (weights.data, places[0], channels, images.data, places[1], n * pixels, pitch)

        def store(total: Expr, z: Expr, m: Expr, p: Expr) -> None:
            at = unravel(p, (n, window.rows.out, window.columns.out))
            channel = z * channels + m
            index = (at[0], channel, *(at[2:] if window.is_1d else at[1:]))
            kernel.store(out, epilogue, index, total if more is None else total + more[channel])

        call = f"ig::convolution<{windows(seen, depth)}, ig::{element.name}, {tile.arguments}>"
        product(emit, element, tile, channels, n * pixels, groups, call, operands, store)
    return ctx.finished(emit.func), tuple(kernel.operands)
