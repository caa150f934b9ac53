"""The nodes that follow a template's own work, as the function and the extra operands that the template takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....ir.graph import Node, Value
from ....ir.types import Tensor
from ..kernels import ExtraOperand
from ..kernels.layout import PLAIN, Layout
from .context import Context
from .elements import array_of, storage_dtype
from .expr import Expr, Index
from .group import Group
from .nodes import run_nodes
from .tensor import Lazy

__all__ = ["Epilogue"]


class _Late:
    """A buffer that the template hands to the epilogue when it calls it, seen under its logical shape."""

    def __init__(self, slots: list[Any], slot: int, shape: tuple[Any, ...], layout: Layout) -> None:
        self._slots, self._slot, self.shape, self._layout = slots, slot, shape, layout

    def __getitem__(self, index: Index) -> Expr:
        return self._slots[self._slot][self._layout.index(index)]


class Epilogue:
    """`nodes` of a group, which compute `result` from `anchor`, the value that the template finishes.

    `layouts` tells how operands (values outside the group) lie in memory where they are not plain. `operands` are what
    the extra operands are bound to, `operand_layouts` how they are expected.
    """

    def __init__(
        self,
        ctx: Context,
        group: Group,
        anchor: Value,
        nodes: Sequence[Node],
        bias: Value | None = None,
        layouts: Mapping[Value, Layout] | None = None,
    ) -> None:
        self.ctx, self.known = ctx, group.known
        self.extras: list[ExtraOperand] = []
        self.operands: list[Value | Any] = []
        self.operand_layouts: list[Layout] = []
        self._slots: list[Any] = []
        layouts = layouts or {}
        outside = dict(group.operands)
        ctx.add_constant = self._add_array
        self.anchor = ctx.derived(anchor.type)  # type: ignore[arg-type]
        env: dict[Value, Lazy] = {anchor: self.anchor}
        for v, constant in group.known.items():
            if constant.array.size == 1 and isinstance(v.type, Tensor):
                env[v] = ctx.immediate(v.type, constant.array, constant)
        needed = {v for n in nodes for v in n.inputs if v is not None}
        needed |= {bias} if bias is not None else set()
        for v in [i for i, _ in group.operands if i in needed] + [v for v in group.known if v in needed]:
            if v in env or not isinstance(v.type, Tensor):
                continue
            shape = ctx.declare_shape(v.type.shape)
            operand = outside[v] if v in outside else array_of(group.known[v].array)
            layout = layouts.get(operand, PLAIN) if v in outside else PLAIN
            buffer = self._add(shape, storage_dtype(v.type.elem), operand, layout)
            env[v] = ctx.view(buffer, v.type, constant=group.known.get(v))
        if anchor.node in group.nodes:  # else it is a stored number, and needs no rounding
            env[anchor] = _rounded(ctx, self.anchor, None if bias is None else env[bias])
        run_nodes(ctx, nodes, env)
        self.result = env[group.outputs[0]]

    def _add(self, shape: tuple[Any, ...], dtype: str, operand: Any, layout: Layout = PLAIN) -> _Late:
        self.extras.append(ExtraOperand(layout.shape(shape), dtype))
        self.operands.append(operand)
        self.operand_layouts.append(layout)
        return _Late(self._slots, len(self.extras) - 1, shape, layout)

    def _add_array(self, array: Any) -> _Late:
        return self._add(array.shape, str(array.dtype), array)

    def __call__(self, acc: Expr, index: Index, extras: tuple[Any, ...]) -> Expr:
        return self.ctx.emit.narrowed(self.value(acc, index, extras), storage_dtype(self.result.elem))

    def value(self, acc: Expr, index: Index, extras: tuple[Any, ...]) -> Expr:
        """The result as a number; calling the epilogue gives it as it is stored."""
        self._slots[:] = extras
        return self.ctx.element_of(self.anchor, tuple(index), acc)(self.result)


def _rounded(ctx: Context, x: Lazy, bias: Lazy | None) -> Lazy:
    """x plus a bias, if there is one, as the element type can hold it."""

    def read(index: Index) -> Expr:
        value = ctx.read(x, index)
        return ctx.rounded(x.elem, value if bias is None else value + ctx.read(bias, (index[1],)))

    return Lazy(x.type, read, x.source)
