"""What windows over blocked images have in common: the halo they need, and how an image is cut into pieces of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..emit import Emitter
from ..geometry import Axis, Window
from ..kernel import Dim, Expr, ceil_div
from ..layout import Halo
from .store import Output

__all__ = ["Pieces", "each_row", "needed_halo"]

TASKS = 8
"""Parallel tasks aimed at for one image."""


def needed_halo(window: Window) -> Halo:
    """The pixels around the image that the window touches."""

    def after(axis: Axis) -> int:
        return max(0, (axis.out - 1) * axis.stride + axis.reach - axis.before - (axis.size - 1))

    rows, columns = window.rows, window.columns
    return Halo(rows.before, after(rows), columns.before, after(columns))


@dataclass(frozen=True)
class Pieces:
    """A row of `width` pixels in `count` pieces of one `size`; the last one steps back over its neighbour."""

    width: int
    count: int
    size: int

    @classmethod
    def of(cls, width: int, most: int) -> Pieces:
        """The fewest pieces of at most `most` pixels."""
        count = ceil_div(width, most)
        return cls(width, count, ceil_div(width, count))

    def start(self, emit: Emitter, piece: Expr) -> Expr:
        return emit.step_back(piece, self.size, self.width)


def each_row(
    emit: Emitter,
    batch: Dim,
    out: Output,
    pieces: int,
    body: Callable[[Expr, Expr, Expr, Expr], None],
    blocks: range | None = None,
) -> None:
    """Call body(n, block, row, piece) for every output row in `pieces` pieces, in parallel, and fill the halo.

    `blocks`: those concerned, if not all.

    Rows and pieces share one loop: LLVM would unroll a short one, and then spill accumulators.
    """
    blocks = blocks or range(out.blocks)
    height, count = out.shape[2], len(blocks)
    bands = min(height, ceil_div(TASKS, count))
    rows = ceil_div(height, bands)
    bands = ceil_div(height, rows)
    with emit.parallel(batch * (count * bands)) as task:
        n, rest = task // (count * bands), task % (count * bands)
        block, band = blocks.start + rest // bands, rest % bands
        if bands == 1:
            out.fill_halo(n, block)
        else:
            with emit.when(band == 0):
                out.fill_halo(n, block)
        first = band * rows
        here = rows if height % rows == 0 else emit.min(rows, height - first)
        with emit.serial(here * pieces) as i:
            body(n, block, first + i // pieces, i % pieces)
