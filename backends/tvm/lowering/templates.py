"""Groups that start with a product, a convolution or a pool in f32: handed to the hand-scheduled templates.

The first node is the anchor. The rest of the group becomes the template's epilogue: the same scalar functions that the
generic loops use, evaluated at the one element that the template has finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....ir.graph import Node, Value
from ....ir.types import Float, Tensor
from ..kernels import (
    Kernel,
    VectorUnit,
    average_pool,
    batched_matmul,
    conv,
    conv_call,
    global_average_pool,
    matmul,
    max_pool,
)
from ..kernels.lowbit.gemm import matmul_bf16
from . import LOWERINGS
from .context import Context
from .elements import array_of
from .epilogue import Epilogue
from .group import Group

__all__ = ["Templated", "eligible", "from_template"]

F32, BF16 = Float("f32"), Float("bf16")


@dataclass(frozen=True)
class Templated:
    func: Any
    operands: tuple[Value | Any, ...]


def from_template(group: Group, unit: VectorUnit, rank: int = 0) -> Templated | None:
    """The group by a template and its plan of a rank, or None where there is none for it."""
    anchor = group.nodes[0] if group.nodes else None
    if anchor is None or not eligible(group, anchor):
        return None
    ctx = Context(unit)
    ctx.node = anchor
    inputs = [v for v in anchor.inputs if v is not None]
    pack = _packed_operand(group, anchor)
    if pack is None:
        return None
    data = inputs[:pack]
    shapes = [ctx.declare_shape(v.type.shape) for v in data]
    bias = anchor.inputs[2] if anchor.op.name == "nn.conv" and len(anchor.inputs) > 2 else None
    epilogue = Epilogue(ctx, group, anchor.output, group.nodes[1:], bias)
    kernel = _instantiate(anchor, shapes, epilogue, unit, rank)
    if kernel is None:
        return None
    outside = dict(group.operands)
    operands: list[Any] = []
    for v, packer in zip(data, kernel.packers, strict=True):
        if packer is None:
            operands.append(outside.get(v, v))
        else:
            operands.append(packer(array_of(group.known[v].array)))
    return Templated(ctx.finished(kernel.func), (*operands, *epilogue.operands))


def eligible(group: Group, anchor: Node) -> bool:
    """One f32 result of the anchor's shape, computed element by element from the anchor's."""
    if len(group.outputs) != 1 or anchor.op.name not in _ANCHORS:
        return False
    types = [v.type for v in (*anchor.inputs, *anchor.outputs, *group.outputs) if v is not None]
    if not all(isinstance(t, Tensor) and t.elem is types[0].elem for t in types):  # type: ignore[union-attr]
        return False
    if not (types[0].elem is F32 or (types[0].elem is BF16 and anchor.op.name == "nn.matmul")):  # type: ignore[union-attr]
        return False
    shape = anchor.output.type.shape
    if any(isinstance(d, int) and d == 0 for t in types for d in t.shape):
        return False
    following = {anchor.output}
    for node in group.nodes[1:]:
        inline = LOWERINGS[node.op.name].elementwise or node.op.name in _INLINE
        if not inline or any(v.type.shape != shape for v in node.outputs):
            return False
        if any(v in following for v in node.inputs[1:] if v is not None) and node.op.name in _INLINE:
            return False
        following.update(node.outputs)
    # the activations come from outside the group
    return all(v is None or v not in following for v in anchor.inputs) and group.outputs[0] in following


_INLINE = {"nn.batch_norm", "quant.quantize", "quant.dequantize", "quant.store", "quant.load"}
_ANCHORS = {"nn.matmul", "nn.conv", "nn.max_pool", "nn.avg_pool", "math.reduce_mean"}


def _packed_operand(group: Group, anchor: Node) -> int | None:
    """How many operands the template takes; None when a weight that it has to pack is not a constant."""
    if anchor.op.name == "nn.conv":
        return 2 if anchor.inputs[1] in group.known and anchor.inputs[0] not in group.known else None
    if anchor.op.name == "nn.matmul":
        if anchor.inputs[0] in group.known:
            return None
        return 2
    return 1


def _instantiate(anchor: Node, shapes: list[Any], epilogue: Epilogue, unit: VectorUnit, rank: int) -> Kernel | None:
    a = anchor.attr
    options: dict[str, Any] = {"epilogue": epilogue, "extras": tuple(epilogue.extras), "unit": unit}
    name = anchor.op.name
    if name == "nn.conv":
        attributes = {"strides": a("strides"), "pads": a("pads"), "dilations": a("dilations"), "groups": a("g")}
        call = conv_call(shapes[0], shapes[1], **attributes, rank=rank, **options)
        return None if call is None else conv(call)
    if name == "nn.matmul":
        return _matmul(anchor, shapes, {"rank": rank, **options})
    if name == "nn.max_pool":
        return max_pool(
            shapes[0],
            a("kernel"),
            strides=a("strides"),
            pads=a("pads"),
            dilations=a("dilations"),
            ceil_mode=a("ceil"),
            **options,
        )
    rank = len(shapes[0]) - 2
    if name == "math.reduce_mean":
        axes = a("axes")
        wanted = list(range(2, rank + 2))
        if rank < 1 or axes is None or sorted(x % (rank + 2) for x in axes) != wanted or not a("keepdims"):
            return None
        return global_average_pool(shapes[0], **options)
    spatial = shapes[0][2:]
    pads = a("pads") or (0,) * (2 * rank)
    if tuple(a("kernel")) == tuple(spatial) and not any(pads) and set(a("dilations") or (1,)) == {1}:
        return global_average_pool(shapes[0], **options)
    if a("ceil") or set(a("dilations") or (1,)) != {1}:
        return None
    return average_pool(
        shapes[0], a("kernel"), strides=a("strides"), pads=a("pads"), count_include_pad=a("count_pads"), **options
    )


def _matmul(anchor: Node, shapes: list[Any], options: dict[str, Any]) -> Kernel | None:
    weight = anchor.inputs[1]
    epilogue = options["epilogue"]
    assert weight is not None
    constant = weight in epilogue.known and len(shapes[1]) == 2 and all(isinstance(d, int) for d in shapes[1])
    if isinstance(weight.type, Tensor) and weight.type.elem is BF16:
        del options["rank"]
        return matmul_bf16(shapes[0], shapes[1], out_dtype="uint16", **options) if constant else None
    if constant:
        return matmul(shapes[0], shapes[1], **options)
    return batched_matmul(shapes[0], shapes[1], **options)
