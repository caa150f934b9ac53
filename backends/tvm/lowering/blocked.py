"""Groups of image kernels on blocked activations: convolution, pooling, and elementwise work between them.

As in `templates.py` the first node is the anchor and the others are its epilogue; an elementwise group has its first
full operand for an anchor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....ir.graph import Node, Value
from ....ir.types import Tensor
from ..kernels import Kernel, VectorUnit, conv_call
from ..kernels.blocked.conv import conv_blocked
from ..kernels.blocked.elementwise import elementwise_blocked
from ..kernels.blocked.pool import average_pool_blocked, global_average_pool_blocked, max_pool_blocked
from ..kernels.blocked.relayout import concat_blocked
from ..kernels.layout import PLAIN, Blocked, Layout, Plain
from ..kernels.lowbit.conv import conv_halves
from ..kernels.lowbit.image import interleave_bytes
from . import LOWERINGS
from .context import Context
from .elements import array_of, storage_dtype
from .epilogue import Epilogue
from .group import Group
from .layouts import STEM_CHANNELS, halo_of, image_kind, is_image, shape_of

__all__ = ["BlockedCall", "from_blocked"]


@dataclass(frozen=True)
class BlockedCall:
    """A kernel, what it is called with, the layouts that it expects its operands in, and the one of its result."""

    func: Any
    operands: tuple[Value | Any, ...]
    layouts: Mapping[Value, Layout]
    layout: Layout


def from_blocked(
    group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout, rank: int = 0
) -> BlockedCall | None:
    """The group as a kernel on blocked images, by the plan of a rank; None where there is none, or no use in blocks."""
    kind = image_kind(group)
    if not kind:
        return None
    outside = dict(group.operands)
    blocked = any(isinstance(layouts.get(o, PLAIN), Blocked) for o in outside.values())
    if not blocked and isinstance(wanted, Plain) and not _worth_a_copy(group, kind, unit):
        return None
    if kind == "concat":
        return _concat(group, unit, layouts, wanted)
    if kind == "elementwise":
        return _elementwise(group, unit, layouts, wanted)
    anchor = group.nodes[0]
    shape = shape_of(anchor.output)
    if not _epilogue_of(group.nodes[1:], anchor.output, shape):
        return None
    source = anchor.inputs[0]
    assert source is not None
    value = outside.get(source, source)
    expected = _expected(anchor, kind, layouts.get(value, PLAIN), source, unit)
    bias = anchor.inputs[2] if kind == "conv" and len(anchor.inputs) > 2 else None
    ctx = Context(unit)
    ctx.node = anchor
    shapes = [ctx.declare_shape(shape_of(v)) for v in anchor.inputs[:2] if v is not None]
    extras = _extra_layouts(group, shape, layouts, unit)
    epilogue = Epilogue(ctx, group, anchor.output, group.nodes[1:], bias, extras)
    dtypes = {"x_dtype": _dtype(source), "out_dtype": _dtype(group.outputs[0])}
    kernel = _instantiate(anchor, kind, shapes, expected, wanted, epilogue, unit, rank, dtypes)
    if kernel is None:
        return None
    operands: list[Any] = [value]
    if kind == "conv":
        weight, packer = anchor.inputs[1], kernel.packers[1]
        assert weight is not None and packer is not None
        operands.append(packer(array_of(group.known[weight].array)))
    needs = {**_used(epilogue), value: expected}
    if any(o is value for o in epilogue.operands) and _used(epilogue).get(value, PLAIN) != expected:
        return None  # one value in two layouts
    return BlockedCall(ctx.finished(kernel.func), (*operands, *epilogue.operands), needs, wanted)


def _worth_a_copy(group: Group, kind: str, unit: VectorUnit) -> bool:
    """Whether a kernel between plain images is better on a blocked copy: convolutions are, unless to few channels."""
    return kind == "conv" and shape_of(group.nodes[0].output)[1] * 2 >= unit.lanes


def _used(epilogue: Epilogue) -> dict[Value, Layout]:
    pairs = zip(epilogue.operands, epilogue.operand_layouts, strict=True)
    return {o: layout for o, layout in pairs if isinstance(o, Value)}


def _epilogue_of(nodes: tuple[Node, ...], result: Value, shape: object) -> bool:
    """Whether nodes compute one element of `shape` from one of `result` each."""
    for node in nodes:
        inline = LOWERINGS[node.op.name].elementwise or node.op.name == "nn.batch_norm"
        if not inline or any(shape_of(v) != shape for v in node.outputs):
            return False
    return True


def _expected(anchor: Node, kind: str, own: Layout, source: Value, unit: VectorUnit) -> Layout:
    """The layout in which a kernel takes its image: as it is, if that serves."""
    halo = halo_of(anchor)
    channels = shape_of(source)[1]
    if isinstance(own, Blocked):
        return own if own.halo.covers(halo) else Blocked(own.lanes, halo.union(own.halo))
    if kind == "conv" and channels <= STEM_CHANNELS and anchor.attr("g") == 1:
        return PLAIN
    return Blocked(unit.lanes, halo)


def _extra_layouts(
    group: Group, shape: object, layouts: Mapping[Value, Layout], unit: VectorUnit
) -> dict[Value, Layout]:
    """Operands as large as the result are wanted in blocks, all others plain."""
    found: dict[Value, Layout] = {}
    for inside, outside in group.operands:
        if shape_of(inside) == shape and inside not in group.known:
            own = layouts.get(outside, PLAIN)
            found[outside] = own if isinstance(own, Blocked) else Blocked(unit.lanes)
    return found


def _dtype(value: Value) -> str:
    assert isinstance(value.type, Tensor)
    return storage_dtype(value.type.elem)


def _instantiate(
    anchor: Node,
    kind: str,
    shapes: list[Any],
    x: Layout,
    out: Layout,
    epilogue: Epilogue,
    unit: VectorUnit,
    rank: int,
    dtypes: Mapping[str, str],
) -> Kernel | None:
    a = anchor.attr
    options: dict[str, Any] = {
        **dtypes,
        "x_layout": x,
        "out_layout": out,
        "epilogue": epilogue,
        "extras": tuple(epilogue.extras),
        "unit": unit,
    }
    if kind == "conv":
        attributes = {"strides": a("strides"), "pads": a("pads"), "dilations": a("dilations"), "groups": a("g")}
        call = conv_call(shapes[0], shapes[1], **attributes, rank=rank, **options)
        if call is None or call.x_dtype == "float32":
            return None if call is None else conv_blocked(call)
        return conv_halves(call)
    if kind == "mean":
        axes = a("axes")
        if axes is None or sorted(i % 4 for i in axes) != [2, 3] or not a("keepdims"):
            return None
        return global_average_pool_blocked(shapes[0], **options)
    if anchor.op.name == "nn.max_pool":
        return max_pool_blocked(
            shapes[0],
            a("kernel"),
            strides=a("strides"),
            pads=a("pads"),
            dilations=a("dilations"),
            ceil_mode=a("ceil"),
            **options,
        )
    pads = a("pads") or (0, 0, 0, 0)
    if set(a("dilations") or (1,)) != {1}:
        return None
    if tuple(a("kernel")) == tuple(shapes[0][2:]) and not any(pads):
        return global_average_pool_blocked(shapes[0], **options)
    return average_pool_blocked(
        shapes[0],
        a("kernel"),
        strides=a("strides"),
        pads=pads,
        ceil_mode=a("ceil"),
        count_include_pad=a("count_pads"),
        **options,
    )


def _elementwise(group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout) -> BlockedCall | None:
    shape = shape_of(group.outputs[0])
    if not isinstance(wanted, Blocked) or any(shape_of(v) != shape for n in group.nodes for v in n.outputs):
        return None
    if wanted.lanes != unit.lanes:
        return _interleaved(group, unit, layouts, wanted)
    full = [(i, o) for i, o in group.operands if shape_of(i) == shape]
    if not full or any(not is_image(i.type) or i in group.known for i, _ in full):
        return None
    blocked = [(i, o) for i, o in full if isinstance(layouts.get(o, PLAIN), Blocked)]
    if not blocked:
        return None
    inside, value = blocked[0]
    ctx = Context(unit)
    ctx.node = group.nodes[0]
    logical = ctx.declare_shape(shape)
    extras = _extra_layouts(group, shape, layouts, unit)
    epilogue = Epilogue(ctx, group, inside, group.nodes, None, extras)
    kernel = elementwise_blocked(
        logical,
        x_layout=layouts[value],
        out_layout=wanted,
        x_dtype=_dtype(inside),
        out_dtype=_dtype(group.outputs[0]),
        epilogue=epilogue,
        extras=tuple(epilogue.extras),
        unit=unit,
    )
    if kernel is None:
        return None
    needs = {**_used(epilogue), value: layouts[value]}
    return BlockedCall(ctx.finished(kernel.func), (value, *epilogue.operands), needs, wanted)


def _interleaved(
    group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Blocked
) -> BlockedCall | None:
    """An image of few channels from a plain one."""
    shape = shape_of(group.outputs[0])
    full = [(i, o) for i, o in group.operands if shape_of(i) == shape]
    if not full or any(i in group.known or isinstance(layouts.get(o, PLAIN), Blocked) for i, o in full):
        return None
    inside, value = full[0]
    if _dtype(inside) != "float32":
        return None
    ctx = Context(unit)
    ctx.node = group.nodes[0]
    logical = ctx.declare_shape(shape)
    epilogue = Epilogue(ctx, group, inside, group.nodes)
    kernel = interleave_bytes(
        logical,
        out_layout=wanted,
        x_dtype="float32",
        out_dtype=_dtype(group.outputs[0]),
        epilogue=epilogue,
        extras=tuple(epilogue.extras),
        unit=unit,
    )
    if kernel is None:
        return None
    return BlockedCall(
        ctx.finished(kernel.func), (value, *epilogue.operands), {**_used(epilogue), value: PLAIN}, wanted
    )


def _concat(group: Group, unit: VectorUnit, layouts: Mapping[Value, Layout], wanted: Layout) -> BlockedCall | None:
    if not isinstance(wanted, Blocked):
        return None
    node = group.nodes[0]
    values = [dict(group.operands)[v] for v in node.inputs if v is not None]
    if any(v in group.known for v in node.inputs) or len(set(values)) < len(values):
        return None
    ctx = Context(unit)
    ctx.node = node
    shapes = [ctx.declare_shape(shape_of(v)) for v in node.inputs if v is not None]
    expected = [own if isinstance(own := layouts.get(v, PLAIN), Blocked) else Blocked(unit.lanes) for v in values]
    dtype = _dtype(node.output)
    kernel = concat_blocked(
        shapes,
        x_layouts=expected,
        out_layout=wanted,
        x_dtypes=[dtype] * len(shapes),
        out_dtype=dtype,
        epilogue=lambda acc, index, extras: ctx.emit.narrowed(acc, dtype),
        unit=unit,
    )
    if kernel is None:
        return None
    return BlockedCall(ctx.finished(kernel.func), tuple(values), dict(zip(values, expected, strict=True)), wanted)
