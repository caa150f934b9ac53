"""Which images of bytes lie in blocks of channels, as `layouts.py` decides it for floats.

The halo holds the zero point, so that convolutions read their padding from it. The image that a network starts with has
few channels: it lies in blocks of four, the bytes of one dot product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ....ir.constants import Constant
from ....ir.graph import Node, Value
from ....ir.types import Int, Tensor
from ..kernels.blocked.window import needed_halo
from ..kernels.geometry import make_window
from ..kernels.kernel import VectorUnit
from ..kernels.layout import NO_HALO, Blocked, Halo
from .group import Group, group_of
from .layouts import shape_of

__all__ = ["byte_kind", "byte_layouts", "elementwise", "is_byte_image", "needed", "zero_of"]

ELEMENTWISE = {"nn.gelu", "quant.requantize", "quant.add", "quant.table", "quant.quantize", "quant.store", "quant.load"}
FEW = 4
"""Channels of an image that is read four bytes at a time."""


def is_byte_image(value: Value) -> bool:
    """Whether a value is a batch of images of bytes, of known size and more than a pixel."""
    type = value.type
    return (
        isinstance(type, Tensor)
        and isinstance(type.elem, Int)
        and type.elem.bits == 8
        and len(type.shape) == 4
        and all(isinstance(d, int) and d > 0 for d in type.shape[1:])
        and type.shape[0] != 0
        and type.shape[2:] != (1, 1)
    )


def byte_kind(group: Group) -> str:
    """What kernel on blocked bytes a group may become: conv, pool, concat, each (element by element), or nothing."""
    if not group.nodes or len(group.outputs) != 1:
        return ""
    anchor = group.nodes[0]
    name = anchor.op.name
    source = anchor.inputs[0] if anchor.inputs else None
    if source is None or source in group.known:
        return ""
    if name in ("quant.conv", "quant.sum_pool") or (name == "nn.max_pool" and is_byte_image(source)):
        constant = all(v is None or v in group.known for v in anchor.inputs[1:])
        return ("conv" if name == "quant.conv" else "pool") if constant and is_byte_image(source) else ""
    if not is_byte_image(group.outputs[0]):
        return ""
    if name == "shape.concat":
        joined = anchor.attr("axis") % 4 == 1 and len(group.nodes) == 1
        return "concat" if joined and all(v is not None and is_byte_image(v) for v in anchor.inputs) else ""
    shape = shape_of(group.outputs[0])
    same = all(shape_of(v) == shape for n in group.nodes for v in n.outputs)
    return "each" if same and all(elementwise(n) for n in group.nodes) else ""


def elementwise(node: Node) -> bool:
    """Whether an element of the result needs one element of each full operand."""
    return node.op.has("elementwise") or node.op.name in ELEMENTWISE


def needed(node: Node) -> Halo:
    """The pixels around its first operand that a node reads."""
    source = node.inputs[0]
    if source is None or node.op.name not in ("quant.conv", "quant.sum_pool"):
        return NO_HALO
    a = node.attr
    weight = node.inputs[1] if node.op.name == "quant.conv" else None
    kernel, ceil = (a("kernel"), a("ceil")) if weight is None else (shape_of(weight)[2:], False)
    window = make_window(shape_of(source)[2:], kernel, a("strides"), a("pads"), a("dilations"), ceil)
    return NO_HALO if window is None else needed_halo(window)


def zero_of(node: Node) -> int:
    """What padding holds."""
    return int(node.attr("zero")) if node.op.name in ("quant.conv", "quant.sum_pool") else 0


def byte_layouts(calls: Iterable[Node], constants: Mapping[Value, Constant], unit: VectorUnit) -> dict[Value, Blocked]:
    """The images to be blocked, each with the halo that its readers need."""
    if unit.simt:
        return {}
    can: set[Value] = set()
    order: list[tuple[Node, Group, str]] = []
    for node in calls:
        group = group_of(node, constants)
        kind = byte_kind(group)
        order.append((node, group, kind))
        if kind and is_byte_image(node.output):
            can.add(node.output)
    halos: dict[Value, Halo] = {}
    fills: dict[Value, int] = {}
    wide: set[Value] = set()  # those of which somebody reads, or writes, whole vectors
    for node, group, kind in reversed(order):
        passing = kind in ("each", "concat")
        if not passing:
            wide.add(node.output)
        if not kind or (passing and node.output not in halos):
            continue
        anchor = group.nodes[0]
        for inside, value in group.operands:
            if value not in can or (not passing and inside is not anchor.inputs[0] and not _full(inside, group)):
                continue
            reads = inside is anchor.inputs[0] and not passing
            halo = needed(anchor) if reads else NO_HALO
            if halo != NO_HALO and fills.setdefault(value, zero_of(anchor)) != zero_of(anchor):
                continue  # it reads a copy with another halo
            halos[value] = halos.get(value, NO_HALO).union(halo)
            if not (reads and anchor.op.name == "quant.conv" and anchor.attr("g") == 1):
                wide.add(value)
    return {
        v: Blocked(FEW if shape_of(v)[1] <= FEW and v not in wide else unit.lanes, halo, fills.get(v, 0))
        for v, halo in halos.items()
    }


def _full(value: Value, group: Group) -> bool:
    return shape_of(value) == shape_of(group.outputs[0])
