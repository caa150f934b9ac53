"""Convolution of plain images and signals: picks the template for a shape.

Images that pass between kernels lie in blocks of channels (`blocked/`); what comes here are signals, images of a pixel,
images of few channels, and groups that make no blocks.
"""

from __future__ import annotations

import math

import numpy as np

from .conv_band import conv_band
from .conv_call import ConvCall
from .emit import Emitter
from .geometry import Window
from .kernel import Expr, FloatArray, Kernel
from .matmul import RowSpace, emit_rows_by_packed, pack_columns
from .window import Reduction, emit_windows

MAX_DEPTHWISE_TAPS = 121
"""Depthwise windows are unrolled; larger ones go through the general template."""


def conv(call: ConvCall) -> Kernel:
    """The kernel of a convolution of plain images or signals."""
    if call.is_depthwise and call.window.taps <= MAX_DEPTHWISE_TAPS:
        return _depthwise(call)
    if call.groups == 1 and _is_fully_connected(call.window):
        return _fully_connected(call)
    return conv_band(call)


def _is_fully_connected(window: Window) -> bool:
    """Whether the kernel covers the whole image exactly, as a 1x1 one after global pooling does."""
    axes = (window.rows, window.columns)
    return all(a.kernel == a.size and a.dilation == 1 and a.before == a.after == 0 for a in axes)


def _fully_connected(call: ConvCall) -> Kernel:
    x_shape, outputs, depth = call.x_shape, call.outputs, math.prod(call.weight_shape[1:])
    spatial = len(x_shape) - 2

    def element(row: tuple[Expr, Expr], k: Expr) -> tuple[Expr, ...]:
        if spatial == 1:
            return (row[1], k // x_shape[2], k % x_shape[2])
        return (row[1], k // (x_shape[2] * x_shape[3]), k // x_shape[3] % x_shape[2], k % x_shape[3])

    block, packed_shape, func = emit_rows_by_packed(
        RowSpace((), (call.batch,)),
        depth,
        outputs,
        x_shape,
        element,
        call.out_shape,
        lambda row, o: (row[1], o, *[0] * spatial),
        call.epilogue,
        call.extras,
        call.unit,
        call.rank,
    )

    def pack(w: FloatArray) -> FloatArray:
        return pack_columns(w.reshape(outputs, depth).T, block)

    return Kernel(func, (None, pack), (x_shape, packed_shape), call.out_shape)


def _depthwise(call: ConvCall) -> Kernel:
    channels, outputs, unit = call.channels, call.outputs, call.unit
    packed_shape = (outputs, call.window.taps)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", call.x_shape)
        weight = emit.arg("weight", packed_shape)
        extra = emit.extra_args(call.extras)
        out = emit.arg("out", call.out_shape)

        def multiply_add(acc: Expr, element: Expr, o: Expr, tap: int) -> Expr:
            return acc + element * emit.splat(weight[o, tap], unit.lanes)

        reduction = Reduction(0.0, 0.0, multiply_add)
        multiplier = outputs // channels
        emit_windows(emit, call.batch, channels, multiplier, call.window, reduction, x, out, call.epilogue, extra, unit)

    def pack(w: FloatArray) -> FloatArray:
        return np.ascontiguousarray(w.reshape(packed_shape), dtype=np.float32)

    return Kernel(emit.func, (None, pack), (call.x_shape, packed_shape), call.out_shape)
