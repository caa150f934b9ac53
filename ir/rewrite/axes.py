"""Functions for rules that move elements around: what shapes, axes, permutations, slices and pads come to.

They answer None (which no condition accepts) where only running the program can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..diagnostics import IntaglioError
from ..dims import UNKNOWN, Extent, Shape
from ..dims import size as count
from ..graph import Node, Value
from ..shapes import broadcast, normal_axes, reduced, slice_bounds
from ..shapes import matmul_shape as product_shape

__all__ = [
    "all_ones",
    "both_pads",
    "channel_shape",
    "elements_over",
    "is_identity",
    "joint",
    "known",
    "left_of",
    "like",
    "mapped",
    "merged_slice",
    "matmul_shape",
    "moves_only_gone",
    "moves_only_ones",
    "nested_axes",
    "no_wider",
    "normal",
    "normal_shape",
    "only_spatial",
    "per_axis",
    "reshapable",
    "right_aligned",
    "same_axes",
    "trailing",
    "union_axes",
    "unit_steps",
    "without",
    "without_axes",
]

Axes = Sequence[int] | None


def _shape(x: Value | Node) -> Shape:
    return (x.outputs[0] if isinstance(x, Node) else x).type.shape


def known(x: Value | Node) -> bool:
    """Whether every extent is a number or a symbol: no `?`."""
    return UNKNOWN not in _shape(x)


def like(x: Value | Node, y: Value | Node) -> bool:
    """Whether x and y have the same type for certain: equal types without `?`."""
    a, b = (v.outputs[0].type if isinstance(v, Node) else v.type for v in (x, y))
    return a is b and UNKNOWN not in a.shape


def joint(*values: Value | Node) -> Shape | None:
    """The shape of values combined element by element, None where `?` hides it or they do not fit."""
    shapes = [_shape(v) for v in values]
    if any(UNKNOWN in s for s in shapes):
        return None
    try:
        return tuple(broadcast(*shapes))
    except IntaglioError:
        return None


def matmul_shape(a: Value | Node, b: Value | Node) -> Shape | None:
    """The shape of a matrix product, None where `?` hides it or the operands do not fit."""
    try:
        found = tuple(product_shape(_shape(a), _shape(b)))
    except IntaglioError:
        return None
    return None if UNKNOWN in found else found


def no_wider(a: Value, b: Value) -> bool:
    """Whether a and b combined have no more elements than the larger of them."""
    together = joint(a, b)
    return together is not None and together in (_shape(a), _shape(b))


def reshapable(x: Value | Node) -> bool:
    """Whether a reshape can be asked for x's shape: at most one `?`."""
    return sum(d is UNKNOWN for d in _shape(x)) <= 1


def normal(axes: Axes, x: Value | Node) -> tuple[int, ...]:
    """Axes counted from the front, in order; all of them when absent."""
    return tuple(sorted(normal_axes(axes, len(_shape(x)))))


def same_axes(a: Axes, b: Axes, x: Value | Node) -> bool:
    """Whether two lists name the same axes of x."""
    try:
        return normal(a, x) == normal(b, x)
    except IntaglioError:
        return False


def trailing(axes: Axes, x: Value | Node) -> bool:
    """Whether `axes` are the last ones of x, at least one."""
    found, rank = normal(axes, x), len(_shape(x))
    return bool(found) and found == tuple(range(rank - len(found), rank))


def all_ones(x: Value | Node, axes: Axes) -> bool:
    """Whether x has extent 1 along each of `axes`."""
    return all(_shape(x)[a] == 1 for a in normal(axes, x))


def elements_over(x: Value | Node, axes: Axes) -> Extent | None:
    """How many elements of x one element of a reduction over `axes` sees; None if that is not a known number."""
    found = count(tuple(_shape(x)[a] for a in normal(axes, x)))
    return found if isinstance(found, int) else None


def without(x: Value | Node, axes: Axes) -> Shape:
    """The shape of x without `axes`."""
    return tuple(reduced(_shape(x), axes=axes, keepdims=False))


def without_axes(x: Value | Node, axes: Axes) -> tuple[int, ...]:
    """The axes of x that are not in `axes`."""
    gone = normal(axes, x)
    return tuple(i for i in range(len(_shape(x))) if i not in gone)


def normal_shape(x: Value | Node, axes: Axes) -> Shape:
    """The extents of x along `axes`."""
    return tuple(_shape(x)[a] for a in normal(axes, x))


def union_axes(x: Value | Node, a: Axes, b: Axes) -> tuple[int, ...]:
    """The axes of x in either list."""
    return tuple(sorted({*normal(a, x), *normal(b, x)}))


def nested_axes(x: Value | Node, a: Axes, b: Axes) -> tuple[int, ...]:
    """The axes of x that go when first `a` go, and then `b` of what is left."""
    left = without_axes(x, a)
    gone = range(len(left)) if b is None else [i % len(left) for i in b]
    return tuple(sorted({*normal(a, x), *(left[i] for i in gone)}))


# --- transposes -----------------------------------------------------------------------------------------------------


def is_identity(perm: Sequence[int]) -> bool:
    """Whether a permutation moves nothing."""
    return tuple(perm) == tuple(range(len(perm)))


def moves_only_ones(x: Value | Node, perm: Sequence[int]) -> bool:
    """Whether transposing x by `perm` keeps the order of its elements: only axes of extent 1 move."""
    kept = [p for p in perm if _shape(x)[p] != 1]
    return kept == sorted(kept)


def moves_only_gone(perm: Sequence[int], axes: Axes) -> bool:
    """Whether what is left of a transpose by `perm` after reducing `axes` of the result stands in the old order."""
    gone = normal_axes(axes, len(perm))
    left = [p for i, p in enumerate(perm) if i not in gone]
    return left == sorted(left)


def left_of(perm: Sequence[int], axes: Axes) -> tuple[int, ...]:
    """What is left of a permutation when `axes` of the result go: a permutation of fewer axes."""
    gone = normal_axes(axes, len(perm))
    left = [p for i, p in enumerate(perm) if i not in gone]
    return tuple(sorted(left).index(p) for p in left)


def mapped(axes: Axes, perm: Sequence[int]) -> tuple[int, ...]:
    """The axes before a transpose by `perm` that are at `axes` after it."""
    return tuple(perm[a] for a in (range(len(perm)) if axes is None else axes))


def right_aligned(c: Value | Node, x: Value | Node) -> Shape:
    """The shape of c with axes of extent 1 in front, as many as x has axes."""
    return (1,) * (len(_shape(x)) - len(_shape(c))) + _shape(c)


# --- channels -------------------------------------------------------------------------------------------------------


def per_axis(c: Value, y: Value | Node, axis: int) -> bool:
    """Whether c, combined with y, depends on the index along `axis` of y only, whose extent is a known number."""
    target, have = _shape(y), _shape(c)
    if len(have) > len(target) or not -len(target) <= axis < len(target):
        return False
    axis %= len(target)
    offset = len(target) - len(have)
    fits = all(d == 1 or (i + offset == axis and d == target[axis]) for i, d in enumerate(have))
    return fits and isinstance(target[axis], int)


def channel_shape(y: Value | Node, axis: int) -> Shape:
    """1 everywhere but at `axis`, where y's extent is."""
    axis %= len(_shape(y))
    return tuple(d if i == axis else 1 for i, d in enumerate(_shape(y)))


# --- slices and pads ------------------------------------------------------------------------------------------------


def unit_steps(steps: Sequence[int] | None) -> bool:
    """Whether a slice takes every element between its bounds, forwards."""
    return steps is None or all(s == 1 for s in steps)


def _slice_along(attrs: Mapping[str, Any], rank: int) -> dict[int, tuple[int, int, int]]:
    """Start, stop and step by axis."""
    starts, stops, steps = attrs["starts"], attrs["stops"], attrs.get("steps") or (1,) * len(attrs["starts"])
    axes = normal_axes(attrs["axes"] if attrs.get("axes") is not None else range(len(starts)), rank)
    return {a: (starts[i], stops[i], steps[i]) for i, a in enumerate(axes)}


def merged_slice(x: Value | Node, inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any] | None:
    """The attributes of one slice of x that stands for `inner` and then `outer`; for known extents, steps forwards."""
    shape = _shape(x)
    first, second = _slice_along(inner, len(shape)), _slice_along(outer, len(shape))
    found: dict[int, tuple[int, int, int]] = {}
    for axis in sorted({*first, *second}):
        extent = shape[axis]
        if axis not in second or axis not in first:
            found[axis] = first.get(axis) or second[axis]
            continue
        if not isinstance(extent, int) or first[axis][2] < 1 or second[axis][2] < 1:
            return None
        start, length = slice_bounds(*first[axis], extent)
        start2, length2 = slice_bounds(*second[axis], length)
        step = first[axis][2] * second[axis][2]
        begin = start + start2 * first[axis][2]
        found[axis] = (begin, begin + length2 * step - step + 1 if length2 else begin, step)
    steps = tuple(s for _, _, s in found.values())
    return {
        "starts": tuple(s for s, _, _ in found.values()),
        "stops": tuple(s for _, s, _ in found.values()),
        "axes": tuple(found),
        "steps": None if unit_steps(steps) else steps,
    }


def only_spatial(pads: Sequence[int]) -> bool:
    """Whether pads of a whole [N, C, ...] tensor add to its spatial axes only, and take nothing away."""
    rank = len(pads) // 2
    return rank >= 3 and min(pads) >= 0 and not any((*pads[:2], *pads[rank : rank + 2]))


def both_pads(pads: Sequence[int], more: Sequence[int] | None) -> tuple[int, ...]:
    """The spatial part of pads of a whole [N, C, ...] tensor, plus those of a window over it."""
    rank = len(pads) // 2
    own = (*pads[2:rank], *pads[rank + 2 :])
    return tuple(a + b for a, b in zip(own, more or (0,) * len(own), strict=True))
