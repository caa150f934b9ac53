"""Converters of images and regions: resampling, sampling grids, regions of interest, boxes."""

from __future__ import annotations

import math
from typing import Any

from ....ir.dims import Extent, Shape, exact_div
from ....ir.graph import Value
from .call import Call, converter

_MODES = ("nearest", "linear", "cubic")
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_RULES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)  # fmt: skip


@converter("Upsample")
def upsample(c: Call) -> Value:
    if c.version < 7:
        scales: Any = (1.0, 1.0, c.attr("height_scale", 1.0), c.attr("width_scale", 1.0))
    else:
        scales = c.attrs.get("scales") if c.version < 9 else c.array(1)
    if scales is None:
        raise c.needs("the scales", 1)
    return _resized(
        c,
        c[0],
        tuple(float(s) for s in scales),
        None,
        c.choice("mode", "nearest", _MODES),
        "asymmetric",
        nearest="floor",
    )


@converter("Resize")
def resize(c: Call) -> Value:
    x = c[0]
    rank = len(x.type.shape)
    if c.version < 11:
        scales = c.array(1)
        if scales is None:
            raise c.needs("the scales", 1)
        return _resized(
            c,
            x,
            tuple(float(s) for s in scales),
            None,
            c.choice("mode", "nearest", _MODES),
            "asymmetric",
            nearest="floor",
        )
    scales_array, sizes = c.array(2), c.extents(3)
    has_scales = c.has(2) and not (scales_array is not None and scales_array.size == 0)
    if (has_scales and scales_array is None) or (not has_scales and sizes is None):
        raise c.needs("scales and sizes", 2, 3)
    axes = tuple(a % rank for a in (c.ints("axes") or range(rank)))
    scales = [1.0] * rank
    target: list[Any] = list(x.type.shape)
    if has_scales:
        if scales_array.shape != (len(axes),):
            raise c.fail(f"has scales of shape {list(scales_array.shape)} for {len(axes)} axes")
        for a, s in zip(axes, scales_array, strict=True):
            scales[a] = float(s)
        wanted = None
    else:
        assert sizes is not None
        target, scales = _sizes(c, x, axes, sizes)
        wanted = tuple(target)
    roi = None
    rule = c.choice("coordinate_transformation_mode", "half_pixel", _RULES)
    if rule == "tf_crop_and_resize":
        window = c.array(1)
        if window is None:
            raise c.needs("the region of interest", 1)
        full = [0.0] * rank + [1.0] * rank
        for i, a in enumerate(axes):
            full[a], full[a + rank] = float(window[i]), float(window[i + len(axes)])
        roi = tuple(full)
    return _resized(
        c, x, tuple(scales), wanted, c.choice("mode", "nearest", _MODES), rule,
        nearest=c.choice("nearest_mode", "round_prefer_floor", _ROUNDINGS), cubic=c.attr("cubic_coeff_a", -0.75),
        antialias=bool(c.attr("antialias", 0)), exclude_outside=bool(c.attr("exclude_outside", 0)), roi=roi,
        extrapolation=c.attr("extrapolation_value", 0.0),
    )  # fmt: skip


def _sizes(c: Call, x: Value, axes: tuple[int, ...], sizes: Shape) -> tuple[list[Extent], list[float]]:
    """Output extents and scales from `sizes`, the aspect ratio kept when asked for."""
    extents = x.type.shape
    if len(sizes) != len(axes):
        raise c.fail(f"has {len(sizes)} sizes for {len(axes)} axes")
    ratios = [_ratio(c, n, extents[a]) for a, n in zip(axes, sizes, strict=True)]
    policy = c.choice("keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
    target, scales = list(extents), [1.0] * len(extents)
    common = {"not_larger": min(ratios), "not_smaller": max(ratios)}.get(policy)
    for a, n, ratio in zip(axes, sizes, ratios, strict=True):
        extent = extents[a]
        if common is None:
            scales[a], target[a] = ratio, n
        elif isinstance(extent, int):
            scales[a], target[a] = common, math.floor(common * extent + 0.5)
        else:
            raise c.fail("keeps the aspect ratio of symbolic extents", hint="freeze the spatial extents")
    return target, scales


def _ratio(c: Call, wanted: Extent, extent: Extent) -> float:
    """By how much an axis grows; a symbolic one may stay as it is, or become a multiple."""
    if isinstance(wanted, int) and isinstance(extent, int):
        return wanted / extent
    times = exact_div(wanted, extent)
    if not isinstance(times, int):
        raise c.fail(f"resizes an axis of extent {extent} to {wanted}", hint="freeze the spatial extents")
    return float(times)


def _resized(
    c: Call, x: Value, scales: tuple[float, ...], wanted: tuple[Any, ...] | None, mode: str, rule: str, **options: Any
) -> Value:
    shape: list[Extent] = []
    if len(scales) != len(x.type.shape):
        raise c.fail(f"has {len(scales)} scales for {len(x.type.shape)} axes")
    for d, s in zip(x.type.shape, scales, strict=True):
        if s == 1.0:
            shape.append(d)
        elif isinstance(d, int):
            shape.append(math.floor(d * s))
        elif s == int(s):
            shape.append(d * int(s))
        else:
            raise c.fail(f"scales the symbolic extent {d} by {s}", hint="freeze the spatial extents")
    return c.emit("nn.resize", x, shape=wanted or tuple(shape), scales=scales, mode=mode, coordinates=rule, **options)


_GRID_MODES = {"bilinear": "linear", "linear": "linear", "bicubic": "cubic", "cubic": "cubic", "nearest": "nearest"}


@converter("GridSample")
def grid_sample(c: Call) -> Value:
    mode = c.choice("mode", "linear" if c.version >= 20 else "bilinear", _GRID_MODES)
    padding = c.choice("padding_mode", "zeros", ("zeros", "border", "reflection"))
    return c.emit(
        "nn.grid_sample",
        c[0],
        c[1],
        mode=_GRID_MODES[mode],
        padding=padding,
        align_corners=bool(c.attr("align_corners", 0)),
    )


@converter("RoiAlign")
def roi_align(c: Call) -> Value:
    default = "half_pixel" if c.version >= 16 else "output_half_pixel"
    half = c.choice("coordinate_transformation_mode", default, ("half_pixel", "output_half_pixel")) == "half_pixel"
    shape = (c.attr("output_height", 1), c.attr("output_width", 1))
    return c.emit(
        "nn.roi_align", c[0], c[1], c[2], shape=shape, mode=c.choice("mode", "avg", ("avg", "max")),
        sampling=c.attr("sampling_ratio", 0), scale=c.attr("spatial_scale", 1.0), half_pixel=half,
    )  # fmt: skip


@converter("Col2Im")
def col2im(c: Call) -> Value:
    image, block = c.numbers(1), c.numbers(2)
    if block is None or image is None:
        raise c.needs("image and block shape", 1, 2)
    options = {"strides": c.ints("strides"), "pads": c.ints("pads"), "dilations": c.ints("dilations")}
    return c.emit("nn.col2im", c[0], image=image, block=block, **options)


@converter("NonMaxSuppression")
def non_max_suppression(c: Call) -> Value:
    def scalar(i: int) -> Value | None:
        v = c.optional(i)
        return c.emit("shape.reshape", v, shape=()) if v is not None and v.type.shape else v

    return c.emit(
        "dyn.non_max_suppression",
        c[0],
        c[1],
        scalar(2),
        scalar(3),
        scalar(4),
        centre=bool(c.attr("center_point_box", 0)),
    )
