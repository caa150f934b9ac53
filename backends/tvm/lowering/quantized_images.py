"""Groups of integer ops handed to the templates of kernels/lowbit: convolutions, products, pools, and elementwise work.

As in `blocked.py` the first node is the anchor and the others are its epilogue: rescaling, residual sum and clamps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....ir.graph import Value
from ....ir.types import Tensor
from ..kernels import Kernel, VectorUnit, conv_call
from ..kernels.blocked.pool import max_pool_blocked
from ..kernels.blocked.relayout import concat_blocked
from ..kernels.layout import NO_HALO, PLAIN, Blocked, Layout, Plain
from ..kernels.lowbit.conv import conv_int8
from ..kernels.lowbit.depthwise import depthwise_int8
from ..kernels.lowbit.image import interleave_bytes, sum_pool_bytes
from .blocked import BlockedCall
from .context import Context
from .epilogue import Epilogue
from .group import Group
from .layouts import shape_of
from .quantized_epilogue import clamped, constant_of, dtype_of_value, finished, follows, rescaled
from .quantized_layouts import byte_kind, needed, zero_of
from .quantized_products import matmul, sign_matmul, table

__all__ = ["byte_relayout", "from_quantized"]


def from_quantized(
    group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout
) -> BlockedCall | None:
    """The group as a kernel on bytes, or None where there is none."""
    if unit.simt or not group.nodes or len(group.outputs) != 1:
        return None
    if group.nodes[0].op.name == "quant.matmul":
        return matmul(group, unit)
    if group.nodes[0].op.name == "quant.sign_matmul":
        return sign_matmul(group, unit)
    if (
        [n.op.name for n in group.nodes] == ["quant.table"]
        and wanted is PLAIN
        and not set(layouts) & set(group.nodes[0].inputs)
    ):
        return table(group, unit)
    kind = byte_kind(group)
    outside = dict(group.operands)
    if not kind or not all(isinstance(v.type, Tensor) for _, v in group.operands):
        return None
    if kind == "concat":
        return _concat(group, unit, layouts, wanted)
    if kind == "each":
        blocked = any(isinstance(layouts.get(o, PLAIN), Blocked) for o in outside.values())
        return _each(group, unit, layouts, wanted) if blocked or isinstance(wanted, Blocked) else None
    return _windowed(group, kind, unit, layouts, wanted)


def _own(group: Group, layouts: Mapping[Value, Layout], shape: object) -> dict[Value, Layout]:
    """Operands as large as the result lie as they lie, all others plain."""
    return {o: layouts.get(o, PLAIN) for i, o in group.operands if shape_of(i) == shape}


def _windowed(
    group: Group, kind: str, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout
) -> BlockedCall | None:
    anchor, result = group.nodes[0], group.outputs[0]
    shape, source = shape_of(anchor.output), anchor.inputs[0]
    assert source is not None
    if not follows(group.nodes[1:], shape):
        return None
    value = dict(group.operands)[source]
    own, halo, zero = layouts.get(value, PLAIN), needed(anchor), zero_of(anchor)
    depthwise = kind == "conv" and anchor.attr("g") > 1 and shape_of(anchor.inputs[1])[1] == 1  # type: ignore[arg-type]
    lanes = own.lanes if isinstance(own, Blocked) and kind == "conv" and not depthwise else unit.lanes
    expected = Blocked(lanes, halo, zero if halo != NO_HALO else 0)
    if isinstance(own, Blocked) and own.lanes == lanes and own.halo.covers(halo):
        expected = own if halo == NO_HALO or own.fill == zero else expected
    ctx = Context(unit)
    ctx.node = anchor
    x_shape = ctx.declare_shape(shape_of(source))
    rescale, first, after = None, anchor.output, group.nodes[1:]
    if kind == "conv":
        rescale, first, after = rescaled(group, first, after, 1)
    epilogue = Epilogue(ctx, group, first, after, None, _own(group, layouts, shape))
    a = anchor.attr
    options: dict[str, Any] = {
        "x_layout": expected,
        "out_layout": wanted,
        "x_dtype": dtype_of_value(source),
        "out_dtype": dtype_of_value(result),
        "fill": wanted.fill if isinstance(wanted, Blocked) else 0,
        "strides": a("strides"),
        "pads": a("pads"),
        "dilations": a("dilations"),
        "epilogue": clamped(epilogue, first) if rescale is not None else epilogue,
        "extras": tuple(epilogue.extras),
        "unit": unit,
    }
    if kind == "pool":
        if anchor.op.name == "nn.max_pool":
            kernel = max_pool_blocked(x_shape, a("kernel"), ceil_mode=a("ceil"), **options)
        else:
            kernel = sum_pool_bytes(x_shape, a("kernel"), ceil_mode=a("ceil"), zero_point=zero, **options)
        return finished(ctx, kernel, epilogue, {value: expected}, wanted)
    weight, bias = constant_of(group, anchor, 1), constant_of(group, anchor, 2)
    if weight is None or weight.dtype != "int8":
        return None
    template = depthwise_int8 if depthwise else conv_int8
    call = conv_call(x_shape, weight.shape, groups=a("g"), **options)
    kernel = None if call is None else template(call, zero_point=zero, bias=bias, rescale=rescale)
    return finished(ctx, kernel, epilogue, {value: expected}, wanted, weight)


def _each(group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout) -> BlockedCall | None:
    result = group.outputs[0]
    shape = shape_of(result)
    full = [(i, o) for i, o in group.operands if shape_of(i) == shape and i not in group.known]
    if not full:
        return None
    inside, value = full[0]
    own = layouts.get(value, PLAIN)
    ctx = Context(unit)
    ctx.node = group.nodes[0]
    logical = ctx.declare_shape(shape)
    epilogue = Epilogue(ctx, group, inside, group.nodes, None, _own(group, layouts, shape))
    options: dict[str, Any] = {
        "out_layout": wanted,
        "out_dtype": dtype_of_value(result),
        "fill": wanted.fill if isinstance(wanted, Blocked) else 0,
        "epilogue": epilogue,
        "extras": tuple(epilogue.extras),
        "unit": unit,
    }
    kernel = None
    if isinstance(wanted, Blocked) and isinstance(own, Plain):
        kernel = interleave_bytes(logical, x_dtype=dtype_of_value(inside), **options)
    if kernel is None:
        kernel = concat_blocked([logical], x_layouts=[own], x_dtypes=[dtype_of_value(inside)], **options)
    return finished(ctx, kernel, epilogue, {value: own}, wanted)


def _concat(group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout) -> BlockedCall | None:
    node = group.nodes[0]
    values = [dict(group.operands)[v] for v in node.inputs if v is not None]
    if isinstance(wanted, Plain) or any(v in group.known for v in node.inputs) or len(set(values)) < len(values):
        return None
    ctx = Context(unit)
    ctx.node = node
    own = {v: layouts.get(v, PLAIN) for v in values}
    kernel = concat_blocked(
        [ctx.declare_shape(shape_of(v)) for v in values],
        x_layouts=list(own.values()),
        x_dtypes=[dtype_of_value(v) for v in values],
        out_layout=wanted,
        out_dtype=dtype_of_value(node.output),
        fill=wanted.fill if isinstance(wanted, Blocked) else 0,
        unit=unit,
    )
    return None if kernel is None else BlockedCall(ctx.finished(kernel.func), tuple(values), own, wanted)


def byte_relayout(shape: Any, dtype: str, own: Layout, layout: Layout, unit: VectorUnit) -> Kernel | None:
    """A copy of an image of bytes in another layout."""
    fill = layout.fill if isinstance(layout, Blocked) else 0
    return concat_blocked(
        [shape], x_layouts=[own], x_dtypes=[dtype], out_layout=layout, out_dtype=dtype, fill=fill, unit=unit
    )
