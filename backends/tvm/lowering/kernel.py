"""From a fusion group to one PrimFunc and what it is called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....ir.constants import Constant
from ....ir.graph import Node, Value
from ....ir.types import Tensor
from ..api import modules
from ..kernels import VectorUnit
from ..kernels.layout import PLAIN, Layout
from . import LOWERINGS
from .attention import lower_attention
from .blocked import from_blocked
from .context import Context
from .elements import array_of, storage_dtype
from .group import Group, group_of, merged_types
from .int4 import from_int4
from .nodes import check, run_nodes
from .quantized_attention import lower_integer_attention
from .quantized_images import from_quantized
from .rows import lower_rows
from .templates import from_template
from .tensor import Lazy

__all__ = ["Call", "lower_node"]


@dataclass(frozen=True)
class Call:
    """A PrimFunc and its operands: values of the graph, or arrays that only it sees (packed weights, tables).

    `layouts` tells which operands it expects in blocks, `layout` how its result lies in memory (if it is but one).
    """

    func: Any
    operands: tuple[Value | Any, ...]
    results: tuple[Value, ...]
    layouts: Mapping[Value, Layout] = field(default_factory=dict)
    layout: Layout = PLAIN


def lower_node(
    node: Node,
    constants: Mapping[Value, Constant],
    unit: VectorUnit,
    *,
    exact: bool = False,
    layouts: Mapping[Value, Layout] | None = None,
    wanted: Layout = PLAIN,
    rank: int = 0,
) -> Call:
    """The kernel of a node, without the templates if `exact`; raises IG0502 or IG0503 naming it.

    `layouts` tells how values lie in memory where they are not plain, `wanted` how the result should. `rank` is that of
    the plan to take for a product or a convolution (see `ConvCall`).
    """
    group = group_of(node, constants)
    for inner in group.nodes:
        check(inner)
    if not exact:
        blocked = from_quantized(group, unit, layouts or {}, wanted) or from_blocked(
            group, unit, layouts or {}, wanted, rank
        )
        if blocked is not None:
            return Call(blocked.func, blocked.operands, node.outputs, blocked.layouts, blocked.layout)
        made = from_int4(group, unit) or from_template(group, unit, rank)
        if made is not None:
            return Call(made.func, made.operands, node.outputs)
    return _generic(group, node, unit, exact)


def _generic(group: Group, outer: Node, unit: VectorUnit, exact: bool) -> Call:
    """Loops of our own."""
    ctx = Context(unit)
    elementwise = all(LOWERINGS[n.op.name].elementwise for n in group.nodes)
    merged = merged_types(group) if elementwise else {}
    operands: list[Value | Any] = []
    env: dict[Value, Lazy] = {}
    with ctx.emit.function():
        for inside, outside in group.operands:
            constant = group.known.get(inside)
            assert isinstance(inside.type, Tensor)
            if constant is not None and constant.array.size == 1:
                env[inside] = ctx.immediate(merged.get(inside, inside.type), constant.array, constant)
                continue
            env[inside] = ctx.parameter(f"x{len(operands)}", inside.type, constant=constant)
            operands.append(outside)
        count = len(operands)
        buffers = []
        for i, v in enumerate(group.outputs):
            assert isinstance(v.type, Tensor)
            buffers.append(ctx.emit.arg(f"y{i}", ctx.declare_shape(v.type.shape), storage_dtype(v.type.elem)))
        tables: list[Any] = []
        table_params: list[Any] = []

        def add_constant(array: Any) -> Any:
            # found while loops are being emitted, where the builder takes no more parameters: added to them at the end
            tables.append(array)
            name = f"t{len(tables)}"
            made = modules().script.buffer(array.shape, str(array.dtype), layout=None, buffer_name=name)
            table_params.append(made)
            return made

        ctx.add_constant = add_constant
        for v, constant in group.known.items():
            if v not in env:
                env[v] = _inner_constant(ctx, v, constant)
        for v, t in merged.items():
            ctx.retype(v, t)
            if v in env and env[v].buffer is not None:
                env[v] = ctx.view(_view(ctx, env[v].buffer, t), t, constant=env[v].constant)
        targets = [_view(ctx, b, merged[v]) if v in merged else b for v, b in zip(group.outputs, buffers, strict=True)]
        for v, b in zip(group.outputs, targets, strict=True):
            ctx.set_target(v, b)
        special = (lower_attention, lower_integer_attention, lower_rows)
        if exact or not any(lower(ctx, group, env) for lower in special):
            run_nodes(ctx, group.nodes, env)
        for v, b in zip(group.outputs, targets, strict=True):
            if env[v].buffer is None or not env[v].buffer.same_as(b):
                ctx.store_all(env[v], b)
    func = ctx.finished(ctx.emit.func)
    if table_params:
        params = [*func.params[:count], *table_params, *func.params[count:]]
        func = modules().tirx.PrimFunc(params, func.body, func.ret_type, func.attrs)
    return Call(func, (*operands, *tables), outer.outputs)


def _view(ctx: Context, buffer: Any, type: Tensor) -> Any:
    """The same memory under another shape."""
    shape = ctx.extents(type.shape)
    return modules().script.decl_buffer(shape, storage_dtype(type.elem), data=buffer.data, layout=None)


def _inner_constant(ctx: Context, value: Value, constant: Constant) -> Lazy:
    assert isinstance(value.type, Tensor)
    if constant.array.size == 1:
        return ctx.immediate(value.type, constant.array, constant)
    made = ctx.table(array_of(constant.array), value.type)
    return Lazy(made.type, made.read, buffer=made.buffer, constant=constant)
