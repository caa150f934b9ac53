"""What leaves an accumulator: complete sums requantised, to DRAM or to where they stay, and partial ones."""

from __future__ import annotations

from ..isa.instructions import LINE, Queue
from ..layer import DIMS, RELEVANT
from .operands import ENTRY, Contraction
from .stream import Writer
from .tiles import Span, Step, volume

__all__ = ["Stores"]

STORE = Queue.STORE
COPY, OUTPUT, PARTIAL = 1, 2, 3
"""Streams: of what stays and leaves as well, of results, of partial sums."""


class Stores:
    """The store queue of a layer."""

    def __init__(self, c: Contraction, size: int, to: Writer) -> None:
        self.c, self.layer, self.to = c, c.layer, to
        self.size = size  # bytes of a tile of sums

    def store(self, step: Step, buffer: int) -> None:
        """The tile of sums in `buffer`, at the end of a step."""
        if step.last:
            self._store_output(step, buffer)
            return
        offset, length = self.spill(step)
        self.to.set(STORE, row3=0, pixel3=0, local_row3=0, local_pixel3=0)
        for at in range(0, length, 0xFFFC):
            part = min(0xFFFC, length - at)
            self.to.emit(
                "store", STORE, stream=PARTIAL, dram=offset + at, local=buffer + at, rows=1, columns=1, bytes=part
            )

    def spill(self, step: Step) -> tuple[int, int]:
        """Where a tile of partial sums lies in DRAM: one full tile's room for each, and its bytes."""
        tile = dict(zip([d for d in DIMS if d in RELEVANT["O"]], step.tile("O"), strict=True))
        number = 0
        for d, (first, _) in tile.items():
            number = number * -(-self.layer.extent[d] // self.c.tiles[d]) + first // self.c.tiles[d]
        return self.c.partial + number * self.size, 4 * volume(list(tile.values()))

    def _store_output(self, step: Step, buffer: int) -> None:
        """A tile [n, p, q, g, k] of sums, dense, to its place in the output."""
        (n0, nn), (g0, gn), (k0, kn) = step.at["N"], step.at["G"], step.at["K"]
        (p0, pn), (q0, qn) = step.at["P"], step.at["Q"]
        by_image, by_group, by_channel, by_row, by_column = self.c.output.strides
        assert by_channel == self.c.output_bits // 8, "channels of an activation lie side by side"
        pixel, near = 4 * gn * kn, self.c.near_output
        if near is not None:
            by_row, by_column = near.row, near.pixel
        self.to.set(STORE, row2=by_row, pixel2=by_column, local_row2=qn * pixel, local_pixel2=pixel)
        whole = by_group == self.layer.extent["K"] * by_channel and self.layer.extent["K"] == kn
        parts = [(g0, gn * kn, 0)] if whole else [(g0 + g, kn, g * kn) for g in range(gn)]
        for n in range(nn):
            for row, rows in self._rows(p0, pn):
                for g, count, offset in parts:
                    channel = (n0 + n) * by_image + g * by_group + k0 * by_channel
                    place = row * by_row if near is None else near.place(self.c.row + row)
                    place += channel + q0 * by_column
                    self.to.set(STORE, table=self.c.table + (g * self.layer.extent["K"] + k0) * ENTRY // LINE)
                    if self.c.residual is not None:
                        self.to.set(STORE, residual=self._added(row, channel + q0 * by_column, by_row) - place)
                    self.to.emit(
                        "req",
                        STORE,
                        stream=OUTPUT,
                        dram=place,
                        local=buffer + ((n * pn + row - p0) * qn * gn * kn + offset) * 4,
                        rows=rows,
                        columns=qn,
                        count=count,
                        residual=int(self.c.residual is not None),
                    )
                    self._copy(row, rows, q0, qn, channel, count)

    def _rows(self, first: int, count: int) -> list[Span]:
        """Rows of the layer that lie side by side wherever the output or the residual stays."""
        found = [(first, count)]
        for kept in (self.c.near_output, self.c.near_residual):
            if kept is not None:
                found = [(r - self.c.row, n) for f, m in found for r, n in kept.runs(self.c.row + f, m)]
        return found

    def _added(self, row: int, offset: int, by_row: int) -> int:
        """Where the residual of a row lies, in DRAM or in local memory."""
        assert self.c.residual is not None
        kept = self.c.near_residual
        if kept is not None:
            return kept.base + kept.place(self.c.row + row) + offset
        return self.c.residual.base + (self.c.row + row) * by_row + offset

    def _copy(self, row: int, rows: int, column: int, columns: int, channel: int, count: int) -> None:
        """Rows that stay and leave as well: from where they stay to DRAM."""
        near, (first, many) = self.c.near_output, self.c.copied
        low, high = max(row, first), min(row + rows, first + many)
        if near is None or low >= high:
            return
        _, _, _, by_row, by_column = self.c.output.strides
        self.to.set(STORE, base1=self.c.output.base, row1=by_row, pixel1=by_column, near1=0)
        self.to.set(STORE, local_row1=near.row, local_pixel1=near.pixel)
        self.to.emit(
            "store",
            STORE,
            stream=COPY,
            dram=low * by_row + column * by_column + channel,
            local=near.base + near.place(self.c.row + low) + column * near.pixel + channel,
            rows=high - low,
            columns=columns,
            bytes=count,
        )
