"""The steps of a mapping's outermost nest: which tiles are loaded, worked on and stored, one after the other.

The rules of `counting.py`, executed instead of counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..counting import Order
from ..layer import DIMS, OPERANDS, RELEVANT, Layer
from ..tiling import Axis

__all__ = ["Span", "Step", "coordinates", "coordinates_of", "runs", "steps"]

Span = tuple[int, int]
"""(first, how many) of a loop's tile."""


@dataclass(frozen=True)
class Step:
    """One iteration of the outermost nest. `fresh` are the operands that get another tile here.

    `first`: the sums start at zero; `last`: they are complete after this step. `leaves`: the tile of O goes after it.
    """

    at: dict[str, Span]
    fresh: frozenset[str]
    first: bool
    last: bool
    leaves: bool

    def tile(self, operand: str) -> tuple[Span, ...]:
        """What names the operand's tile."""
        return tuple(self.at[d] for d in DIMS if d in RELEVANT[operand])


def steps(layer: Layer, tiles: Mapping[str, int], order: Order) -> Iterator[Step]:
    """All steps; `tiles` are the tile sizes of the first tier."""
    loops = order.loops
    counts = {d: -(-layer.extent[d] // tiles[d]) for d in loops}
    busy = [d for d in loops if counts[d] > 1]
    # the loops around (and with) the innermost one that changes an operand's tile: when one of them moves, so does it
    around = {x: busy[: max((i + 1 for i, d in enumerate(busy) if d in RELEVANT[x]), default=0)] for x in OPERANDS}
    spans = {d: [(i, min(tiles[d], layer.extent[d] - i)) for i in range(0, layer.extent[d], tiles[d])] for d in DIMS}
    fixed = {d: spans[d][0] for d in DIMS}
    sums = [d for d in ("C", "R", "S") if counts[d] > 1]
    known: dict[str, tuple[int, ...] | None] = dict.fromkeys(OPERANDS)
    every = list(itertools.product(*(range(counts[d]) for d in busy)))
    for number, index in enumerate(every):
        place = dict(zip(busy, index, strict=True))
        now = {x: tuple(place[d] for d in around[x]) for x in OPERANDS}
        fresh = frozenset(x for x in OPERANDS if now[x] != known[x])
        known.update(now)
        following = dict(zip(busy, every[number + 1], strict=True)) if number + 1 < len(every) else None
        leaves = following is None or any(following[d] != place[d] for d in around["O"])
        yield Step(
            at={**fixed, **{d: spans[d][i] for d, i in place.items()}},
            fresh=fresh,
            first=all(place[d] == 0 for d in sums),
            last=all(place[d] == counts[d] - 1 for d in sums),
            leaves=leaves,
        )


def coordinates(layer: Layer, axis: int, outputs: Span, window: Span) -> tuple[int, ...]:
    """Rows (axis 0) or columns of the image that a tile of outputs and window elements touches, ascending."""
    return coordinates_of(layer.axis(axis), outputs, window)


def coordinates_of(axis: Axis, outputs: Span, window: Span) -> tuple[int, ...]:
    """The same for any axis."""
    _, _, stride, dilation, pad, image = axis
    first, count = outputs
    start, taps = window
    seen = {i * stride + j * dilation - pad for i in range(first, first + count) for j in range(start, start + taps)}
    return tuple(sorted(c for c in seen if 0 <= c < image))


def runs(places: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Ascending numbers as (position, first, step, how many): as few pieces of even steps as a scan finds."""
    found = []
    i = 0
    while i < len(places):
        step = places[i + 1] - places[i] if i + 1 < len(places) else 1
        j = i + 1
        while j < len(places) and places[j] - places[j - 1] == step:
            j += 1
        found.append((i, places[i], step, j - i))
        i = j
    return found


def volume(spans: Sequence[Span]) -> int:
    """Elements of a tile."""
    return math.prod(n for _, n in spans)
