"""Groups of integer ops handed to the templates of kernels/lowbit: convolutions, products, pools, and elementwise work.

As in `blocked.py` the first node is the anchor and the others are its epilogue: rescaling, residual sum and clamps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....ir.graph import Node, Value
from ....ir.types import Int, Tensor
from ..kernels import Kernel, VectorUnit
from ..kernels.layout import NO_HALO, PLAIN, Blocked, Layout, Plain
from ..kernels.lowbit.conv import conv_int8
from ..kernels.lowbit.depthwise import depthwise_int8
from ..kernels.lowbit.fixed import Rescale, clamp_cast
from ..kernels.lowbit.gemm import matmul_binary, matmul_int8
from ..kernels.lowbit.image import concat_bytes, interleave_bytes, max_pool_bytes, sum_pool_bytes
from .blocked import BlockedCall
from .context import Context
from .elements import storage_dtype
from .epilogue import Epilogue
from .group import Group
from .layouts import shape_of
from .quantized import bounds
from .quantized_layouts import byte_kind, elementwise, needed, zero_of

__all__ = ["byte_relayout", "from_quantized"]


def from_quantized(
    group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout
) -> BlockedCall | None:
    """The group as a kernel on bytes, or None where there is none."""
    if unit.simt or not group.nodes or len(group.outputs) != 1:
        return None
    if group.nodes[0].op.name == "quant.matmul":
        return _matmul(group, unit)
    if group.nodes[0].op.name == "quant.sign_matmul":
        return _sign_matmul(group, unit)
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


def _dtype(value: Value) -> str:
    assert isinstance(value.type, Tensor)
    return storage_dtype(value.type.elem)


def _follows(nodes: tuple[Node, ...], shape: object) -> bool:
    return all(elementwise(n) and all(shape_of(v) == shape for v in n.outputs) for n in nodes)


def _own(group: Group, layouts: Mapping[Value, Layout], shape: object) -> dict[Value, Layout]:
    """Operands as large as the result lie as they lie, all others plain."""
    return {o: layouts.get(o, PLAIN) for i, o in group.operands if shape_of(i) == shape}


def _finished(
    ctx: Context,
    kernel: Kernel,
    epilogue: Epilogue,
    inputs: Mapping[Value, Layout],
    arrays: tuple[Any, ...],
    layout: Layout,
) -> BlockedCall | None:
    """The call; None where one value would be needed in two layouts."""
    needs = {o: own for o, own in zip(epilogue.operands, epilogue.operand_layouts, strict=True) if isinstance(o, Value)}
    if any(v in needs and needs[v] != own for v, own in inputs.items()):
        return None
    operands = (*inputs, *arrays, *epilogue.operands)
    return BlockedCall(ctx.finished(kernel.func), operands, {**needs, **inputs}, layout)


def _windowed(
    group: Group, kind: str, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout
) -> BlockedCall | None:
    anchor, result = group.nodes[0], group.outputs[0]
    shape, source = shape_of(anchor.output), anchor.inputs[0]
    assert source is not None
    if not _follows(group.nodes[1:], shape):
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
    rescale, first, after = _rescaled(group) if kind == "conv" else (None, anchor.output, group.nodes[1:])
    epilogue = Epilogue(ctx, group, first, after, None, _own(group, layouts, shape))
    a = anchor.attr
    options: dict[str, Any] = {
        "x_layout": expected,
        "out_layout": wanted,
        "x_dtype": _dtype(source),
        "out_dtype": _dtype(result),
        "fill": wanted.fill if isinstance(wanted, Blocked) else 0,
        "strides": a("strides"),
        "pads": a("pads"),
        "dilations": a("dilations"),
        "epilogue": _clamped(epilogue, first) if rescale is not None else epilogue,
        "extras": tuple(epilogue.extras),
        "unit": unit,
    }
    if kind == "pool":
        if anchor.op.name == "nn.max_pool":
            kernel = max_pool_bytes(x_shape, a("kernel"), ceil_mode=a("ceil"), **options)
        else:
            kernel = sum_pool_bytes(x_shape, a("kernel"), ceil_mode=a("ceil"), zero_point=zero, **options)
        return None if kernel is None else _finished(ctx, kernel, epilogue, {value: expected}, (), wanted)
    weight, bias = _constant(group, anchor, 1), _constant(group, anchor, 2)
    if weight is None or weight.dtype != "int8":
        return None
    template = depthwise_int8 if depthwise else conv_int8
    kernel = template(x_shape, weight.shape, zero_point=zero, groups=a("g"), bias=bias, rescale=rescale, **options)
    if kernel is None:
        return None
    pack = kernel.packers[1]
    assert pack is not None
    return _finished(ctx, kernel, epilogue, {value: expected}, (pack(weight),), wanted)


def _rescaled(group: Group) -> tuple[Rescale | None, Value, tuple[Node, ...]]:
    """How the anchor's sums are rescaled at once, the value that they are then, and the nodes that come after it."""
    anchor, *nodes = group.nodes
    if nodes and nodes[0].op.name == "quant.requantize" and nodes[0].inputs[0] is anchor.output:
        node = nodes[0]
        shape = shape_of(node.output)
        axis = (len(shape) if anchor.op.name == "quant.matmul" else 2) - 1  # of the channels
        factors = [_constant(group, node, i) for i in (1, 2)]
        if all(f is not None and (f.ndim == 0 or node.attr("axis") % len(shape) == axis) for f in factors):
            made = Rescale.of(factors[0], factors[1], node.attr("zero"), shape[axis])
            if made is not None:
                return made, node.output, tuple(nodes[1:])
    return None, anchor.output, tuple(nodes)


def _clamped(epilogue: Epilogue, value: Value) -> Callable[..., Any]:
    """`epilogue` for sums that are rescaled to `value`, but not yet clamped and cast to its type."""
    node = value.node
    assert node is not None
    dtype, low, high = bounds(node)
    return lambda acc, index, extras: epilogue(clamp_cast(acc, 0, low, high, dtype), index, extras)


def _constant(group: Group, node: Node, i: int) -> Any:
    value = node.inputs[i] if len(node.inputs) > i else None
    return None if value is None or value not in group.known else group.known[value].array


def _matmul(group: Group, unit: VectorUnit) -> BlockedCall | None:
    """Rows of bytes times a constant matrix."""
    anchor = group.nodes[0]
    source, shape = anchor.inputs[0], shape_of(anchor.output)
    weight, bias = _constant(group, anchor, 1), _constant(group, anchor, 2)
    if source is None or source in group.known or weight is None or weight.ndim != 2 or weight.dtype != "int8":
        return None
    if len(anchor.inputs) > 2 and bias is None:
        return None
    elem = source.type.elem  # type: ignore[union-attr]
    if not isinstance(elem, Int) or elem.bits != 8 or not _follows(group.nodes[1:], shape) or anchor.attr("b_zero"):
        return None
    ctx = Context(unit)
    ctx.node = anchor
    x_shape = ctx.declare_shape(shape_of(source))
    rescale, first, after = _rescaled(group)
    epilogue = Epilogue(ctx, group, first, after)
    kernel = matmul_int8(
        x_shape,
        weight.shape,
        x_dtype=_dtype(source),
        zero_point=anchor.attr("a_zero"),
        out_dtype=_dtype(group.outputs[0]),
        bias=bias,
        rescale=rescale,
        epilogue=_clamped(epilogue, first) if rescale is not None else epilogue,
        extras=tuple(epilogue.extras),
        unit=unit,
    )
    if kernel is None:
        return None
    pack = kernel.packers[1]
    assert pack is not None
    return _finished(ctx, kernel, epilogue, {dict(group.operands)[source]: PLAIN}, (pack(weight),), PLAIN)


def _sign_matmul(group: Group, unit: VectorUnit) -> BlockedCall | None:
    """Rows of signs times a constant matrix of signs."""
    anchor = group.nodes[0]
    source, shape = anchor.inputs[0], shape_of(anchor.output)
    weight, depth = _constant(group, anchor, 1), anchor.attr("depth")
    if source is None or source in group.known or weight is None or not _follows(group.nodes[1:], shape):
        return None
    ctx = Context(unit)
    ctx.node = anchor
    rows = ctx.declare_shape(shape_of(source))[:-1]
    epilogue = Epilogue(ctx, group, anchor.output, group.nodes[1:])
    kernel = matmul_binary(
        (*rows, depth),
        (len(weight), depth),
        out_dtype=_dtype(group.outputs[0]),
        epilogue=epilogue,
        extras=tuple(epilogue.extras),
        unit=unit,
    )
    if kernel is None:
        return None
    pack = kernel.packers[1]
    assert pack is not None
    return _finished(ctx, kernel, epilogue, {dict(group.operands)[source]: PLAIN}, (pack(weight),), PLAIN)


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
        "out_dtype": _dtype(result),
        "fill": wanted.fill if isinstance(wanted, Blocked) else 0,
        "epilogue": epilogue,
        "extras": tuple(epilogue.extras),
        "unit": unit,
    }
    kernel = None
    if isinstance(wanted, Blocked) and isinstance(own, Plain):
        kernel = interleave_bytes(logical, x_dtype=_dtype(inside), **options)
    if kernel is None:
        kernel = concat_bytes([logical], x_layouts=[own], x_dtypes=[_dtype(inside)], **options)
    return None if kernel is None else _finished(ctx, kernel, epilogue, {value: own}, (), wanted)


def _concat(group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout) -> BlockedCall | None:
    node = group.nodes[0]
    values = [dict(group.operands)[v] for v in node.inputs if v is not None]
    if isinstance(wanted, Plain) or any(v in group.known for v in node.inputs) or len(set(values)) < len(values):
        return None
    ctx = Context(unit)
    ctx.node = node
    own = {v: layouts.get(v, PLAIN) for v in values}
    kernel = concat_bytes(
        [ctx.declare_shape(shape_of(v)) for v in values],
        x_layouts=list(own.values()),
        x_dtypes=[_dtype(v) for v in values],
        out_layout=wanted,
        out_dtype=_dtype(node.output),
        fill=wanted.fill if isinstance(wanted, Blocked) else 0,
        unit=unit,
    )
    return None if kernel is None else BlockedCall(ctx.finished(kernel.func), tuple(values), own, wanted)


def byte_relayout(shape: Any, dtype: str, own: Layout, layout: Layout, unit: VectorUnit) -> Kernel | None:
    """A copy of an image of bytes in another layout."""
    fill = layout.fill if isinstance(layout, Blocked) else 0
    return concat_bytes(
        [shape], x_layouts=[own], x_dtypes=[dtype], out_layout=layout, out_dtype=dtype, fill=fill, unit=unit
    )
