"""Max, average and global average pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .emit import Emitter
from .geometry import Axis, Window, make_window
from .kernel import AVX512, Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, identity, is_static
from .window import Reduction, channels_a_task, emit_windows

MAX_TAPS = 121
"""Windows are unrolled; larger ones belong to a generic reduction."""


def max_pool(
    x_shape: Sequence[Dim],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: bool = False,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """ONNX MaxPool (values only) on x[N, C, (H,) W]; N may be symbolic, nan wins. None for 3-D and large windows."""
    window = _pool_window(x_shape, kernel, strides, pads, dilations, ceil_mode)
    if window is None:
        return None
    emit = Emitter()
    reduction = Reduction(-math.inf, -math.inf, lambda acc, element, o, tap: emit.larger(acc, element, unit))
    return _pool(emit, x_shape, window, reduction, epilogue, extras, unit)


def average_pool(
    x_shape: Sequence[Dim],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    count_include_pad: bool = False,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """ONNX AveragePool without dilation or ceil_mode on x[N, C, (H,) W]; None as for `max_pool`."""
    window = _pool_window(x_shape, kernel, strides, pads, None, False)
    if window is None:
        return None
    emit = Emitter()
    padded = any(a.before or a.after for a in (window.rows, window.columns))

    def divide(acc: Expr, index: tuple[Expr, ...], extra: tuple[object, ...]) -> Expr:
        if count_include_pad or not padded:
            mean = acc * emit.const(1.0 / window.taps)
        else:
            count = _taps_inside(emit, window.columns, index[-1])
            if not window.is_1d:
                count = count * _taps_inside(emit, window.rows, index[-2])
            mean = acc / emit.to_float(count)
        return epilogue(mean, index, extra)

    reduction = Reduction(0.0, 0.0, lambda acc, element, o, tap: acc + element)
    return _pool(emit, x_shape, window, reduction, divide, extras, unit)


def global_average_pool(
    x_shape: Sequence[Dim],
    *,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """ONNX GlobalAveragePool of x[N, C, spatial..]; N may be symbolic, None if more is."""
    batch, *rest = tuple(x_shape)
    if len(rest) < 2 or not is_static(rest):
        return None
    channels, spatial = rest[0], rest[1:]
    length = math.prod(spatial)
    out_shape = (batch, channels, *[1] * len(spatial))
    lanes = unit.lanes
    whole, tail = divmod(length, lanes)
    group = channels_a_task(channels)

    def position(flat: Expr) -> tuple[Expr, ...]:
        index: list[Expr] = []
        for d in reversed(spatial[1:]):
            index.append(flat % d)
            flat = flat // d
        return (flat, *reversed(index))

    emit = Emitter()
    with emit.function():
        x = emit.arg("x", tuple(x_shape))
        extra = emit.extra_args(tuple(extras))
        out = emit.arg("out", out_shape)
        with emit.parallel(batch * (channels // group)) as task, emit.serial(group) as g:
            n, c = task // (channels // group), task % (channels // group) * group + g
            acc = emit.registers(lanes)
            with emit.lanes(lanes) as lane:
                emit.store(acc, [lane], emit.const(0.0))
            if whole:
                with emit.serial(whole) as i, emit.lanes(lanes) as lane:
                    emit.store(acc, [lane], acc[lane] + x[(n, c, *position(i * lanes + lane))])
            for lane in range(tail):
                emit.store(acc, [lane], acc[lane] + x[(n, c, *position(whole * lanes + lane))])
            sums = [acc[lane] for lane in range(lanes)]
            while len(sums) > 1:
                sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=True)]
            at = (n, c, *[0] * len(spatial))
            emit.store(out, at, epilogue(sums[0] * emit.const(1.0 / length), at, extra))
    return Kernel(emit.func, (None,), (tuple(x_shape),), out_shape)


def _pool_window(
    x_shape: Sequence[Dim],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None,
    ceil_mode: bool,
) -> Window | None:
    if len(x_shape) not in (3, 4) or not is_static(x_shape[1:]):
        return None
    window = make_window(x_shape[2:], kernel, strides, pads, dilations, ceil_mode)
    return window if window is not None and window.taps <= MAX_TAPS else None


def _taps_inside(emit: Emitter, axis: Axis, position: Expr) -> Expr:
    """Number of taps of an output position that lie inside the image."""
    start = position * axis.stride - axis.before
    return emit.min(start + axis.kernel, axis.size) - emit.max(start, 0)


def _pool(
    emit: Emitter,
    x_shape: Sequence[Dim],
    window: Window,
    reduction: Reduction,
    epilogue: Epilogue,
    extras: Sequence[ExtraOperand],
    unit: VectorUnit,
) -> Kernel:
    batch, channels = x_shape[0], x_shape[1]
    out_shape = (batch, channels, *window.out_spatial)
    with emit.function():
        x = emit.arg("x", tuple(x_shape))
        extra = emit.extra_args(tuple(extras))
        out = emit.arg("out", out_shape)
        emit_windows(emit, batch, channels, 1, window, reduction, x, out, epilogue, extra, unit)
    return Kernel(emit.func, (None,), (tuple(x_shape),), out_shape)
