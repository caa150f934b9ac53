"""Halo-padded copies of input rows, split by stride phase so that every tap reads contiguous vectors.

A panel holds, for each channel and each (row phase, column phase) that taps fall on, one plane of rows of
`pitch` elements. In it the taps of consecutive outputs of a row are consecutive, whatever the stride; and
since all rows have the same pitch, a vector may run on from one output row into the next: outputs are
numbered flat, row * pitch + column, and the few columns between rows are computed and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .emit import Emitter
from .geometry import Axis, Window
from .kernel import Expr, VectorUnit

MAX_SHUFFLED_STRIDE = 4
"""Larger strides are gathered element by element."""

ImageLoad: TypeAlias = Callable[[Expr, Expr, int], Expr]
"""(row, column, width) -> the vector of `width` elements of an image row."""


@dataclass(frozen=True)
class Panel:
    """The layout of a panel that serves `out_rows` consecutive output rows."""

    window: Window
    out_rows: int

    @property
    def pitch(self) -> int:
        columns = self.window.columns
        apart = columns.out + columns.shifts
        if columns.stride == 1:
            # The zeros after a row may double as those before the next.
            return min(apart, max(columns.out, columns.size + max(columns.before, columns.after)))
        return apart

    @property
    def rows(self) -> int:
        return self.out_rows + self.window.rows.shifts

    @property
    def tail(self) -> int:
        """Zeros after the last row, where it has no next row to share them with."""
        return self.window.columns.out + self.window.columns.shifts - self.pitch

    @property
    def plane(self) -> int:
        length = self.rows * self.pitch + self.tail
        # Planes a multiple of a page apart would compete for the same cache sets.
        return length + 16 if length % 256 == 0 else length

    @property
    def planes(self) -> int:
        """Planes of one channel."""
        return len(self.window.rows.phases) * len(self.window.columns.phases)

    @property
    def flat(self) -> int:
        """Length of the flat range that spans the outputs."""
        return (self.out_rows - 1) * self.pitch + self.window.columns.out

    def size(self, channels: int, slack: int) -> int:
        """Elements to allocate; vectors may run `slack` elements past the outputs."""
        return channels * self.planes * self.plane + slack

    def tap(self, kh: int, kw: int) -> int:
        """Offset in a channel's planes from a flat output number to its tap (kh, kw)."""
        row_phase, row_shift = self.window.rows.tap(kh)
        column_phase, column_shift = self.window.columns.tap(kw)
        plane = row_phase * len(self.window.columns.phases) + column_phase
        return plane * self.plane + row_shift * self.pitch + column_shift


def valid_range(axis: Axis, phase: int, length: int) -> tuple[int, int]:
    """[first, last) positions of a phase, of `length`, that lie inside the image."""
    first = max(0, -(-(axis.before - phase) // axis.stride))
    last = (axis.size - 1 + axis.before - phase) // axis.stride + 1
    last = max(0, min(length, last))
    return min(first, last), last


def fill_panel(
    emit: Emitter,
    panel: Panel,
    buffer: Any,
    channel: Expr,
    first_row: Expr,
    load: ImageLoad,
    unit: VectorUnit,
    pad: float = 0.0,
) -> None:
    """Copy one channel into its planes.

    `first_row` is the first output row served; `load(row, column, width)` reads a vector of an image row.
    """
    plane = channel * (panel.planes * panel.plane)
    for row_phase in panel.window.rows.phases:
        for column_phase in panel.window.columns.phases:
            _fill_plane(emit, panel, buffer, plane, row_phase, column_phase, first_row, load, unit, pad)
            plane = plane + panel.plane


def _fill_plane(
    emit: Emitter,
    panel: Panel,
    buffer: Any,
    plane: Expr,
    row_phase: int,
    column_phase: int,
    first_row: Expr,
    load: ImageLoad,
    unit: VectorUnit,
    pad: float,
) -> None:
    rows, columns = panel.window.rows, panel.window.columns
    first, last = valid_range(columns, column_phase, panel.pitch)
    column = first * columns.stride + column_phase - columns.before

    def copy_row(i: Expr) -> None:
        y = (first_row + i) * rows.stride + row_phase - rows.before
        at = plane + i * panel.pitch

        def inside() -> None:
            emit.fill_row(buffer, (), at, first, pad, unit.lanes)
            copy_strided(emit, buffer, at + first, load, y, column, last - first, columns.stride, unit.lanes)
            emit.fill_row(buffer, (), at + last, panel.pitch - last, pad, unit.lanes)

        def outside() -> None:
            emit.fill_row(buffer, (), at, panel.pitch, pad, unit.lanes)

        if rows.before == 0 and _never_past(panel, row_phase):
            inside()
        else:
            emit.branch(emit.both(y >= 0, y < rows.size), inside, outside)

    if panel.rows == 1:
        copy_row(0)
    else:
        with emit.serial(panel.rows) as i:
            copy_row(i)
    emit.fill_row(buffer, (), plane + panel.rows * panel.pitch, panel.tail, pad, unit.lanes)


def _never_past(panel: Panel, row_phase: int) -> bool:
    """Whether no row of the phase lies beyond the image, even for the last output rows."""
    rows = panel.window.rows
    return (rows.out - 1 + rows.shifts) * rows.stride + row_phase < rows.size


def copy_strided(
    emit: Emitter,
    buffer: Any,
    at: Expr,
    load: ImageLoad,
    y: Expr,
    column: int,
    length: int,
    stride: int,
    lanes: int,
) -> None:
    """buffer[at + i] = image[y, column + i * stride] for i < length."""
    if length <= 0:
        return

    def body(start: Expr, width: int) -> None:
        x = column + start * stride
        if stride == 1 or width == 1:
            value = load(y, x, width)
        elif stride <= MAX_SHUFFLED_STRIDE:
            value = load_strided(emit, load, y, x, width, stride)
        else:
            with emit.lanes(width) as lane:
                emit.store(buffer, [at + start + lane], load(y, x + lane * stride, 1))
            return
        emit.store(buffer, [emit.ramp(at + start, width)], value)

    emit.for_each_vector(length, lanes, body)


def load_strided(emit: Emitter, load: ImageLoad, y: Expr, x: Expr, width: int, stride: int) -> Expr:
    """The vector of columns x, x + stride, ...: loads that do not reach past the last of them, and a
    shuffle.
    """
    reach = (width - 1) * stride
    starts = [i * width for i in range(stride - 1)] + [reach - (width - 1)]
    picks = []
    for column in range(0, reach + 1, stride):
        vector = min(column // width, stride - 1)
        picks.append(vector * width + column - starts[vector])
    return emit.shuffle([load(y, x + start, width) for start in starts], picks)
