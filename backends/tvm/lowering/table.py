"""Declarations: one for each op.

    @scalar("math.add")                       an elementwise op, as a function from scalars to a scalar
    def add(ctx, node, a, b): return a + b

    @lower("shape.transpose")                 any other op, as a function from tensors to tensors
    def transpose(ctx, node, x): ...

The scalar form serves the loops of fused kernels and the epilogues of the hand-scheduled templates alike. The table in
`lowering/__init__.py` lists the modules of declarations; nothing registers itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....ir.graph import Node
from ....ir.types import Tensor
from .tensor import Lazy

if TYPE_CHECKING:
    from .context import Context

__all__ = ["Lowering", "lower", "scalar"]

Results = Lazy | tuple[Lazy, ...]

PICKING = {"math.relu", "math.maximum", "math.minimum"}
"""Ops whose result is one of the operands, or zero."""


@dataclass(frozen=True)
class Lowering:
    """How `op` becomes TIR. `static` says why extents have to be known, where they do."""

    op: str
    tensors: Callable[..., Results]
    elementwise: bool = False
    static: str = ""

    def __call__(self, ctx: Context, node: Node, *operands: Lazy | None) -> tuple[Lazy, ...]:
        results = self.tensors(ctx, node, *operands)
        return results if isinstance(results, tuple) else (results,)


def lower(op: str, *, static: str = "") -> Callable[[Callable[..., Results]], Lowering]:
    """Declare a lowering from `Lazy` operands (None where absent) to `Lazy` results."""
    return lambda function: Lowering(op, function, static=static)


def scalar(op: str) -> Callable[[Callable[..., Any]], Lowering]:
    """Declare an elementwise op by `function(ctx, node, *scalars)`; operands broadcast, absent ones are left out."""

    def declare(function: Callable[..., Any]) -> Lowering:
        def tensors(ctx: Context, node: Node, *operands: Lazy | None) -> Lazy:
            type = ctx.result_type(node)
            assert isinstance(type, Tensor)
            given = [o for o in operands if o is not None]
            return ctx.map(type, given, lambda *v: function(ctx, node, *v), picks=op in PICKING)

        return Lowering(op, tensors, elementwise=True)

    return declare
