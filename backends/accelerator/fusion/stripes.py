"""Stripes of a segment: how many rows of every tensor a stripe makes and keeps.

    conv3x3 -> conv3x3, 4 rows of the last one's 16          made      kept
    recompute   every stripe makes all rows it needs         6         6       the two rows that stripes share twice
    cached      rows that the next stripe needs again stay   4         6       two of them as long as the segment runs

Groups (heads of attention) and images of a batch can be taken some at a time besides; they share nothing but weights.
All stripes are costed like the largest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

from ..layer import Layer
from .steps import Step

__all__ = ["Stripes", "choices", "rows_of", "stripe_layer"]

LEAST = 1 / 16
"""A stripe's least share of all rows."""


@dataclass(frozen=True)
class Stripes:
    """`images` of the batch, `groups` and `rows` of the segment's last tensor at a time; `cached`: kept halos."""

    images: int
    groups: int
    rows: int
    cached: bool
    of: tuple[int, int, int]  # all images, groups, rows
    single: bool = False  # the whole at once

    @property
    def bands(self) -> int:
        return -(-self.of[2] // self.rows)

    @property
    def chunks(self) -> int:
        """How often weights that groups do not share are used up."""
        return -(-self.of[1] // self.groups)

    @property
    def count(self) -> int:
        return -(-self.of[0] // self.images) * self.chunks * self.bands

    def __str__(self) -> str:
        if self.single:
            return "whole"
        parts = [f"{self.rows} of {self.of[2]} rows"] if self.bands > 1 else []
        parts += [f"{self.groups} of {self.of[1]} groups"] if self.chunks > 1 else []
        parts += [f"{self.images} of {self.of[0]} images"] if self.images < self.of[0] else []
        return ", ".join(parts) + (", halo cached" if self.cached else "")


def choices(steps: Sequence[Step], first: int) -> Iterator[list[Stripes]]:
    """The ways to cut a segment, in lists of falling heights; `first` is the index of its first step."""
    last = next((s for s in reversed(steps) if s.layout is not None), None)
    n, g, _, p, _ = last.layout if last is not None and last.layout is not None else (1, 1, 1, 1, 1)
    yield [Stripes(n, g, p, False, (n, g, p), True)]
    inner = [r for s in steps for r in s.reads if r.tensor >= first]
    layers = [s.layer for s in steps if s.layer is not None]
    if not layers or any(s.layout is None for s in steps) or not all(r.rowwise for r in inner):
        return
    same = all(layer.kind == "gemm" and layer.extent["G"] == g for layer in layers)
    halo = any(layer.extent["R"] > 1 for layer in layers[1:])
    for images in sorted({n, 1}, reverse=True):
        for groups in _halves(g) if same else [g]:
            for cached in (False, True) if halo else (False,):
                heights = [r for r in _halves(p) if r == p or r >= p * LEAST]
                cuts = [Stripes(images, groups, rows, cached and rows < p, (n, g, p)) for rows in heights]
                yield [c for c in cuts if c.count > 1 and not (cached and c.bands == 1)]


def _halves(extent: int) -> list[int]:
    return sorted({-(-extent // 2**i) for i in range(extent.bit_length() + 1)}, reverse=True)


def rows_of(
    steps: Sequence[Step], first: int, cut: Stripes, leaving: Set[int]
) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """Rows that each step makes in a stripe, and of each tensor that the segment reads the rows (made, kept).

    `leaving`: steps whose results are read outside as well (or only there).
    """
    made: dict[int, int] = {}
    kept: dict[int, int] = {}
    rows = [0] * len(steps)
    for i in reversed(range(len(steps))):
        step, at = steps[i], first + i
        total = step.layout[3] if step.layout is not None else 1
        want = made.get(at, 0)
        if at in leaving or cut.single:
            want = max(want, total if cut.single else -(-total // cut.bands))
        rows[i] = want
        for r in step.reads:
            if r.tensor < 0:
                continue
            new = held = want
            if r.role == "I" and step.layer is not None:
                new, held = _needed(step.layer, want, cut)
            made[r.tensor] = max(made.get(r.tensor, 0), new)
            kept[r.tensor] = max(kept.get(r.tensor, 0), held)
    return rows, {t: (made[t], max(made[t], kept[t])) for t in made}


def _needed(layer: Layer, rows: int, cut: Stripes) -> tuple[int, int]:
    """Rows of the input that a stripe of the output takes: new ones, and all."""
    _, window, stride, dilation, _, image = layer.axis(0)
    if cut.bands == 1 or cut.single:
        return image, image
    every = min((rows - 1) * stride + (window - 1) * dilation + 1, image)
    return (min(rows * stride, image) if cut.cached else every), every


def stripe_layer(layer: Layer, rows: int, cut: Stripes) -> Layer:
    """A layer on one stripe."""
    n, g, k, c, _, q, r, s = layer.sizes
    n = min(n, cut.images)
    g = min(g, cut.groups) if cut.chunks > 1 else g
    if cut.single or (rows == layer.extent["P"] and (n, g) == layer.sizes[:2]):
        return layer
    _, window, stride, dilation, pad, image = layer.axis(0)
    whole = rows == layer.extent["P"]
    seen = image if whole else min((rows - 1) * stride + (window - 1) * dilation + 1, image)
    return replace(
        layer,
        sizes=(n, g, k, c, rows, q, r, s),
        pads=(pad if whole else 0, layer.pads[1]),
        image=(seen, layer.image[1]),
    )
