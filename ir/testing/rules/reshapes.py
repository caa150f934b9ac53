"""Samples for ops that rearrange axes, or make a tensor of nothing."""

from __future__ import annotations

from ...dims import UNKNOWN, Extent, Shape, size
from ...shapes import normal_axes
from .attributes import some_axes
from .site import UNSET, Site, Want, number_of
from .tape import Reject

__all__ = ["expand", "full", "iota", "reshape", "squeeze", "transpose", "unsqueeze"]

Ints = tuple[int, ...]


def _permutation(site: Site, rank: int) -> Ints:
    axes = list(range(rank))
    return tuple(axes.pop(site.below(len(axes))) for _ in range(rank))


def transpose(site: Site) -> None:
    perm = site.given("perm")
    rank = len(perm) if perm is not UNSET else len(site.want) if site.want is not None else None
    want: Want = None
    if site.want is not None and rank == len(site.want) and not site.known(0):
        perm = _permutation(site, rank) if perm is UNSET else perm
        placed: list[Extent | None] = [None] * rank
        for to, at in enumerate(perm):
            if not 0 <= at < rank:
                raise Reject("no permutation")
            placed[at] = site.want[to]
        want = tuple(placed)
    shape = site.shape(0, want, rank=rank)
    if perm is UNSET or len(perm) != len(shape):
        perm = _permutation(site, len(shape))
    site.attr("perm", lambda: perm)


def _regrouped(site: Site, shape: Shape) -> Shape:
    """Another shape of as many elements."""
    how = site.below(6)
    out = list(shape)
    if how == 1:
        return (size(shape),)
    if how in (2, 3) and len(out) > 1:
        at = site.below(len(out) - 1)
        out[at : at + 2] = [out[at] * out[at + 1]]
    elif how == 4:
        out.insert(site.below(len(out) + 1), 1)
    elif out:
        at = site.below(len(out))
        if isinstance(out[at], int):
            factors = [f for f in range(1, number_of(out[at]) + 1) if number_of(out[at]) % f == 0]
            f = site.pick(factors)
            out[at : at + 1] = [f, number_of(out[at]) // f]
    return tuple(out)


def reshape(site: Site) -> None:
    given = site.given("shape")
    want: Want = None
    target: Shape | None = None
    if given is not UNSET:
        target = tuple(site.drawing.extent() if d is UNKNOWN else d for d in given)
    elif site.want is not None:
        target = site.drawing.filled(site.want, symbolic=False)
    if target is not None and not site.known(0):
        want = _regrouped(site, target)
    shape = site.shape(0, want)
    if given is not UNSET:
        site.attr("shape", lambda: given)
        return
    if target is None or size(target) != size(shape):
        target = _regrouped(site, shape)
    if target and site.below(6) == 5:  # one extent left open
        at = site.below(len(target))
        target = (*target[:at], UNKNOWN, *target[at + 1 :])
    site.attr("shape", lambda: target)


def squeeze(site: Site) -> None:
    given, want = site.given("axes"), site.want
    inner: Want = None
    if not site.known(0):
        base: list[Extent | None] = list(want if want is not None else site.drawing.filled(None))
        count = len(given) if given is not UNSET else 1 + site.below(2)
        if given is not UNSET:
            for a in sorted(normal_axes(given, len(base) + count)):
                base.insert(a, 1)
        else:
            for _ in range(count):
                base.insert(site.below(len(base) + 1), 1)
        inner = tuple(base)
    shape = site.shape(0, inner)
    ones = [i for i, d in enumerate(shape) if d == 1]
    if given is UNSET and not ones:
        raise Reject("no axis of extent 1")
    excess = len(shape) - len(want) if want is not None else 0
    count = excess if 0 < excess <= len(ones) else 1 + site.below(len(ones)) if ones else 0

    def drawn() -> Ints:
        left = list(ones)
        found = sorted(left.pop(site.below(len(left))) for _ in range(count))
        return tuple(a - len(shape) for a in found) if site.below(4) == 3 else tuple(found)

    site.attr("axes", drawn)


def unsqueeze(site: Site) -> None:
    given, want = site.given("axes"), site.want
    inner: Want = None
    if want is not None:
        ones = [i for i, d in enumerate(want) if d in (1, None)]
        axes = normal_axes(given, len(want)) if given is not UNSET and len(given) <= len(want) else tuple(ones[:1])
        if axes:
            inner = tuple(d for i, d in enumerate(want) if i not in axes)
    rank = len(site.shape(0, inner))
    site.attr("axes", lambda: some_axes(site, rank + 1 + site.below(2), 1) if inner is None else axes)


def expand(site: Site) -> None:
    want = None if site.want is None else site.drawing.filled(site.want)
    given = site.given("shape")
    target = want if given is UNSET else tuple(given)
    shape = site.shape(0, None if target is None else site.drawing.narrowed(target))

    def drawn() -> Shape:
        if want is not None:
            return want
        wide = tuple(site.drawing.extent() if d == 1 else d for d in shape)
        return (site.drawing.extent(), *wide) if site.below(3) == 0 else site.drawing.narrowed(wide)

    site.attr("shape", drawn)


def iota(site: Site) -> None:
    shape = site.attr("shape", lambda: site.drawing.filled(site.want, 1 + site.below(3), symbolic=False))
    site.attr("axis", lambda: site.below(max(1, len(shape))))
    site.elem_attr("elem")


def full(site: Site) -> None:
    site.shape(0, ())
    site.attr("shape", lambda: site.drawing.filled(site.want))
