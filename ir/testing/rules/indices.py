"""Samples for ops whose operands are indices into another: they lie within its extents, negative ones too."""

from __future__ import annotations

from ...dims import Extent, Shape
from .attributes import some_axis
from .numbers import Domain
from .site import UNSET, Site, Want, number_of
from .tape import Reject

__all__ = ["gather", "gather_elements", "gather_nd", "one_hot", "scatter_nd", "triangle"]


def _indexed(site: Site, extent: Extent) -> Domain:
    n = number_of(extent)
    return Domain(-n, n - 1) if site.below(2) else Domain(0, n - 1)


def gather(site: Site) -> None:
    want, given = site.want, site.given("axis")
    least = 1 if given is UNSET else max(given + 1, -given)
    shape = site.shape(0, rank=least + site.below(2) if want is None else max(least, len(want)))
    axis = site.attr("axis", lambda: some_axis(site, len(shape)))
    if not -len(shape) <= axis < len(shape):
        raise Reject("no such axis")
    index: Want = None if want is None else (want[axis % len(shape)],) if len(want) == len(shape) else None
    site.shape(1, index, _indexed(site, shape[axis % len(shape)]), rank=site.below(3))


def gather_elements(site: Site) -> None:
    shape = site.shape(0, rank=1 + site.below(2))
    axis = site.attr("axis", lambda: some_axis(site, len(shape)))
    if not -len(shape) <= axis < len(shape):
        raise Reject("no such axis")
    at = axis % len(shape)
    want = tuple(1 + site.below(3) if i == at else d for i, d in enumerate(shape))
    index = site.shape(1, want, _indexed(site, shape[at]))
    if len(site.values) > 2:
        site.shape(2, index)
        site.attr("reduction", lambda: site.pick(("none", "add", "max")))


def _index_tuples(site: Site, shape: Shape) -> Shape:
    """Indices into the first axes of `shape`: their shape, the last extent of which is how many axes they name."""
    depth = 1 + site.below(len(shape))
    least = min(number_of(d) for d in shape[:depth])
    index = site.shape(1, (1 + site.below(min(3, least)), depth), Domain(0, least - 1))
    if not index or number_of(index[-1]) > len(shape):
        raise Reject("more indices than axes")
    return index


def gather_nd(site: Site) -> None:
    site.attr("batch", lambda: 0)
    _index_tuples(site, site.shape(0, rank=1 + site.below(2)))


def scatter_nd(site: Site) -> None:
    want = site.want if site.want else None
    shape = site.shape(0, want, rank=1 + site.below(2))
    index = _index_tuples(site, shape)
    site.shape(2, (*index[:-1], *shape[number_of(index[-1]) :]))
    site.attr("reduction", lambda: site.pick(("none", "add", "max")))


def one_hot(site: Site) -> None:
    depth = site.attr("depth", lambda: 1 + site.below(3))
    site.shape(0, domain=Domain(-1, depth), rank=site.below(3))
    site.shape(1, (2,))
    site.attr("axis", lambda: -1)


def triangle(site: Site) -> None:
    site.shape(0, site.want if site.want is not None and len(site.want) > 1 else None, rank=2 + site.below(2))
    if site.present(1):
        site.shape(1, (), Domain(-2, 2))
