"""Attributes by kind and name, for ops without a sample of their own and for what samples leave open."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from ...op import Floats, Ints
from ...types import Bool, Elem, Float, Int
from .tape import Reject

if TYPE_CHECKING:
    from .site import Site

__all__ = ["drawn_attribute", "some_axes", "some_axis"]

_FLOATS = (0.5, 1e-5, 1.0, 0.25, 2.0, 0.1, -1.0, 3.0)
_BY_NAME = {"eps": (1e-5, 1e-3, 0.5), "alpha": (0.01, 0.5, 2.0, -0.5), "beta": (0.75, 0.5, 1.0), "size": (1, 2, 3)}


def some_axis(site: Site, rank: int) -> int:
    """An axis, from the end one time in three."""
    if rank == 0:
        raise Reject("an axis of a scalar")
    axis = site.below(rank)
    return axis - rank if site.below(3) == 2 else axis


def some_axes(site: Site, rank: int, most: int | None = None) -> tuple[int, ...]:
    """Some of the axes, at least one, sometimes from the end."""
    if rank == 0:
        return ()
    count = 1 + site.below(min(rank, most or rank))
    axes = list(range(rank))
    picked = sorted(axes.pop(site.below(len(axes))) for _ in range(count))
    return tuple(a - rank for a in picked) if site.below(4) == 3 else tuple(picked)


def drawn_attribute(site: Site, name: str) -> Any:
    """A value for an attribute; its default one time in three."""
    op = site.op
    kind = op.attrs[name]
    if name in op.defaults and site.below(3) == 0:
        return op.defaults[name]
    rank = len(site.peek(0) or ())
    if kind is bool:
        return site.below(2) == 1
    if name == "axis" and kind is int:
        return some_axis(site, rank)
    if name == "axes" and kind == Ints:
        return some_axes(site, rank)
    if name in _BY_NAME:
        return site.pick(_BY_NAME[name])
    if kind is float:
        return site.pick(_FLOATS + tuple(float(x) for x in site.drawing.hints.numbers if x == x))
    if kind is int:
        return site.pick((1, 2, 3, *site.drawing.hints.integers))
    if kind == Floats:
        return tuple(site.pick(_FLOATS) for _ in range(1 + site.below(4)))
    if kind is Elem or kind in (Float, Int, Bool) or set(typing.get_args(kind)) & {Float, Int, Bool}:
        return site.elem_attr(name)
    if name in op.defaults:
        return op.defaults[name]
    raise Reject(f"no sample of `{op.name}` says how to draw its attribute `{name}`")
