"""Products of bytes, and tables, handed to the templates of kernels/lowbit."""

from __future__ import annotations

from ..kernels import VectorUnit
from ..kernels.layout import PLAIN
from ..kernels.lowbit.batched import batched_int8
from ..kernels.lowbit.gemm import matmul_binary, matmul_int8
from ..kernels.lowbit.product import Side
from ..kernels.lowbit.tables import table_bytes
from .blocked import BlockedCall
from .context import Context
from .epilogue import Epilogue
from .group import Group
from .layouts import shape_of
from .quantized_epilogue import clamped, constant_of, dtype_of_value, finished, follows, is_bytes, rescaled

__all__ = ["matmul", "sign_matmul", "table"]


def matmul(group: Group, unit: VectorUnit) -> BlockedCall | None:
    """Rows of bytes times a matrix, which is constant or another activation."""
    anchor = group.nodes[0]
    source, shape = anchor.inputs[0], shape_of(anchor.output)
    weight, bias = constant_of(group, anchor, 1), constant_of(group, anchor, 2)
    if weight is None or weight.ndim > 2:
        return _batched(group, unit)
    if source is None or source in group.known or weight.ndim != 2 or weight.dtype != "int8":
        return None
    if len(anchor.inputs) > 2 and bias is None:
        return None
    if not is_bytes(source) or not follows(group.nodes[1:], shape) or anchor.attr("b_zero"):
        return None
    ctx = Context(unit)
    ctx.node = anchor
    x_shape = ctx.declare_shape(shape_of(source))
    rescale, first, after = rescaled(group, anchor.output, group.nodes[1:], len(shape) - 1)
    epilogue = Epilogue(ctx, group, first, after)
    kernel = matmul_int8(
        x_shape,
        weight.shape,
        x_dtype=dtype_of_value(source),
        zero_point=anchor.attr("a_zero"),
        out_dtype=dtype_of_value(group.outputs[0]),
        bias=bias,
        rescale=rescale,
        epilogue=clamped(epilogue, first) if rescale is not None else epilogue,
        extras=tuple(epilogue.extras),
        unit=unit,
    )
    return finished(ctx, kernel, epilogue, {dict(group.operands)[source]: PLAIN}, PLAIN, weight)


def _batched(group: Group, unit: VectorUnit) -> BlockedCall | None:
    """Two activations."""
    anchor = group.nodes[0]
    outside = dict(group.operands)
    left, right = anchor.inputs[:2]
    if left is None or right is None or len(anchor.inputs) > 2 or not {left, right} <= set(outside):
        return None
    if outside[left] is outside[right]:
        return None
    if not (is_bytes(left) and is_bytes(right)) or not follows(group.nodes[1:], shape_of(anchor.output)):
        return None
    ctx = Context(unit)
    ctx.node = anchor
    shapes = [ctx.declare_shape(shape_of(v)) for v in (left, right)]
    sides = [Side(dtype_of_value(v), anchor.attr(z)) for v, z in ((left, "a_zero"), (right, "b_zero"))]
    rescale, first, after = rescaled(group, anchor.output, group.nodes[1:])
    epilogue = Epilogue(ctx, group, first, after)
    kernel = batched_int8(
        shapes[0],
        shapes[1],
        sides[0],
        sides[1],
        out_dtype=dtype_of_value(group.outputs[0]),
        rescale=rescale,
        epilogue=clamped(epilogue, first) if rescale is not None else epilogue,
        extras=tuple(epilogue.extras),
        unit=unit,
    )
    return finished(ctx, kernel, epilogue, {outside[left]: PLAIN, outside[right]: PLAIN}, PLAIN)


def sign_matmul(group: Group, unit: VectorUnit) -> BlockedCall | None:
    """Rows of signs times a constant matrix of signs."""
    anchor = group.nodes[0]
    source, shape = anchor.inputs[0], shape_of(anchor.output)
    weight, depth = constant_of(group, anchor, 1), anchor.attr("depth")
    if source is None or source in group.known or weight is None or not follows(group.nodes[1:], shape):
        return None
    ctx = Context(unit)
    ctx.node = anchor
    rows = ctx.declare_shape(shape_of(source))[:-1]
    epilogue = Epilogue(ctx, group, anchor.output, group.nodes[1:])
    kernel = matmul_binary(
        (*rows, depth),
        (len(weight), depth),
        out_dtype=dtype_of_value(group.outputs[0]),
        epilogue=epilogue,
        extras=tuple(epilogue.extras),
        unit=unit,
    )
    return finished(ctx, kernel, epilogue, {dict(group.operands)[source]: PLAIN}, PLAIN, weight)


def table(group: Group, unit: VectorUnit) -> BlockedCall | None:
    """Any function of a byte, to a byte."""
    (node,) = group.nodes
    x, values = node.inputs[0], constant_of(group, node, 1)
    if x is None or x in group.known or values is None or values.size != 256 or values.dtype.itemsize != 1:
        return None
    shape = shape_of(x)
    lowest = -128 if dtype_of_value(x) == "int8" else 0
    if not is_bytes(x) or not all(isinstance(d, int) for d in shape) or node.attr("first") not in (None, lowest):
        return None
    made = table_bytes(shape, values, x_dtype=dtype_of_value(x), unit=unit)
    if made is None:
        return None
    kernel, words = made
    ctx = Context(unit)
    source = dict(group.operands)[x]
    return BlockedCall(ctx.finished(kernel.func), (source, words), {source: PLAIN}, PLAIN)
