"""The weights of one layer, rounded: scales first, then codes by rounding to the nearest or by GPTQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.constants import Constant
from ...ir.types import Elem
from .formats import Format, search_scale
from .gptq import Moments, corrected, gptq
from .plan import Layer

__all__ = ["Rounded", "round_layer"]

POWERS = {"l2.4": 2.4, "mse": 2.0, "minmax": float("inf")}


@dataclass(frozen=True)
class Rounded:
    """Codes in the shape of the weights, what they mean, and the reals they stand for.

    `target` is what was rounded; `scale` and `zero` broadcast against it.
    """

    format: Format
    codes: Any
    elem: Elem
    real: Any
    target: Any
    scale: Any
    zero: Any


def round_layer(
    layer: Layer,
    form: Format,
    moments: Moments | None = None,
    *,
    per: str = "channel",
    group: int = 32,
    scales: str = "l2.4",
    symmetric: bool = True,
) -> Rounded:
    """The weights of `layer` in `form`. With `moments` by GPTQ, else each to the nearest."""
    w = layer.matrix(layer.weights)
    w = w if moments is None else corrected(w, moments)
    per = "channel" if per == "group" and (layer.is_conv or form.name in ("binary", "pow2")) else per
    scale, zero = _scales(w, form, per, group, POWERS[scales], symmetric or not form.integer)
    if moments is None:
        real = form.round(w, scale, zero)
    else:
        spread, shift = np.broadcast_to(scale, w.shape), np.broadcast_to(zero, w.shape)
        all_groups = np.arange(len(w))

        def rounded(column: Any, index: Any) -> Any:
            return form.round(column, spread[all_groups, :, index], shift[all_groups, :, index])

        real = gptq(w, moments.damped(), rounded)
    codes = form.codes(real, scale, zero)
    elem = _elem(layer, form, scale, zero, per, group)
    arrays = [np.broadcast_to(a, w.shape) for a in (codes, real, w, scale, zero)]
    codes, real, w, scale, zero = (np.ascontiguousarray(layer.unmatrix(a)) for a in arrays)
    return Rounded(form, codes, elem, real, w, scale, zero)


def _scales(w: Any, form: Format, per: str, group: int, p: float, symmetric: bool) -> tuple[Any, Any]:
    """Scale and zero point (as reals), broadcasting against w: f32[G, M, K]."""
    if per == "group":
        size = w.shape[2]
        pieces = [w[:, :, i : i + group] for i in range(0, size, group)]
        found = [_scales(piece, form, "channel", group, p, symmetric) for piece in pieces]
        widths = [piece.shape[2] for piece in pieces]
        scale, zero = (np.repeat(np.concatenate([f[i] for f in found], 2), widths, 2) for i in (0, 1))
        return scale, zero
    axes = (0, 1, 2) if per == "tensor" or form.name == "pow2" else (2,)
    if symmetric:
        scale = search_scale(w, form, axes, p)
        return scale, np.zeros_like(scale)
    return _asymmetric(w, form, axes, p)


def _asymmetric(w: Any, form: Format, axes: tuple[int, ...], p: float) -> tuple[Any, Any]:
    """Like `search_scale`, with the extremes of both signs drawn in alike."""
    low = np.minimum(w.min(axis=axes, keepdims=True), 0)
    high = np.maximum(w.max(axis=axes, keepdims=True), 0)
    high = np.where(high > low, high, low + 1)
    top = np.maximum(high, -low)
    best_scale, best_zero, loss = None, None, np.full(low.shape, np.inf, np.float32)
    for share in (1.0,) if p == float("inf") else np.linspace(1.0, 0.3, 50):
        scale = ((high - low) * share / (form.high - form.low)).astype(np.float32)
        zero = np.clip(form.low - np.rint(low * share / scale), form.low, form.high).astype(np.float32)
        gap = np.abs(form.round(w, scale, zero) - w) / top
        cost = gap.max(axis=axes, keepdims=True) if p == float("inf") else (gap**p).sum(axis=axes, keepdims=True)
        better = cost < loss
        best_scale = scale if best_scale is None else np.where(better, scale, best_scale)
        best_zero = zero if best_zero is None else np.where(better, zero, best_zero)
        loss = np.minimum(cost, loss)
    return best_scale, best_zero


def _elem(layer: Layer, form: Format, scale: Any, zero: Any, per: str, group: int) -> Elem:
    """The element type, with scales in the shapes that it wants."""
    shape = layer.weights.shape
    store_zero = zero.astype(np.int8)
    if scale.size == 1:
        return form.elem(float(scale.reshape(-1)[0]), int(store_zero.reshape(-1)[0]))
    name = f"{layer.node.inputs[1].name or layer.name}"  # type: ignore[union-attr]
    if per == "group":  # [1, N, K] to one row per group: [K / group, N]
        rows, zeros = (np.ascontiguousarray(a[0, :, ::group].T).reshape(-1, *shape[1:]) for a in (scale, store_zero))
        axis, length = 0, group
    else:
        rows, zeros, axis, length = (
            scale.reshape(shape[layer.axis]),
            store_zero.reshape(shape[layer.axis]),
            layer.axis,
            None,
        )
    points: Any = Constant(zeros, f"{name}.zero") if zero.any() else 0
    return form.elem(Constant(rows.astype(np.float32), f"{name}.scale"), points, axis, length)
