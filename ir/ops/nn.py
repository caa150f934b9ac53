"""`nn`: the heavy operations of networks. Activations are `[N, C, *spatial]`, weights `[M, C/g, *window]`, as in ONNX.

Pads list all befores, then all afters. Narrow floats accumulate in f32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dims import Extent, Shape, size
from ..op import Floats, Ints, ShapeAttr, bilinear, linear, lipschitz, monotone, op
from ._numpy import at_least_f32, low_precision, pad_spatial, room_for, windows


def _ones(value: Any, rank: int) -> tuple[int, ...]:
    return (1,) * rank if value is None else tuple(value)


def _wide(*arrays: Any) -> tuple[Any, ...]:
    """Narrow floats in f32."""
    return tuple(a if a is None else a.astype(np.float32) if low_precision(a.dtype) else a for a in arrays)


def _accumulators(*arrays: Any) -> tuple[Any, ...]:
    """Operands of a product in the type it is summed in: f32 for f16 and bf16, f64 for f32.

    Twice as exact as any backend, and the result does not depend on how BLAS blocks the sum.
    """
    wide = {np.dtype(np.float32): np.float64}
    return tuple(
        a
        if a is None
        else a.astype(np.float32)
        if low_precision(a.dtype)
        else a.astype(wide.get(a.dtype, a.dtype), copy=False)
        for a in arrays
    )


# --- products -------------------------------------------------------------------------------------------------------


def _matmul_flops(a: Shape, b: Shape, **_: Any) -> Extent:
    columns = b[-1] if len(b) > 1 else 1
    batch = size(b[:-2]) if len(b) > len(a) else 1
    return 2 * size(a) * columns * batch


@op("nn.matmul", "a: N[*A], b: N[*B] -> N[*matmul_shape(A, B)]", bilinear("a", "b"), flops=_matmul_flops)
def matmul(a, b):
    """Matrix product of the last two axes, leading axes broadcast; vectors as NumPy's matmul takes them."""
    x, y = _accumulators(a, b)
    return np.asarray(np.matmul(x, y)).astype(a.dtype, copy=False)


def _conv_flops(
    x: Shape,
    w: Shape,
    b: Shape | None = None,
    *,
    strides: Any = None,
    pads: Any = None,
    dilations: Any = None,
    g: int = 1,
) -> Extent:
    from ..shapes import window

    out = window(x[2:], w[2:], strides=strides, pads=pads, dilations=dilations)
    return 2 * x[0] * size(out) * size(w)


@op(
    "nn.conv",
    "x: N[N, g*C, *S], w: N[M, C, *K], b: N[M]? -> N[N, M, *window(S, K)]",
    bilinear("x", "w"),
    flops=_conv_flops,
)
def conv(
    x, w, b=None, *, strides: Ints | None = None, pads: Ints | None = None, dilations: Ints | None = None, g: int = 1
):
    """Slide `w` over the spatial axes of `x` in `g` groups of channels (cross-correlation), add `b` per channel."""
    rank = w.ndim - 2
    dtype, n = x.dtype, x.shape[0]
    w, b = _accumulators(w, b)
    # im2col multiplies the data by the window's size: a part of the batch at a time keeps it in memory
    part = max(1, _IM2COL_ELEMENTS // max(1, x[0].size * math.prod(w.shape[2:]))) if n else 1
    out = [_conv_part(x[i : i + part], w, strides, pads, dilations, g) for i in range(0, max(n, 1), part)]
    y = np.concatenate(out) if len(out) > 1 else out[0]
    if b is not None:
        y = y + b.reshape(-1, *[1] * rank)
    return y.astype(dtype, copy=False)


_IM2COL_ELEMENTS = 1 << 24


def _conv_part(x: Any, w: Any, strides: Any, pads: Any, dilations: Any, g: int) -> Any:
    rank = w.ndim - 2
    (x,) = _accumulators(x)
    view = windows(pad_spatial(x, pads, 0), w.shape[2:], _ones(strides, rank), _ones(dilations, rank))
    n, spatial, m = x.shape[0], view.shape[2 : 2 + rank], w.shape[0]
    if w.shape[1] == 1 and g == m == x.shape[1]:  # depthwise: no matrix product in it
        axes = "uvwxyz"[:rank]
        return np.einsum(f"nc...{axes},c{axes}->nc...", view, w[:, 0], optimize=False)
    columns = np.moveaxis(view, 1, 1 + rank).reshape(n, math.prod(spatial), g, -1)  # [N, O, g, C/g*K]
    kernel = w.reshape(g, m // g, -1)
    y = np.matmul(columns.transpose(0, 2, 1, 3), kernel.transpose(0, 2, 1)[None])  # [N, g, O, M/g]
    return y.transpose(0, 1, 3, 2).reshape(n, m, *spatial)


@op(
    "nn.conv_transpose",
    "x: N[N, C, *S], w: N[C, M, *K], b: N[O]? -> N[N, groups_times(M), *transposed_window(S, K)]",
    bilinear("x", "w"),
)
def conv_transpose(
    x,
    w,
    b=None,
    *,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    output_pads: Ints | None = None,
    g: int = 1,
):
    """The gradient of `nn.conv` with respect to its input: every element of x adds a scaled window to the result."""
    rank = w.ndim - 2
    dtype = x.dtype
    x, w, b = _accumulators(x, w, b)
    step, gap, extra = _ones(strides, rank), _ones(dilations, rank), tuple(output_pads or (0,) * rank)
    pads = tuple(pads or (0,) * (2 * rank))
    n, c, m = x.shape[0], x.shape[1], w.shape[1]
    full = [
        (d - 1) * s + e * (k - 1) + 1 + o
        for d, s, e, k, o in zip(x.shape[2:], step, gap, w.shape[2:], extra, strict=True)
    ]
    room_for((n, g * m, *full))
    y = np.zeros((n, g * m, *full), dtype=x.dtype)
    grouped = x.reshape(n, g, c // g, -1)
    for at in np.ndindex(*w.shape[2:]):
        kernel = w[(slice(None), slice(None), *at)].reshape(g, c // g, m)
        part = np.einsum("ngci,gcm->ngmi", grouped, kernel).reshape(n, g * m, *x.shape[2:])
        where = tuple(
            slice(a * e, a * e + (d - 1) * s + 1, s) for a, e, d, s in zip(at, gap, x.shape[2:], step, strict=True)
        )
        y[(slice(None), slice(None), *where)] += part
    # a negative pad widens: the result has zeros there
    y = np.pad(y, [(0, 0), (0, 0), *[(max(-pads[i], 0), max(-pads[i + rank], 0)) for i in range(rank)]])
    y = y[
        (
            slice(None),
            slice(None),
            *[slice(max(pads[i], 0), y.shape[2 + i] - max(pads[i + rank], 0)) for i in range(rank)],
        )
    ]
    if b is not None:
        y = y + b.reshape(-1, *[1] * rank)
    return y.astype(dtype, copy=False)


@op(
    "nn.deform_conv",
    "x: F[N, g*C, *S], w: F[M, C, *K], offset: F[N, O, *P], b: F[M]?, mask: F[N, Q, *P]? -> F[N, M, *window(S, K)]",
)
def deform_conv(
    x,
    w,
    offset,
    b=None,
    mask=None,
    *,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    g: int = 1,
    offset_groups: int = 1,
):
    """A convolution whose window elements are displaced by `offset` and weighted by `mask` (Zhu et al. 2019)."""
    step, gap, pads = _ones(strides, 2), _ones(dilations, 2), tuple(pads or (0, 0, 0, 0))
    dtype = x.dtype
    x, w, offset, b, mask = _wide(x, w, offset, b, mask)
    n, c = x.shape[:2]
    m, _, kh, kw = w.shape
    oh, ow = offset.shape[2:]
    offset = offset.reshape(n, offset_groups, kh * kw, 2, oh, ow)
    mask = (
        np.ones((n, offset_groups, kh * kw, oh, ow), x.dtype)
        if mask is None
        else mask.reshape(n, offset_groups, kh * kw, oh, ow)
    )
    rows = (np.arange(oh) * step[0] - pads[0])[:, None]
    columns = (np.arange(ow) * step[1] - pads[1])[None, :]
    samples = np.zeros((n, c, kh * kw, oh, ow), x.dtype)
    per = c // offset_groups
    for i in range(kh):
        for j in range(kw):
            k = i * kw + j
            for group in range(offset_groups):
                y = rows + i * gap[0] + offset[:, group, k, 0]
                z = columns + j * gap[1] + offset[:, group, k, 1]
                part = _bilinear_zero(x[:, group * per : (group + 1) * per], y, z)
                samples[:, group * per : (group + 1) * per, k] = part * mask[:, group, k][:, None]
    grouped = samples.reshape(n, g, c // g * kh * kw, oh * ow)
    out = np.einsum("ngki,gmk->ngmi", grouped, w.reshape(g, m // g, -1)).reshape(n, m, oh, ow)
    return (out if b is None else out + b.reshape(-1, 1, 1)).astype(dtype)


def _bilinear_zero(x: Any, y: Any, z: Any) -> Any:
    """x[N, C, H, W] at real positions (y, z)[N, h, w], zeros outside."""
    n, _, height, width = x.shape
    batch = np.arange(n)[:, None, None]
    y0, z0 = np.floor(y).astype(np.int64), np.floor(z).astype(np.int64)
    total: Any = 0
    for dy in (0, 1):
        for dz in (0, 1):
            yy, zz = y0 + dy, z0 + dz
            weight = (1 - np.abs(y - yy)) * (1 - np.abs(z - zz))
            inside = (yy >= 0) & (yy < height) & (zz >= 0) & (zz < width)
            value = x[batch, :, np.clip(yy, 0, height - 1), np.clip(zz, 0, width - 1)]  # [N, h, w, C]
            total = total + np.moveaxis(value, -1, 1) * (weight * inside)[:, None]
    return total


# --- pooling --------------------------------------------------------------------------------------------------------


def _pool_pads(
    x: Any, kernel: Ints, strides: Any, pads: Any, dilations: Any, ceil: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pads that make room for every window (`ceil` may reach past the given ones), and the output extents."""
    from ..shapes import pool

    rank = len(kernel)
    step, gap, given = _ones(strides, rank), _ones(dilations, rank), tuple(pads or (0,) * (2 * rank))
    out = pool(x.shape[2:], kernel=kernel, strides=step, pads=given, dilations=gap, ceil=ceil)
    after = [
        max(given[rank + i], (o - 1) * step[i] + gap[i] * (kernel[i] - 1) + 1 - x.shape[2 + i] - given[i])
        for i, o in enumerate(out)
    ]
    return (*given[:rank], *after), tuple(out)


def _pooled(x: Any, kernel: Ints, strides: Any, pads: Any, dilations: Any, ceil: bool, fill: Any) -> Any:
    rank = len(kernel)
    room, out = _pool_pads(x, kernel, strides, pads, dilations, ceil)
    view = windows(pad_spatial(x, room, fill), kernel, _ones(strides, rank), _ones(dilations, rank))
    view = view[(slice(None), slice(None), *[slice(0, o) for o in out])]
    room_for(view.shape)
    return view.reshape(*view.shape[: 2 + rank], -1)


_POOL = "x: {0}[N, C, *S] -> {0}[N, C, *pool(S)]"


def _lowest(dtype: Any) -> Any:
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


@op("nn.max_pool", _POOL.format("N"), monotone("x"), lipschitz(1))
def max_pool(
    x,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil: bool = False,
):
    """Largest element of each window; padding never wins."""
    return _pooled(x, kernel, strides, pads, dilations, ceil, _lowest(x.dtype)).max(-1)


@op("nn.max_pool_indices", "x: N[N, C, *S] -> i64[N, C, *pool(S)]")
def max_pool_indices(
    x,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil: bool = False,
    column_major: bool = False,
):
    """Where `nn.max_pool` found its element: the flat index into x, spatial axes in row-major (column-major) order."""
    rank = len(kernel)
    spatial = x.shape[2:]
    order = "F" if column_major else "C"
    flat = (
        np.arange(math.prod(x.shape[:2]))[:, None] * math.prod(spatial)
        + np.arange(math.prod(spatial)).reshape(spatial, order=order).ravel()[None]
    )
    index = flat.reshape(x.shape)
    values = _pooled(x, kernel, strides, pads, dilations, ceil, _lowest(x.dtype))
    where = _pooled(index, kernel, strides, pads, dilations, ceil, -1)
    values = np.where(where < 0, _lowest(x.dtype), values)
    best = np.argmax(values, axis=-1)
    del rank
    return np.take_along_axis(where, best[..., None], axis=-1)[..., 0]


@op("nn.max_unpool", "x: N[N, C, *S], indices: i64[N, C, *S] -> N[*attribute_shape()]")
def max_unpool(x, indices, *, shape: ShapeAttr):
    """Zeros of `shape` with x at its flat `indices`."""
    y = np.zeros(math.prod(shape), dtype=x.dtype)
    y[indices.ravel()] = x.ravel()
    return y.reshape(shape)


@op("nn.avg_pool", _POOL.format("F"), linear("x"), lipschitz(1))
def avg_pool(
    x,
    *,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil: bool = False,
    count_pads: bool = False,
):
    """Mean of each window over the elements that are data, or with `count_pads` also over the padding of `pads`."""
    wide = _wide(x)[0]
    total = _pooled(wide, kernel, strides, pads, dilations, ceil, 0).sum(-1)
    ones = np.ones((1, 1, *x.shape[2:]), dtype=wide.dtype)
    rank = len(kernel)
    if count_pads:
        ones = pad_spatial(ones, pads, 1)
        room, _ = _pool_pads(x, kernel, strides, pads, dilations, ceil)
        given = tuple(pads or (0,) * (2 * rank))
        extra = (0,) * rank + tuple(room[rank + i] - given[rank + i] for i in range(rank))
        ones = pad_spatial(ones, extra, 0)
        count = windows(ones, kernel, _ones(strides, rank), _ones(dilations, rank))
        count = (
            count[(slice(None), slice(None), *[slice(0, o) for o in total.shape[2:]])]
            .reshape(*total.shape[2:], -1)
            .sum(-1)[None, None]
        )
    else:
        count = _pooled(ones, kernel, strides, pads, dilations, ceil, 0).sum(-1)
    return (total / count).astype(x.dtype)


@op("nn.lp_pool", _POOL.format("F"))
def lp_pool(
    x,
    *,
    kernel: Ints,
    p: int = 2,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil: bool = False,
):
    """p-norm of each window."""
    wide = np.abs(_wide(x)[0])
    return (_pooled(wide, kernel, strides, pads, dilations, ceil, 0) ** p).sum(-1).astype(x.dtype) ** x.dtype.type(
        1 / p
    )


# --- normalisation --------------------------------------------------------------------------------------------------


@op("nn.batch_norm", "x: F[N, C, *S], scale: F2[C], bias: F2[C], mean: F3[C], var: F3[C] -> F[N, C, *S]", linear("x"))
def batch_norm(x, scale, bias, mean, var, *, eps: float = 1e-5):
    """(x - mean) / sqrt(var + eps) * scale + bias per channel: inference (Ioffe & Szegedy 2015)."""
    wide = np.float64 if x.dtype == np.float64 else np.float32
    scale, bias, mean, var = (v.astype(wide).reshape(-1, *[1] * (x.ndim - 2)) for v in (scale, bias, mean, var))
    return ((x.astype(wide) - mean) / np.sqrt(var + wide(eps)) * scale + bias).astype(x.dtype)


@op("nn.layer_norm", "x: F[*S], scale: F[*A], bias: F[*B]? -> F[*S]")
def layer_norm(x, scale, bias=None, *, axis: int = -1, eps: float = 1e-5):
    """(x - mean) / sqrt(variance + eps) * scale + bias over `axis` and all after it (Ba et al. 2016)."""
    (wide,) = _wide(x)
    axes = tuple(range(axis % x.ndim, x.ndim))
    centred = wide - wide.mean(axes, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + wide.dtype.type(eps))
    y = y.astype(x.dtype) * scale
    return y if bias is None else y + bias


@op("nn.lrn", "x: F[N, C, *S] -> F[N, C, *S]")
def lrn(x, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0):
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta (Krizhevsky et al. 2012)."""
    before = min((size - 1) // 2, x.shape[1])  # what lies further out is nothing
    after = min(size - 1 - (size - 1) // 2, x.shape[1])
    square = np.pad(x * x, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    total = sum(square[:, i : i + x.shape[1]] for i in range(before + after + 1))
    return (x / (bias + alpha / size * total) ** beta).astype(x.dtype)


# --- activations with an axis ---------------------------------------------------------------------------------------


@op("nn.softmax", "x: F[*S] -> F[*S]", lipschitz(1))
@at_least_f32
def softmax(x, *, axis: int = -1):
    """exp(x) over its sum along `axis`, shifted by the largest element so that nothing overflows."""
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@op("nn.log_softmax", "x: F[*S] -> F[*S]")
@at_least_f32
def log_softmax(x, *, axis: int = -1):
    """The logarithm of softmax, computed without taking it of small numbers."""
    y = x - x.max(axis, keepdims=True)
    return y - np.log(np.exp(y).sum(axis, keepdims=True))


@op("nn.hardmax", "x: F[*S] -> F[*S]")
def hardmax(x, *, axis: int = -1):
    """1 at the first largest element along `axis`, 0 elsewhere."""
    y = np.zeros_like(x)
    np.put_along_axis(y, np.argmax(x, axis=axis, keepdims=True), x.dtype.type(1), axis=axis)
    return y


@op("nn.gelu", "x: F[*S] -> F[*S]")
@at_least_f32
def gelu(x, *, approximate: bool = False):
    """x times the normal distribution function, or its tanh approximation (Hendrycks & Gimpel 2016)."""
    if approximate:
        return (
            x
            * x.dtype.type(0.5)
            * (1 + np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)))
        )
    from .math import erf

    return x * x.dtype.type(0.5) * (1 + erf.function(x * x.dtype.type(math.sqrt(0.5))))


# --- images ---------------------------------------------------------------------------------------------------------


@op("nn.resize", "x: N[*S] -> N[*resized(S)]")
def resize(
    x,
    *,
    shape: ShapeAttr,
    scales: Floats,
    mode: str = "nearest",
    coordinates: str = "half_pixel",
    nearest: str = "round_prefer_floor",
    cubic: float = -0.75,
    antialias: bool = False,
    exclude_outside: bool = False,
    roi: Floats | None = None,
    extrapolation: float = 0.0,
):
    """Interpolation to `shape`, axis by axis; the attributes are those of ONNX's Resize (opset 19).

    Each output coordinate is mapped to the input by `coordinates` with `scales` (output over input extent), then `mode`
    nearest, linear or cubic weighs the neighbours. Integer results are rounded as casts do.
    """
    from ._resize import axis_weights

    y = x if x.dtype.kind in "iu" and mode == "nearest" else x.astype(np.float64)
    outside: Any = None
    for axis in range(x.ndim):
        if shape[axis] == x.shape[axis] and scales[axis] == 1.0 and coordinates != "tf_crop_and_resize":
            continue
        window = (0.0, 1.0) if roi is None else (roi[axis], roi[axis + x.ndim])
        index, weight, beyond = axis_weights(
            x.shape[axis],
            int(shape[axis]),
            scales[axis],
            mode,
            coordinates,
            nearest,
            cubic,
            antialias,
            exclude_outside,
            window,
        )
        taken = np.take(y, index.ravel(), axis=axis)
        taken = np.moveaxis(taken, axis, -1).reshape(*[d for i, d in enumerate(y.shape) if i != axis], *index.shape)
        line = taken[..., 0] if index.shape[1] == 1 and mode == "nearest" else (taken * weight).sum(-1)
        y = np.moveaxis(line, -1, axis)
        if beyond.any():
            mark = beyond.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
            outside = mark if outside is None else outside | mark
    if outside is not None:
        y = np.where(outside, extrapolation, y)
    return y.astype(x.dtype)


@op("nn.grid_sample", "x: F[N, C, *S], grid: F2[N, *P, R] -> F[N, C, *P]")
def grid_sample(x, grid, *, mode: str = "linear", padding: str = "zeros", align_corners: bool = False):
    """x read at the positions in `grid`, whose last axis holds coordinates in [-1, 1], the last spatial axis first.

    `mode` nearest, linear or cubic; `padding` zeros, border or reflection (Jaderberg et al. 2015).
    """
    from ._resize import sample_grid

    return sample_grid(x, grid, mode, padding, align_corners).astype(x.dtype)


@op("nn.roi_align", "x: F[N, C, H, W], rois: F[R, 4], batch: i64[R] -> F[R, C, *attribute_shape()]")
def roi_align(
    x,
    rois,
    batch,
    *,
    shape: ShapeAttr,
    mode: str = "avg",
    sampling: int = 0,
    scale: float = 1.0,
    half_pixel: bool = True,
):
    """Each region of interest of x pooled to `shape` from bilinear samples (He et al. 2017)."""
    from ._resize import align_regions

    return align_regions(x, rois, batch, tuple(int(s) for s in shape), mode, sampling, scale, half_pixel).astype(
        x.dtype
    )


@op("nn.col2im", "x: F[N, C, L] -> F[N, divided(C), *folded(L)]", linear("x"))
def col2im(
    x, *, image: Ints, block: Ints, strides: Ints | None = None, pads: Ints | None = None, dilations: Ints | None = None
):
    """Sums blocks (the columns of x) back into an image: the transpose of im2col."""
    rank = len(image)
    step, gap, pads = _ones(strides, rank), _ones(dilations, rank), tuple(pads or (0,) * (2 * rank))
    padded = [d + pads[i] + pads[i + rank] for i, d in enumerate(image)]
    counts = [(padded[i] - gap[i] * (block[i] - 1) - 1) // step[i] + 1 for i in range(rank)]
    channels = x.shape[1] // math.prod(block)
    room_for((x.shape[0], channels, *padded))
    columns = x.reshape(x.shape[0], channels, *block, *counts)
    y = np.zeros((x.shape[0], channels, *padded), dtype=x.dtype)
    for at in np.ndindex(*block):
        where = tuple(
            slice(a * e, a * e + (n - 1) * s + 1, s) for a, e, n, s in zip(at, gap, counts, step, strict=True)
        )
        y[(slice(None), slice(None), *where)] += columns[(slice(None), slice(None), *at)]
    return y[(slice(None), slice(None), *[slice(pads[i], pads[i] + d) for i, d in enumerate(image)])]


@op("nn.det", "x: F[*S] -> F[*matrix_batch(S)]")
def det(x):
    """Determinants of the matrices in the last two axes."""
    return np.asarray(np.linalg.det(x.astype(np.float64))).astype(x.dtype)
