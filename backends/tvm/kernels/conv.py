"""Convolution: picks the template for a shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .conv_band import conv_band
from .conv_plan import ConvShape
from .emit import Emitter
from .geometry import Window, make_window
from .kernel import (
    AVX512,
    Dim,
    Epilogue,
    Expr,
    ExtraOperand,
    FloatArray,
    Kernel,
    VectorUnit,
    identity,
    is_static,
)
from .matmul import RowSpace, emit_rows_by_packed, pack_columns
from .window import Reduction, emit_windows
from .winograd import winograd
from .winograd_plan import plan_winograd

MAX_DEPTHWISE_TAPS = 121
"""Depthwise windows are unrolled; larger ones go through the general template."""


def conv(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
    allow_winograd: bool = True,
) -> Kernel | None:
    """ONNX Conv of x[N, C, (H,) W] with a constant weight[O, C / groups, (KH,) KW], without the bias.

    `allow_winograd=False` keeps the order of summation of the definition (Winograd rounds differently, still
    within 1e-5 of the largest output). N may be symbolic. None for 3-D, for symbolic dimensions other than N,
    and for attributes that do not fit.
    """
    x_shape, weight_shape, extras = tuple(x_shape), tuple(weight_shape), tuple(extras)
    if len(x_shape) not in (3, 4) or len(weight_shape) != len(x_shape):
        return None
    if not is_static(x_shape[1:]) or not is_static(weight_shape) or groups < 1:
        return None
    channels, outputs = x_shape[1], weight_shape[0]
    if channels != weight_shape[1] * groups or outputs % groups:
        return None
    window = make_window(x_shape[2:], weight_shape[2:], strides, pads, dilations)
    if window is None:
        return None
    batch = x_shape[0]
    if groups == channels and groups > 1 and window.taps <= MAX_DEPTHWISE_TAPS:
        return _depthwise(batch, x_shape, weight_shape, window, epilogue, extras, unit)
    if groups == 1 and _is_fully_connected(window):
        return _fully_connected(batch, x_shape, weight_shape, epilogue, extras, unit)
    shape = ConvShape(groups, weight_shape[1], outputs // groups, window)
    plan = plan_winograd(shape, unit) if allow_winograd else None
    if plan is not None:
        return winograd(batch, shape, plan, x_shape, epilogue, extras, unit)
    return conv_band(batch, shape, x_shape, weight_shape, epilogue, extras, unit)


def _is_fully_connected(window: Window) -> bool:
    """Whether the kernel covers the whole image exactly, as a 1x1 one after global pooling does."""
    axes = (window.rows, window.columns)
    return all(a.kernel == a.size and a.dilation == 1 and a.before == a.after == 0 for a in axes)


def _fully_connected(
    batch: Dim,
    x_shape: tuple[Dim, ...],
    weight_shape: tuple[int, ...],
    epilogue: Epilogue,
    extras: tuple[ExtraOperand, ...],
    unit: VectorUnit,
) -> Kernel:
    outputs, depth = weight_shape[0], math.prod(weight_shape[1:])
    spatial = len(x_shape) - 2
    out_shape = (batch, outputs, *[1] * spatial)

    def element(row: tuple[Expr, Expr], k: Expr) -> tuple[Expr, ...]:
        if spatial == 1:
            return (row[1], k // x_shape[2], k % x_shape[2])
        return (row[1], k // (x_shape[2] * x_shape[3]), k // x_shape[3] % x_shape[2], k % x_shape[3])

    block, packed_shape, func = emit_rows_by_packed(
        RowSpace((), (batch,)),
        depth,
        outputs,
        x_shape,
        element,
        out_shape,
        lambda row, o: (row[1], o, *[0] * spatial),
        epilogue,
        extras,
        unit,
    )

    def pack(w: FloatArray) -> FloatArray:
        return pack_columns(w.reshape(outputs, depth).T, block)

    return Kernel(func, (None, pack), (x_shape, packed_shape), out_shape)


def _depthwise(
    batch: Dim,
    x_shape: tuple[Dim, ...],
    weight_shape: tuple[int, ...],
    window: Window,
    epilogue: Epilogue,
    extras: tuple[ExtraOperand, ...],
    unit: VectorUnit,
) -> Kernel:
    channels, outputs = x_shape[1], weight_shape[0]
    packed_shape = (outputs, window.taps)
    out_shape = (batch, outputs, *window.out_spatial)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_shape)
        weight = emit.arg("weight", packed_shape)
        extra = emit.extra_args(extras)
        out = emit.arg("out", out_shape)

        def multiply_add(acc: Expr, element: Expr, o: Expr, tap: int) -> Expr:
            return acc + element * emit.splat(weight[o, tap], unit.lanes)

        reduction = Reduction(0.0, 0.0, multiply_add)
        emit_windows(
            emit, batch, channels, outputs // channels, window, reduction, x, out, epilogue, extra, unit
        )

    def pack(w: FloatArray) -> FloatArray:
        return np.ascontiguousarray(w.reshape(packed_shape), dtype=np.float32)

    return Kernel(emit.func, (None, pack), (x_shape, packed_shape), out_shape)
