"""Convolution in blocks of channels: picks the template for a shape."""

from __future__ import annotations

from collections.abc import Sequence

from ..conv_plan import ConvShape
from ..geometry import make_window
from ..kernel import AVX512, Dim, Epilogue, ExtraOperand, Kernel, VectorUnit, identity, is_static
from ..layout import Blocked, Layout
from .depthwise import depthwise_conv
from .direct import direct_conv, plan_direct
from .pointwise import pointwise_conv
from .window import needed_halo
from .winograd import winograd_conv
from .winograd_plan import plan_winograd

__all__ = ["conv_blocked"]


def conv_blocked(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    x_layout: Layout,
    out_layout: Layout,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
    allow_winograd: bool = True,
) -> Kernel | None:
    """ONNX Conv of x[N, C, H, W] with a constant weight[O, C / groups, KH, KW], without the bias."""
    x_shape, weight_shape, extras = tuple(x_shape), tuple(weight_shape), tuple(extras)
    if len(x_shape) != 4 or len(weight_shape) != 4 or groups < 1:
        return None
    if not is_static(x_shape[1:]) or not is_static(weight_shape):
        return None
    channels, outputs = x_shape[1], weight_shape[0]
    if channels != weight_shape[1] * groups or outputs % groups:
        return None
    window = make_window(x_shape[2:], weight_shape[2:], strides, pads, dilations)
    if window is None:
        return None
    for special in (pointwise_conv, depthwise_conv):
        made = special(
            x_shape,
            weight_shape,
            x_layout=x_layout,
            out_layout=out_layout,
            strides=strides,
            pads=pads,
            dilations=dilations,
            groups=groups,
            epilogue=epilogue,
            extras=extras,
            unit=unit,
        )
        if made is not None:
            return made
    shape = ConvShape(groups, weight_shape[1], outputs // groups, window)
    batch = x_shape[0]
    if isinstance(x_layout, Blocked):
        if not x_layout.halo.covers(needed_halo(window)):
            return None
        plan = plan_winograd(shape, unit) if allow_winograd else None
        if plan is not None:
            return winograd_conv(batch, shape, plan, x_layout, out_layout, epilogue, extras, unit)
    return direct_conv(batch, shape, plan_direct(shape, unit), x_layout, out_layout, epilogue, extras, unit)
