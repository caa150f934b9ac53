"""`quant.quantize_dynamic`: the largest magnitude of a row, then its codes, while the row is in the cache."""

from __future__ import annotations

from ....ir.graph import Node
from ....ir.ops.quant_dynamic import LEAST, largest_code
from ....ir.types import Float, Int
from ..api import modules
from .context import Context
from .expr import Expr, Index, cast, larger, like, select
from .functions import round_half_even
from .norm import Rows, Strip
from .table import lower
from .tensor import Lazy

__all__ = ["quantize_dynamic"]

F32, I8 = Float("f32"), Int("i8")


@lower("quant.quantize_dynamic")
def quantize_dynamic(ctx: Context, node: Node, x: Lazy) -> tuple[Lazy, Lazy]:
    x = ctx.in_memory(x)
    codes, scales = ctx.target(node, 0), ctx.target(node, 1)
    most = largest_code(node.attr("bits"))
    axis = x.rank - 1

    def size(at: Index, lane: Expr) -> Expr:
        return modules().tirx.abs(ctx.read(x, at))

    def passes(strip: Strip) -> None:
        top = strip.reduce(LEAST, larger, size)(0)
        ctx.store(scales, (*strip.prefix, 0), F32, lambda: top * like(top, 1 / most))
        factor = ctx.bind(lambda: like(top, most) / top)
        strip.each(lambda at, lane: ctx.store(codes, at, I8, lambda: _code(ctx, ctx.read(x, at) * factor, most)))

    Rows(ctx, x.type, axis, axis).run(passes)
    return ctx.view(codes, ctx.result_types(node)[0]), ctx.view(scales, ctx.result_types(node)[1])


def _code(ctx: Context, scaled: Expr, most: int) -> Expr:
    """Rounded and clamped; comparisons that fail for nan leave the lowest code."""
    code = ctx.let(round_half_even(scaled, ctx.let))
    low, high = like(code, -most), like(code, most)
    bounded = select(code > high, high, select(code >= low, code, low))
    return cast(cast(bounded, "int32"), "int8")
