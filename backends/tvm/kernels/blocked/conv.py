"""Convolution in blocks of channels: picks the template for a shape, and its plan."""

from __future__ import annotations

from ..conv_call import ConvCall
from ..kernel import Kernel, ceil_div
from ..layout import Blocked
from ..tile import of_rank, ranked
from .depthwise import depthwise_conv
from .direct import direct_conv
from .pointwise import pointwise_conv
from .tiling import Tiling, ranked_tiles
from .window import needed_halo
from .winograd import winograd_conv
from .winograd_plan import GAIN, WinogradPlan, ranked_winograd

__all__ = ["conv_blocked"]


def conv_blocked(call: ConvCall) -> Kernel | None:
    """The kernel of a convolution of images; None where the input has too small a halo, and for odd groups.

    A plain image is padded into scratch memory, so it should have few channels and be the only one of its kind.
    """
    if call.window.is_1d:
        return None
    special = pointwise_conv(call) or depthwise_conv(call)
    if special is not None:
        return special
    blocked = isinstance(call.x_layout, Blocked)
    if isinstance(call.x_layout, Blocked) and not call.x_layout.halo.covers(needed_halo(call.window)):
        return None
    shape, unit = call.shape, call.unit
    rows, columns = shape.window.rows, shape.window.columns
    plans: list[Tiling | WinogradPlan] = [
        *ranked_tiles(rows.out, columns.out, ceil_div(shape.outputs, unit.lanes), shape.depth, unit)
    ]
    if blocked and call.allow_winograd:
        plans += ranked_winograd(shape, unit)

    def slots(plan: Tiling | WinogradPlan) -> float:
        return plan.slots() / GAIN if isinstance(plan, WinogradPlan) else plan.slots(shape.depth)

    plan = of_rank(ranked(plans, slots), call.rank)
    return winograd_conv(call, plan) if isinstance(plan, WinogradPlan) else direct_conv(call, plan)
