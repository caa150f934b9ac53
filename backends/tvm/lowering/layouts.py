"""Which activations lie in blocks of channels.

Kernels of images (convolution, pooling, and elementwise work between them) are fastest on blocked tensors, everything
else works on plain ones. A value becomes blocked when the kernel that computes it can write it so and a reader wants
it so; readers that do not get a plain copy. This is decided before any kernel is made and is a wish only: a template
that has no kernel for a wish leaves its result plain, and the readers see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ....ir.constants import Constant
from ....ir.graph import Graph, Node, Value
from ....ir.types import Float, Tensor
from ..kernels.blocked.window import needed_halo
from ..kernels.geometry import make_window
from ..kernels.kernel import VectorUnit
from ..kernels.layout import NO_HALO, Blocked, Halo
from . import LOWERINGS
from .group import Group, group_of

__all__ = ["blocked_layouts", "halo_of", "image_kind", "is_image", "shape_of"]

F32, BF16 = Float("f32"), Float("bf16")
REAL = (F32, BF16)
"""What images are of."""

FEW = 4
"""Channels of an image of bf16 that lie side by side."""

STEM_CHANNELS = 4
"""Up to this many channels, an image is read by the first convolution as it is."""


def shape_of(value: Value) -> tuple[Any, ...]:
    """The extents of a tensor; numbers, in an image, but for the first."""
    assert isinstance(value.type, Tensor)
    return value.type.shape


def is_image(type: object) -> bool:
    """Whether a type is a batch of f32 or bf16 images of known size."""
    return (
        isinstance(type, Tensor)
        and type.elem in REAL
        and len(type.shape) == 4
        and all(isinstance(d, int) and d > 0 for d in type.shape[1:])
        and type.shape[0] != 0
    )


def image_kind(group: Group) -> str:
    """What blocked kernel a group may become: conv, pool, mean, concat, elementwise, or nothing."""
    anchor = group.nodes[0] if group.nodes else None
    if anchor is None or len(group.outputs) != 1 or not is_image(group.outputs[0].type):
        return ""
    name = anchor.op.name
    source = anchor.inputs[0] if anchor.inputs else None
    if name == "nn.conv":
        constant = anchor.inputs[1] in group.known and source not in group.known
        return "conv" if constant and source is not None and is_image(source.type) and not _flat(source) else ""
    if name in ("nn.max_pool", "nn.avg_pool", "math.reduce_mean"):
        if source is None or not is_image(source.type) or len(anchor.outputs) != 1:
            return ""
        return "mean" if name == "math.reduce_mean" else "pool"
    if name == "shape.concat":
        rank = 4
        axis = anchor.attr("axis") % rank
        return "concat" if axis == 1 and len(group.nodes) == 1 and all(is_image(v.type) for v in _given(anchor)) else ""
    if all(LOWERINGS[n.op.name].elementwise for n in group.nodes):
        return "elementwise"
    return ""


def _given(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None]


def _flat(value: Value) -> bool:
    """An image of one pixel: a vector, which the matrix kernels take."""
    return shape_of(value)[2:] == (1, 1)


def halo_of(node: Node) -> Halo:
    """The zeros around its first operand that a node reads."""
    source = node.inputs[0]
    if node.op.name not in ("nn.conv", "nn.avg_pool") or source is None:
        return NO_HALO
    a = node.attr
    weight = node.inputs[1] if node.op.name == "nn.conv" else None
    kernel, ceil = (a("kernel"), a("ceil")) if weight is None else (shape_of(weight)[2:], False)
    window = make_window(shape_of(source)[2:], kernel, a("strides"), a("pads"), a("dilations"), ceil)
    return NO_HALO if window is None else needed_halo(window)


def blocked_layouts(
    graph: Graph, calls: Iterable[Node], constants: Mapping[Value, Constant], unit: VectorUnit
) -> dict[Value, Blocked]:
    """The values to be blocked, each with the halo that its readers need."""
    can: dict[Value, str] = {}
    halos: dict[Value, Halo] = {}
    order: list[tuple[Node, Group, str]] = []
    for node in calls:
        group = group_of(node, constants)
        kind = image_kind(group)
        order.append((node, group, kind))
        if kind and kind != "mean" and not _flat(node.output) and shape_of(node.output)[1] * 2 >= unit.lanes:
            can[node.output] = kind
    # Elementwise and concatenating kernels take what comes: they want blocks where their own result is wanted so.
    for node, group, kind in reversed(order):
        if not kind:
            continue
        outside = dict(group.operands)
        anchor = group.nodes[0]
        passing = kind in ("elementwise", "concat")
        if passing and node.output not in halos:
            continue
        wanted = _given(anchor) if passing else [v for v in (anchor.inputs[0],) if v is not None]
        shape = shape_of(group.outputs[0])
        wanted += [v for n in group.nodes for v in _given(n) if shape_of(v) == shape]
        for v in dict.fromkeys(wanted):
            source = outside.get(v)
            if source in can and source is not None:
                needed = halo_of(anchor) if v is anchor.inputs[0] and not passing else NO_HALO
                halos[source] = halos.get(source, NO_HALO).union(needed)
    found = {v: Blocked(unit.lanes, halo) for v, halo in halos.items()}
    few = _interleaved(order) if unit.lanes > FEW else {}
    return found | {v: Blocked(FEW, halo) for v, halo in few.items() if v not in graph.outputs}


def _interleaved(order: Iterable[tuple[Node, Group, str]]) -> dict[Value, Halo]:
    """Images of bf16 and few channels that are cast from f32 and read by convolutions only."""
    casts: set[Value] = set()
    halos: dict[Value, Halo] = {}
    for node, group, kind in order:
        if kind == "elementwise" and node.output.type.elem is BF16 and 2 < shape_of(node.output)[1] <= FEW:  # type: ignore[union-attr]
            full = [i for i, _ in group.operands if shape_of(i) == shape_of(node.output)]
            if all(i.type.elem is F32 and i not in group.known for i in full):  # type: ignore[union-attr]
                casts.add(node.output)
                continue
        anchor = group.nodes[0] if group.nodes else None
        for inside, value in group.operands:
            if value not in casts:
                continue
            if kind == "conv" and anchor is not None and inside is anchor.inputs[0] and anchor.attr("g") == 1:
                halos[value] = halos.get(value, NO_HALO).union(halo_of(anchor))
            else:
                casts.discard(value)
    return {v: halo for v, halo in halos.items() if v in casts}
