"""Samples for ops that go along axes: reductions, scans, sorting."""

from __future__ import annotations

from ...dims import Extent
from ...shapes import normal_axes
from .attributes import some_axes, some_axis
from .site import UNSET, Site, Want, number_of
from .tape import Reject

__all__ = ["along", "argument", "reduce", "top_k"]


def reduce(site: Site) -> None:
    """Reductions: the reduced axes of the operand are free."""
    axes, keep, want = site.given("axes"), site.given("keepdims"), site.want
    if keep is UNSET:
        keep = site.attr("keepdims", lambda: site.below(2) == 0)
    inner: Want = None
    if want is not None and keep:
        inner = tuple(None if d == 1 else d for d in want)
    elif want is not None and not site.known(0):
        base: list[Extent | None] = list(want)
        count = len(axes) if isinstance(axes, tuple) else 1 + site.below(2)
        if axes is None:  # all of them
            new = tuple(range(len(base), len(base) + count))
        elif isinstance(axes, tuple):
            new = normal_axes(axes, len(base) + count)
        else:
            new = (site.below(len(base) + 1),)
        for a in sorted(new):
            base.insert(a, None)
        inner = tuple(base)
        if axes is UNSET:
            axes = new
    least = max((max(a + 1, -a) for a in axes), default=0) if isinstance(axes, tuple) else 0
    shape = site.shape(0, inner, rank=None if inner is not None else min(4, least + site.below(3)) if least else None)
    if inner is not None and keep and axes is UNSET and want is not None:
        axes = tuple(i for i, d in enumerate(want) if d == 1) or UNSET
    whole = site.below(4) == 0
    drawn = axes
    site.attr("axes", lambda: drawn if drawn is not UNSET else None if whole else some_axes(site, len(shape)))


def argument(site: Site) -> None:
    """argmax and argmin."""
    axis = site.given("axis")
    least = 1 if axis is UNSET else max(axis + 1, -axis)
    shape = site.shape(0, rank=least + site.below(2))
    site.attr("axis", lambda: some_axis(site, len(shape)))


def along(site: Site) -> None:
    """Ops that keep the shape and go along an axis."""
    axis = site.given("axis")
    least = 1 if axis is UNSET else max(axis + 1, -axis)
    want = site.want if site.want else None
    shape = site.shape(0, want, rank=least + site.below(2))
    site.attr("axis", lambda: some_axis(site, len(shape)))


def top_k(site: Site) -> None:
    axis = site.given("axis")
    least = 1 if axis is UNSET else max(axis + 1, -axis)
    shape = site.shape(0, rank=least + site.below(2))
    at = site.attr("axis", lambda: some_axis(site, len(shape)))
    if not -len(shape) <= at < len(shape):
        raise Reject("no such axis")
    site.attr("k", lambda: 1 + site.below(number_of(shape[at])))
