"""Samples for ops on images: resizing, sampling, regions, and what undoes windows; also determinants and sequences."""

from __future__ import annotations

import math

from .numbers import Domain
from .site import Site, number_of
from .tape import Reject

__all__ = ["col2im", "deform_conv", "det", "grid_sample", "max_unpool", "resize", "reverse_sequence", "roi_align"]


def resize(site: Site) -> None:
    x = site.shape(0, site.want if site.want else None, rank=1 + site.below(3))
    shape = site.attr("shape", lambda: tuple(number_of(d) * (1 + site.below(2)) for d in x))
    if len(shape) != len(x):
        raise Reject("another rank")
    site.attr("scales", lambda: tuple(float(number_of(o) / number_of(d)) for o, d in zip(shape, x, strict=True)))
    mode = site.attr("mode", lambda: site.pick(("nearest", "linear", "cubic")))
    site.attr("coordinates", lambda: site.pick(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")))
    site.attr("nearest", lambda: site.pick(("round_prefer_floor", "floor", "ceil", "round_prefer_ceil")))
    site.attr("cubic", lambda: -0.75)
    for name in ("antialias", "exclude_outside"):
        site.attr(name, lambda: mode != "nearest" and site.below(3) == 2)
    site.attr("roi", lambda: None)
    site.attr("extrapolation", lambda: 0.0)


def grid_sample(site: Site) -> None:
    x = site.shape(0, (None, None, None, None))
    site.shape(1, (x[0], 1 + site.below(3), 1 + site.below(3), 2), Domain(-1.25, 1.25))
    site.attr("mode", lambda: site.pick(("linear", "nearest", "cubic")))
    site.attr("padding", lambda: site.pick(("zeros", "border", "reflection")))


def roi_align(site: Site) -> None:
    x = site.shape(0, (None, None, 4, 4))
    count = 1 + site.below(2)
    site.shape(1, (count, 4), Domain(0, 3))
    site.shape(2, (count,), Domain(0, number_of(x[0]) - 1))
    site.attr("shape", lambda: (1 + site.below(2), 1 + site.below(2)))
    site.attr("mode", lambda: site.pick(("avg", "max")))
    site.attr("sampling", lambda: site.below(3))
    site.attr("scale", lambda: site.pick((1.0, 0.5)))


def col2im(site: Site) -> None:
    image = site.attr("image", lambda: (2 + site.below(3), 2 + site.below(3)))
    block = site.attr("block", lambda: (1 + site.below(2), 1 + site.below(2)))
    columns = math.prod(d - b + 1 for d, b in zip(image, block, strict=True))
    site.shape(0, (None, math.prod(block) * (1 + site.below(2)), columns))
    for name in ("strides", "pads", "dilations"):
        site.attr(name, lambda: None)


def max_unpool(site: Site) -> None:
    x = site.shape(0, (None, None, 1 + site.below(2), 1 + site.below(2)))
    shape = site.attr("shape", lambda: (*x[:2], *[2 * number_of(d) for d in x[2:]]))
    site.shape(1, x, Domain(0, math.prod(number_of(d) for d in shape) - 1))


def deform_conv(site: Site) -> None:
    x = site.shape(0, (None, None, 2 + site.below(3), 2 + site.below(3)))
    if len(x) != 4:
        raise Reject("two spatial axes are needed")
    window = (1 + site.below(2), 1 + site.below(2))
    w = site.shape(1, (None, x[1], *window))
    out = tuple(number_of(d) - number_of(k) + 1 for d, k in zip(x[2:], w[2:], strict=True))
    elements = math.prod(number_of(k) for k in w[2:])
    site.shape(2, (x[0], 2 * elements, *out), Domain(-1, 1))
    if site.present(3):
        site.shape(3, (w[0],))
    if site.present(4):
        site.shape(4, (x[0], elements, *out), Domain(0, 1))
    for name, value in (("strides", None), ("pads", None), ("dilations", None), ("g", 1), ("offset_groups", 1)):
        site.attr(name, lambda value=value: value)  # type: ignore[misc]


def det(site: Site) -> None:
    n = 1 + site.below(3)
    site.shape(0, (*site.drawing.filled(site.want if site.want is not None else None, site.below(2)), n, n))


def reverse_sequence(site: Site) -> None:
    x = site.shape(0, site.want if site.want and len(site.want) > 1 else None, rank=2 + site.below(2))
    time = site.attr("time_axis", lambda: site.below(2))
    batch = site.attr("batch_axis", lambda: 1 - time)
    if max(time, batch) >= len(x) or time == batch:
        raise Reject("no such axes")
    site.shape(1, (x[batch],), Domain(0, number_of(x[time])))
