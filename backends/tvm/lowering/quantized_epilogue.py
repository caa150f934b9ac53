"""What kernels on bytes share: how sums are rescaled, what follows them, and how a call is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....ir.graph import Node, Value
from ....ir.types import Int, Tensor
from ..kernels import Kernel
from ..kernels.layout import Layout
from ..kernels.lowbit.fixed import Rescale, clamp_cast
from .blocked import BlockedCall
from .context import Context
from .elements import storage_dtype
from .epilogue import Epilogue
from .group import Group
from .layouts import shape_of
from .quantized import bounds
from .quantized_layouts import elementwise

__all__ = ["clamp_to", "clamped", "constant_of", "dtype_of_value", "finished", "follows", "is_bytes", "rescaled"]


def dtype_of_value(value: Value) -> str:
    assert isinstance(value.type, Tensor)
    return storage_dtype(value.type.elem)


def follows(nodes: tuple[Node, ...], shape: object) -> bool:
    return all(elementwise(n) and all(shape_of(v) == shape for v in n.outputs) for n in nodes)


def is_bytes(value: Value | None) -> bool:
    type = None if value is None else value.type
    return isinstance(type, Tensor) and isinstance(type.elem, Int) and type.elem.bits == 8


def finished(
    ctx: Context,
    kernel: Kernel | None,
    epilogue: Epilogue,
    inputs: Mapping[Value, Layout],
    layout: Layout,
    weight: Any = None,
) -> BlockedCall | None:
    """The call, with the weight packed; None without a kernel, and where one value would be needed in two layouts."""
    if kernel is None:
        return None
    needs = {o: own for o, own in zip(epilogue.operands, epilogue.operand_layouts, strict=True) if isinstance(o, Value)}
    if any(v in needs and needs[v] != own for v, own in inputs.items()):
        return None
    operands: list[Any] = list(inputs)
    if weight is not None:
        pack = kernel.packers[1]
        assert pack is not None
        operands.append(pack(weight))
    operands += epilogue.operands
    return BlockedCall(ctx.finished(kernel.func), tuple(operands), {**needs, **inputs}, layout)


def rescaled(
    group: Group, sums: Value, nodes: Sequence[Node], axis: int | None = None
) -> tuple[Rescale | None, Value, tuple[Node, ...]]:
    """How registers of sums are rescaled at once, the value that they are then, and those of `nodes` that come after.

    By factors of channels along an axis of the sums, or else by one for all of them.
    """
    node = nodes[0] if nodes else None
    if node is not None and node.op.name == "quant.requantize" and node.inputs[0] is sums:
        multiplier, shift = (constant_of(group, node, i) for i in (1, 2))
        if multiplier is not None and shift is not None and sum(sums in n.inputs for n in group.nodes) == 1:
            made = _rescale(node, multiplier, shift, axis)
            if made is not None:
                return made, node.output, tuple(nodes[1:])
    return None, sums, tuple(nodes)


def _rescale(node: Node, multiplier: Any, shift: Any, axis: int | None) -> Rescale | None:
    zero, shape = node.attr("zero"), shape_of(node.output)
    if axis is None:
        return Rescale.single(multiplier, shift, zero)
    if any(f.ndim and node.attr("axis") % len(shape) != axis for f in (multiplier, shift)):
        return None
    channels = shape[axis] if isinstance(shape[axis], int) else max(1, multiplier.size, shift.size)
    return Rescale.of(multiplier, shift, zero, channels)


def clamped(epilogue: Epilogue, value: Value) -> Callable[..., Any]:
    """`epilogue` for sums that are rescaled to `value`, but not yet clamped and cast to its type."""
    clamp = clamp_to(value)
    return lambda acc, index, extras: epilogue(clamp(acc), index, extras)


def clamp_to(value: Value) -> Callable[[Any], Any]:
    """Sums that are rescaled to `value`, as it holds them."""
    node = value.node
    assert node is not None
    dtype, low, high = bounds(node)
    return lambda acc: clamp_cast(acc, 0, low, high, dtype)


def constant_of(group: Group, node: Node, i: int) -> Any:
    value = node.inputs[i] if len(node.inputs) > i else None
    return None if value is None or value not in group.known else group.known[value].array
