"""Interpolation along axes: the weights behind `nn.resize`, `nn.grid_sample` and `nn.roi_align`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._numpy import room_for

__all__ = ["align_regions", "axis_weights", "sample_grid", "source_coordinates"]


def source_coordinates(extent: int, out: int, scale: float, rule: str, window: tuple[float, float]) -> Any:
    """The real input coordinate of each of `out` output coordinates (ONNX's coordinate transformation modes)."""
    i = np.arange(out, dtype=np.float64)
    last = scale * extent - 1  # of the unrounded output extent
    if rule == "half_pixel":
        return (i + 0.5) / scale - 0.5
    if rule == "pytorch_half_pixel":
        return (i + 0.5) / scale - 0.5 if out > 1 else np.full(out, -0.5)
    if rule == "half_pixel_symmetric":
        adjust = out / (scale * extent)
        return extent / 2 * (1 - adjust) + (i + 0.5) / scale - 0.5
    if rule == "align_corners":
        return i * (extent - 1) / last if last > 0 and out > 1 else np.zeros(out)
    if rule == "asymmetric":
        return i / scale
    if rule == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    if rule == "tf_crop_and_resize":
        start, stop = window
        if out > 1:
            return start * (extent - 1) + i * (stop - start) * (extent - 1) / last
        return np.full(out, 0.5 * (start + stop) * (extent - 1))
    raise ValueError(f"unknown coordinate rule {rule!r}")


def _cubic(t: Any, a: float) -> Any:
    """Keys' cubic convolution kernel at distance t (Keys 1981)."""
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


_NEAREST: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda v: np.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def axis_weights(
    extent: int,
    out: int,
    scale: float,
    mode: str,
    rule: str,
    nearest: str,
    cubic: float,
    antialias: bool,
    exclude_outside: bool,
    window: tuple[float, float],
) -> tuple[Any, Any, Any]:
    """For each output coordinate: input indices [out, taps], their weights [out, taps], and whether it lies outside."""
    at = source_coordinates(extent, out, scale, rule, window)
    beyond = (at < 0) | (at > extent - 1) if rule == "tf_crop_and_resize" else np.zeros(out, dtype=bool)
    if mode == "nearest":
        return np.clip(_NEAREST[nearest](at), 0, extent - 1).astype(np.int64)[:, None], np.ones((out, 1)), beyond
    # a filter that shrinks must widen, so that every input element counts (antialias)
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = (2.0 if mode == "cubic" else 1.0) / stretch
    room_for((out, 2 * math.ceil(reach)))
    first = np.floor(at).astype(np.int64) - math.ceil(reach) + 1
    taps = first[:, None] + np.arange(2 * math.ceil(reach))[None]
    distance = (at[:, None] - taps) * stretch
    weight = _cubic(distance, cubic) if mode == "cubic" else np.maximum(0.0, 1 - np.abs(distance))
    if exclude_outside:
        weight = np.where((taps < 0) | (taps >= extent), 0.0, weight)
    if exclude_outside or antialias:
        weight = weight / weight.sum(1, keepdims=True)
    return np.clip(taps, 0, extent - 1), weight, beyond


def _reflect(x: Any, low: float, high: float) -> Any:
    span = high - low
    if span == 0:
        return np.zeros_like(x)
    folded = np.abs(x - low) % (2 * span)
    return low + np.where(folded > span, 2 * span - folded, folded)


def sample_grid(x: Any, grid: Any, mode: str, padding: str, align_corners: bool) -> Any:
    """See `nn.grid_sample`."""
    n, c, *extents = x.shape
    rank = len(extents)
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    places, borders = [], []
    for axis, d in enumerate(extents):
        g = grid[..., rank - 1 - axis].astype(np.float64)
        places.append((g + 1) / 2 * (d - 1) if align_corners else ((g + 1) * d - 1) / 2)
        borders.append((0.0, d - 1.0) if align_corners else (-0.5, d - 0.5))

    def settle(p: Any, axis: int) -> tuple[Any, Any]:
        """An index inside, and whether it counts."""
        d = extents[axis]
        if padding == "border":
            return np.clip(p, 0, d - 1), np.ones(p.shape, bool)
        if padding == "reflection":
            return np.clip(_reflect(p.astype(np.float64), *borders[axis]), 0, d - 1), np.ones(p.shape, bool)
        return np.clip(p, 0, d - 1), (p >= 0) & (p <= d - 1)

    if padding != "zeros" and mode != "cubic":  # the cubic kernel reads its taps where they fall, then folds each
        places = [settle(p, axis)[0] for axis, p in enumerate(places)]
    per_axis = []
    for axis, p in enumerate(places):
        if mode == "nearest":
            index = np.rint(p)
            taps = [(index, np.ones_like(p))]
        elif mode == "linear":
            base = np.floor(p)
            taps = [(base, 1 - (p - base)), (base + 1, p - base)]
        else:
            base = np.floor(p)
            taps = [(base + k, _cubic(p - base - k, -0.75)) for k in range(-1, 3)]
        settled = []
        for index, weight in taps:
            inside, counts = settle(index, axis)
            settled.append((np.rint(inside).astype(np.int64), weight * counts))
        per_axis.append(settled)
    batch = np.arange(n).reshape(n, *[1] * (grid.ndim - 2))
    total = np.zeros((n, *grid.shape[1:-1], c), dtype=dtype)
    for combination in itertools.product(*per_axis):
        weight = np.prod([w for _, w in combination], axis=0)
        total += x[(batch, slice(None), *[i for i, _ in combination])] * weight[..., None]
    return np.moveaxis(total, -1, 1)


def align_regions(
    x: Any, rois: Any, batch: Any, shape: tuple[int, int], mode: str, sampling: int, scale: float, half_pixel: bool
) -> Any:
    """See `nn.roi_align`."""
    height, width = x.shape[2:]
    out = np.zeros((len(rois), x.shape[1], *shape), dtype=np.float64)
    shift = 0.5 if half_pixel else 0.0
    for r, (roi, b) in enumerate(zip(rois.astype(np.float64), batch, strict=True)):
        x1, y1, x2, y2 = roi * scale - shift
        w, h = x2 - x1, y2 - y1
        if not half_pixel:
            w, h = max(w, 1.0), max(h, 1.0)
        bh, bw = h / shape[0], w / shape[1]
        sh = sampling if sampling > 0 else math.ceil(h / shape[0])
        sw = sampling if sampling > 0 else math.ceil(w / shape[1])
        room_for((x.shape[1], shape[0], sh, shape[1], sw))
        room_for((shape[0] * sh + shape[1] * sw, height + width))
        ys = y1 + bh * (np.arange(shape[0])[:, None] + (np.arange(sh) + 0.5)[None] / sh)  # [oh, sh]
        xs = x1 + bw * (np.arange(shape[1])[:, None] + (np.arange(sw) + 0.5)[None] / sw)
        rows, columns = _edge_weights(ys.ravel(), height), _edge_weights(xs.ravel(), width)
        if mode == "avg":
            values = np.einsum("cyx,ay,bx->cab", x[b].astype(np.float64), _dense(rows, height), _dense(columns, width))
            out[r] = values.reshape(-1, shape[0], sh, shape[1], sw).mean((2, 4))
        else:  # the largest single weighted corner, as ONNX defines it
            best = np.full((x.shape[1], len(ys.ravel()), len(xs.ravel())), -np.inf)
            for (iy, wy), (ix, wx) in itertools.product(rows, columns):
                best = np.maximum(best, x[b][:, iy][:, :, ix] * (wy[:, None] * wx[None]))
            out[r] = best.reshape(-1, shape[0], sh, shape[1], sw).max((2, 4))
    return out


def _edge_weights(p: Any, extent: int) -> list[tuple[Any, Any]]:
    """Lower and upper neighbour of each position with their weights; more than one pixel outside counts 0."""
    counts = (p >= -1) & (p <= extent)
    p = np.clip(p, 0, None)
    low = np.minimum(np.floor(p).astype(np.int64), extent - 1)
    high = np.minimum(low + 1, extent - 1)
    p = np.where(low >= extent - 1, extent - 1.0, p)
    fraction = p - low
    return [(low, (1 - fraction) * counts), (high, fraction * counts)]


def _dense(taps: list[tuple[Any, Any]], extent: int) -> Any:
    matrix = np.zeros((len(taps[0][0]), extent))
    for index, weight in taps:
        np.add.at(matrix, (np.arange(len(index)), index), weight)
    return matrix
