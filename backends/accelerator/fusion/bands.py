"""The rows of every step and tensor, band by band: what `stripes.py` costs by its largest stripe, written out.

    conv3x3 -> conv3x3, 4 rows of the last one's 16      made by the first: recompute 0-5 3-9 7-13 11-16
                                                                            cached    0-5 5-9 9-13 13-16, 6 rows kept

A tensor that stays lies in a ring of rows, row r in place r modulo the ring's size. A row that is needed again is kept.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from ..layer import Layer
from .steps import Read, Step
from .stripes import Stripes

__all__ = ["Band", "Rows", "bands_of", "read_rows", "rings_of"]

Rows = tuple[int, int]
"""(first, end) of rows."""


@dataclass(frozen=True)
class Band:
    """One stripe: by step the rows it `makes` and those of them that leave, by tensor the rows that are `needed`.

    Tensors from outside of the segment have their rows among the needed ones, too.
    """

    makes: dict[int, Rows]
    leaves: dict[int, Rows]
    needed: dict[int, Rows]


def bands_of(steps: Sequence[Step], first: int, cut: Stripes, leaving: Set[int]) -> list[Band]:
    """All bands of a segment whose first step has the index `first`; `leaving` as in `stripes.rows_of`."""
    done: dict[int, int] = {}
    found = []
    for number in range(cut.bands):
        makes: dict[int, Rows] = {}
        leaves: dict[int, Rows] = {}
        needed: dict[int, Rows] = {}
        for i in reversed(range(len(steps))):
            step, at = steps[i], first + i
            total = step.layout[3] if step.layout is not None else 1
            want = needed.get(at)
            if at in leaving:
                share = -(-total // cut.bands)
                own = (min(number * share, total), min((number + 1) * share, total))
                want = _union(want, own)
            if cut.single or want is None:
                want = (0, total)
            if cut.cached:
                want = (min(done.get(at, 0), want[1]), want[1])
                done[at] = max(done.get(at, 0), want[1])
            makes[at] = want
            if at in leaving:
                leaves[at] = want if cut.cached else (max(own[0], want[0]), min(own[1], want[1]))
            for r in step.reads:
                if r.tensor >= 0 and want[1] > want[0]:
                    needed[r.tensor] = _union(needed.get(r.tensor), _read(steps, first, step, r, want, cut))
        found.append(Band(makes, leaves, needed))
    return found


def rings_of(bands: Sequence[Band], tensors: Set[int], *, cached: bool) -> dict[int, int]:
    """The rows of each tensor's ring: in no band are two rows that are needed in one place."""
    sizes = {}
    for t in tensors:
        size, until = 1, 0
        for n, band in enumerate(bands):
            rows = [r for r in (band.makes.get(t), band.needed.get(t)) if r is not None and r[1] > r[0]]
            if cached:  # rows made before are there as long as some band needs them
                until = max([until, *(r[1] for r in rows)])
                rows += [r for b in bands[n + 1 :] if (r := b.needed.get(t)) is not None and r[0] < r[1]]
                size = max(size, until - min((r[0] for r in rows), default=until))
            elif rows:
                size = max(size, max(r[1] for r in rows) - min(r[0] for r in rows))
        sizes[t] = size
    return sizes


def read_rows(layer: Layer, made: Rows) -> Rows:
    """Rows of its input that a product reads for rows of its output."""
    _, window, stride, dilation, pad, image = layer.axis(0)
    if layer.kind == "gemm":
        return made
    low, high = made[0] * stride - pad, (made[1] - 1) * stride + (window - 1) * dilation + 1 - pad
    low, high = max(low, 0), min(high, image)
    return (low, max(low, high))


def _read(steps: Sequence[Step], first: int, step: Step, r: Read, made: Rows, cut: Stripes) -> Rows:
    """Rows of a tensor that one of a step's reads takes; the whole of it where nothing is cut."""
    if cut.single and r.tensor >= first and (layout := steps[r.tensor - first].layout) is not None:
        return (0, layout[3])
    return read_rows(step.layer, made) if r.role == "I" and step.layer is not None else made


def _union(a: Rows | None, b: Rows) -> Rows:
    return b if a is None or a[1] <= a[0] else a if b[1] <= b[0] else (min(a[0], b[0]), max(a[1], b[1]))
