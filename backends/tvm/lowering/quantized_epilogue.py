"""What kernels on bytes share: how sums are rescaled, what follows them, and how a call is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....ir.graph import Node, Value
from ....ir.types import Tensor
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

__all__ = ["clamped", "constant_of", "dtype_of_value", "finished", "follows", "rescaled"]


def dtype_of_value(value: Value) -> str:
    assert isinstance(value.type, Tensor)
    return storage_dtype(value.type.elem)


def follows(nodes: tuple[Node, ...], shape: object) -> bool:
    return all(elementwise(n) and all(shape_of(v) == shape for v in n.outputs) for n in nodes)


def finished(
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


def rescaled(group: Group) -> tuple[Rescale | None, Value, tuple[Node, ...]]:
    """How the anchor's sums are rescaled at once, the value that they are then, and the nodes that come after it."""
    anchor, *nodes = group.nodes
    if nodes and nodes[0].op.name == "quant.requantize" and nodes[0].inputs[0] is anchor.output:
        node = nodes[0]
        shape = shape_of(node.output)
        axis = (len(shape) if anchor.op.name == "quant.matmul" else 2) - 1  # of the channels
        factors = [constant_of(group, node, i) for i in (1, 2)]
        if all(f is not None and (f.ndim == 0 or node.attr("axis") % len(shape) == axis) for f in factors):
            channels = max(1, *(f.size for f in factors))
            if isinstance(shape[axis], int):
                channels = shape[axis]
            made = Rescale.of(factors[0], factors[1], node.attr("zero"), channels)
            if made is not None:
                return made, node.output, tuple(nodes[1:])
    return None, anchor.output, tuple(nodes)


def clamped(epilogue: Epilogue, value: Value) -> Callable[..., Any]:
    """`epilogue` for sums that are rescaled to `value`, but not yet clamped and cast to its type."""
    node = value.node
    assert node is not None
    dtype, low, high = bounds(node)
    return lambda acc, index, extras: epilogue(clamp_cast(acc, 0, low, high, dtype), index, extras)


def constant_of(group: Group, node: Node, i: int) -> Any:
    value = node.inputs[i] if len(node.inputs) > i else None
    return None if value is None or value not in group.known else group.known[value].array
