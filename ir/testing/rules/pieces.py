"""Samples for ops that put tensors together and take them apart: concat, split, slice, pad, tile, reverse."""

from __future__ import annotations

from ...dims import Extent, Shape
from ...shapes import normal_axes, normal_axis
from .attributes import some_axes, some_axis
from .generic import in_order
from .site import UNSET, Site, Want, number_of
from .tape import Reject

__all__ = ["concat", "pad", "reverse", "slice_", "split", "tile"]

FAR = 1 << 31  # the open end of a slice

Ints = tuple[int, ...]


def concat(site: Site) -> None:
    order, want = in_order(site), site.want
    given = site.given("axis")
    known = next((s for i in order if (s := site.peek(i)) is not None), None)
    if known is not None:
        base: Shape = known
    elif want is not None and want:
        base = site.drawing.filled(want, symbolic=False)
    else:
        least = 1 if given is UNSET else max(given + 1, -given)
        base = site.drawing.filled(None, min(4, least + site.below(3)))
    axis = site.attr("axis", lambda: some_axis(site, len(base)))
    if not -len(base) <= axis < len(base):
        raise Reject("no such axis")
    at = axis % len(base)
    for i in order:
        site.shape(i, tuple(site.drawing.symbol_or_extent() if j == at else d for j, d in enumerate(base)))


def split(site: Site) -> None:
    sizes, axis, want = site.given("sizes"), site.given("axis"), site.want
    inner: Want = None
    if sizes is not UNSET or want is not None:
        base: list[Extent | None] = list(want if want is not None else (None,) * (1 + site.below(3)))
        if not base:
            raise Reject("a scalar cannot be split")
        at = (
            normal_axis(axis, len(base))
            if axis is not UNSET and -len(base) <= axis < len(base)
            else site.below(len(base))
        )
        base[at] = sum(sizes) if sizes is not UNSET else None
        inner = tuple(base)
    shape = site.shape(0, inner, rank=None if inner is not None else 1 + site.below(3))
    where = site.attr(
        "axis",
        lambda: at - (len(shape) if site.below(4) == 3 else 0) if inner is not None else some_axis(site, len(shape)),
    )

    def drawn() -> Ints:
        total = number_of(shape[where % len(shape)])
        parts: list[int] = []
        while total:
            n = 1 + site.below(total)
            parts.append(n)
            total -= n
        return tuple(parts)

    if not -len(shape) <= where < len(shape):
        raise Reject("no such axis")
    site.attr("sizes", drawn)


def slice_(site: Site) -> None:
    """Bounds inside, from the end, and beyond; steps forward, wide and backward."""
    want = site.want
    inner: Want = None
    if want is not None:
        inner = tuple(d if d is None or site.below(2) else d + site.below(3) for d in want)
    shape = site.shape(0, inner)
    counts = [len(v) for n in ("starts", "stops", "axes", "steps") if isinstance(v := site.given(n), tuple)]
    count = counts[0] if counts else 1 + site.below(max(len(shape), 1))
    if count > len(shape):
        raise Reject("more slices than axes")

    def some() -> Ints:
        axes = list(range(len(shape)))
        picked = [axes.pop(site.below(len(axes))) for _ in range(count)]
        return tuple(a - len(shape) if site.below(4) == 3 else a for a in picked)

    in_front = site.below(3) == 0
    axes = site.attr("axes", lambda: None if in_front else some())
    on = normal_axes(axes if axes is not None else range(count), len(shape))
    only_ones = site.below(2) == 0
    steps = site.attr("steps", lambda: None if only_ones else tuple(site.pick((1, 1, 2, -1, 3)) for _ in range(count)))
    bounds = [
        _bounds(site, shape[a], steps[k] if steps else 1, want[a] if want and len(want) == len(shape) else None)
        for k, a in enumerate(on)
    ]
    site.attr("starts", lambda: tuple(b[0] for b in bounds))
    site.attr("stops", lambda: tuple(b[1] for b in bounds))


def _bounds(site: Site, extent: Extent, step: int, wanted: Extent | None) -> tuple[int, int]:
    if not isinstance(extent, int):
        return (0, FAR) if step > 0 else (-1, -FAR)
    if isinstance(wanted, int) and step == 1 and 0 < wanted <= extent:
        start = site.below(extent - wanted + 1)
        return start, start + wanted
    first = site.below(extent)
    last = first + site.below(extent - first)
    if step < 0:
        return (last, first - 1 if first else -FAR) if site.below(2) else (FAR, -FAR)
    start = first - extent if site.below(4) == 3 else first
    stop = last + 1
    how = site.below(4)
    return start, FAR if how == 3 else stop - extent if how == 2 and stop < extent else stop + 5 * (
        how == 1 and stop == extent
    )


def pad(site: Site) -> None:
    given, want = site.given("pads"), site.want
    inner: Want = None
    if want is not None and given is not UNSET and len(given) == 2 * len(want):
        inner = tuple(None if d is None else d - given[i] - given[i + len(want)] for i, d in enumerate(want))
    elif want is not None:
        inner = tuple(d if not isinstance(d, int) else max(1, d - site.below(3)) for d in want)
    elif given is not UNSET:
        inner = (None,) * (len(given) // 2)
    if inner is not None and any(isinstance(d, int) and d < 0 for d in inner):
        raise Reject("a negative extent")
    shape = site.shape(0, inner, rank=None if inner is not None else 1 + site.below(2))
    if site.present(1):
        site.shape(1, ())

    crops = site.below(3) == 2

    def some() -> int:
        return -1 if crops and site.below(4) == 3 else site.below(3)

    def drawn() -> Ints:
        before, after = [], []
        for at, d in enumerate(shape):
            wished = want[at] if want is not None and len(want) == len(shape) else None
            room = wished - d if wished is not None else None
            if isinstance(room, int) and room >= 0:
                before.append(site.below(room + 1))
                after.append(room - before[-1])
            else:
                before.append(some())
                after.append(some())
        return (*before, *after)

    pads = site.attr("pads", drawn)
    static = all(isinstance(d, int) for d in shape)
    border = static and min([number_of(d) - 1 for d in shape], default=0) >= max(pads, default=0)
    modes = ("constant", "constant", "edge", "reflect", "wrap") if border and not site.present(1) else ("constant",)
    site.attr("mode", lambda: site.pick(modes))


def tile(site: Site) -> None:
    given = site.given("repeats")
    rank = len(given) if given is not UNSET else None if site.want is None else len(site.want)
    shape = site.shape(0, rank=rank)
    site.attr("repeats", lambda: tuple(1 + site.below(3) for _ in shape))


def reverse(site: Site) -> None:
    axes = site.given("axes")
    least = max((max(a + 1, -a) for a in axes), default=0) if axes is not UNSET else 1
    shape = site.shape(0, site.want, rank=least + site.below(2))
    site.attr("axes", lambda: some_axes(site, len(shape)))
