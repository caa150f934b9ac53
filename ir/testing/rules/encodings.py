"""Samples for ops between numbers and their bits."""

from __future__ import annotations

from ...types import Affine, Float, Int, elem_of
from .generic import generic
from .site import Site
from .tape import Reject

__all__ = ["bitcast", "load", "store"]


_BITS: tuple[Float | Int, ...] = (
    *map(Float, ("f32", "f16", "f64")),
    *map(Int, ("i32", "i16", "i64", "i8", "u8")),
)


def bitcast(site: Site) -> None:
    generic(site)
    dtype = site.elem(0).dtype
    same = [e for e in _BITS if e.dtype.itemsize == dtype.itemsize]
    if dtype.kind == "b":
        raise Reject("booleans have no bits to look at")
    site.attr("to", lambda: site.pick(same))


def store(site: Site) -> None:
    generic(site)
    site.attr("to", lambda: elem_of(site.elem(0).dtype))


def load(site: Site) -> None:
    generic(site)
    elem = site.elem(0)
    if not isinstance(elem, Int):
        raise Reject("no stored type of an encoding")
    site.attr("to", lambda: Affine(elem, Float("f32"), 0.25))
