"""Groups that work along rows (passes/rows.py): all of a group's passes over a row while it is in the cache."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Node, Value
from ....ir.shapes import normal_axes
from ....ir.types import Float, Tensor
from . import LOWERINGS
from .context import Context
from .contract import add
from .expr import Expr, const, larger
from .group import Group
from .nodes import run_nodes
from .norm import Rows, Strip
from .reduce import lowest
from .tensor import Lazy

__all__ = ["lower_rows"]

F32 = Float("f32")

_REDUCTIONS = {"math.reduce_sum", "math.reduce_mean", "math.reduce_max"}


def lower_rows(ctx: Context, group: Group, env: dict[Value, Lazy]) -> bool:
    """Emit a group with reductions of the last axis; False, with nothing emitted, for any other."""
    full = _full_type(group)
    if full is None or ctx.unit.simt:
        return False
    result = group.outputs[0]
    assert result.node is not None
    out = ctx.target(result.node)

    def passes(strip: Strip) -> None:
        inner = dict(env)
        for node in group.nodes:
            if node.op.name in _REDUCTIONS:
                inner[node.output] = _reduced(ctx, node, strip, inner)
                continue
            run_nodes(ctx, [node], inner)
            made = inner[node.output]
            if made.shape != full.shape:  # one number a row: computed once
                inner[node.output] = _kept(ctx, made.type, strip, lambda made=made: ctx.read(made, (*strip.prefix, 0)))
        strip.each(lambda at, lane: ctx.store(out, at, F32, lambda: ctx.read(inner[result], at)))

    Rows(ctx, full, len(full.shape) - 1, len(full.shape) - 1).run(passes)
    env[result] = ctx.view(out, full)
    return True


def _reduced(ctx: Context, node: Node, strip: Strip, env: dict[Value, Lazy]) -> Lazy:
    (source,) = node.inputs
    assert source is not None
    x = env[source]
    largest = node.op.name == "math.reduce_max"
    total = strip.reduce(lowest(F32) if largest else 0, larger if largest else add, lambda at, lane: ctx.read(x, at))
    mean = node.op.name == "math.reduce_mean"
    length = x.shape[-1]
    assert isinstance(length, int)
    return _kept(
        ctx, ctx.result_type(node), strip, lambda: total(0) * const(1 / length, "float32") if mean else total(0)
    )


def _kept(ctx: Context, type: Tensor, strip: Strip, value: Any) -> Lazy:
    """A number of a row in memory."""
    slot = ctx.accumulators(1, "float32")
    ctx.store(slot, (0,), F32, value)

    def read(index: tuple[Expr, ...]) -> Expr:
        return slot[0]

    return Lazy(type, read)


def _full_type(group: Group) -> Tensor | None:
    """The type of the tensor whose rows a group goes through."""
    full = group.outputs[0].type
    if len(group.outputs) != 1 or not isinstance(full, Tensor) or not full.shape or full.shape[-1] == 1:
        return None
    shapes = (full.shape, (*full.shape[:-1], 1))
    found = False
    for node in group.nodes:
        if any(not isinstance(v.type, Tensor) or v.type.elem is not F32 for v in node.outputs):
            return None
        if node.op.name in _REDUCTIONS:
            source = node.inputs[0]
            assert source is not None and isinstance(source.type, Tensor)
            rank = len(full.shape)
            last = source.type.shape == full.shape and normal_axes(node.attr("axes"), rank) == (rank - 1,)
            if not last or not node.attr("keepdims") or not isinstance(full.shape[-1], int):
                return None
            found = True
        elif not LOWERINGS[node.op.name].elementwise or node.output.type.shape not in shapes:
            return None
    return full if found and 0 not in full.shape else None
