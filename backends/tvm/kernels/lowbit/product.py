"""Products of two activations in bytes: what `batched.py` and `attention.py` are made of.

Dot products want unsigned bytes on one side and signed ones on the other. Others get their sign flipped when they are
copied, and with it their zero point moves by 128. Zero points leave terms of rows and of columns:

    sum_k (a - za)(b - zb) = sum_k a b - za sum_k b - zb sum_k a + K za zb

Columns of b are copied into panels, [panels, K / 4, columns of a panel] words of four bytes, and sums start with their
term. Rows of a are copied a block at a time. Bytes beyond K are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..emit import Emitter
from ..kernel import Dim, Expr, VectorUnit, ceil_div, cover
from ..tile import RegisterTile, choose_tile
from .dot import BytesDot
from .tile import DotTile

__all__ = ["ByteProduct", "Side"]

Read = Callable[[Expr, Expr], Expr]
"""The byte at (row, column); called inside vectorised loops."""

SYMBOLIC_COLUMNS = 128
"""Number of columns that tiles are chosen for where it is unknown."""

FLIP = 0x80


@dataclass(frozen=True)
class Side:
    """How one side of a product is stored."""

    dtype: str
    zero: int

    def unsigned(self) -> tuple[bool, int]:
        """Whether signs are flipped to make the bytes unsigned, and the zero point then."""
        return (True, self.zero + 128) if self.dtype == "int8" else (False, self.zero)

    def signed(self) -> tuple[bool, int]:
        return (True, self.zero - 128) if self.dtype == "uint8" else (False, self.zero)


class ByteProduct:
    """Blocks of `rows` rows of a[.., depth], times b[depth, columns]; `depth` and `columns` may be symbolic."""

    def __init__(self, emit: Emitter, unit: VectorUnit, rows: int, depth: Dim, columns: Dim, a: Side, b: Side) -> None:
        self.emit, self.rows, self.depth, self.columns = emit, rows, depth, columns
        self.dot, self.lanes = BytesDot(unit), unit.lanes
        (self.a_flips, self.a_zero), (self.b_flips, self.b_zero) = a.unsigned(), b.signed()
        self.steps = _ceil(depth, 4)
        self.vectors = _ceil(columns, self.lanes)
        known = self.vectors if isinstance(self.vectors, int) else SYMBOLIC_COLUMNS // self.lanes
        self.tile = choose_tile(rows, known, self.dot.tile_unit)
        self.width = self.tile[1] * self.lanes
        self.panels = _ceil(columns, self.width)
        self.edge = (
            self.vectors % self.tile[1] if isinstance(self.vectors, int) else 0
        )  # vectors of a last, smaller panel
        # Rows lie a cache line past a power of two apart, in different sets.
        self.pitch = _ceil(depth, 4 * self.lanes) * (4 * self.lanes) + 64

    def allocate(self) -> None:
        """Memory of a task."""
        emit = self.emit
        self.a = emit.scratch(self.rows, self.pitch, dtype="uint8")
        self.b = emit.scratch(self.panels, self.steps, self.width, dtype="int32")
        self.row_terms = emit.scratch(self.rows, dtype="int32")
        self.column_terms = emit.scratch(self.panels * self.width, dtype="int32")
        lanes = 4 * self.lanes
        with emit.serial(self.rows) as row, emit.serial(self.pitch // lanes) as i:
            emit.store(self.a, [row, emit.ramp(i * lanes, lanes)], emit.splat_of(0, "uint8", lanes))

    # --- columns of b -----------------------------------------------------------------------------------------------

    def copy_columns(self, read: Read, depth_innermost: bool = False) -> None:
        """b into panels; `depth_innermost`: neighbours along the depth, not the columns, are neighbours in memory.

        The columns beyond the last one are copies of it. The depth is known where it is innermost.
        """
        emit = self.emit
        words = self._words_of_columns if depth_innermost else self._words_of_rows
        line = None
        if depth_innermost:
            assert isinstance(self.depth, int)
            line = emit.scratch(self.lanes, self.pitch, dtype="uint8")
            with emit.serial(self.lanes) as j:
                emit.fill_row(line, [j], 0, 4 * self.steps, 0, 4 * self.lanes)
        with emit.serial(self.vectors) as vector:
            panel, column = vector // self.tile[1], vector % self.tile[1] * self.lanes
            sums = emit.registers(self.dot.width, dtype="int32")
            everywhere = emit.ramp(0, self.dot.width)
            emit.store(sums, [everywhere], emit.splat_of(0, "int32", self.dot.width))

            def put(step: Expr, value: Expr, panel: Expr = panel, column: Expr = column, sums: Any = sums) -> None:
                emit.store(self.b, [panel, step, emit.ramp(column, self.lanes)], value)
                if self.a_zero:
                    ones = emit.splat_of(1, "uint8", 4 * self.lanes)
                    signed = emit.bits(value, f"int8x{4 * self.lanes}")
                    emit.store(sums, [everywhere], self.dot.add_lanes(emit, sums[everywhere], ones, signed))

            words(read, vector * self.lanes, line, put)
            if self.a_zero:
                total = self.dot.finish(emit, sums[everywhere]) * emit.splat_of(-self.a_zero, "int32", self.lanes)
                emit.store(self.column_terms, [emit.ramp(vector * self.lanes, self.lanes)], total)

    def _column(self, j: Expr) -> Expr:
        exact = isinstance(self.columns, int) and self.columns % self.lanes == 0
        return j if exact else self.emit.min(j, self.columns - 1)

    def _byte(self, value: Expr, flips: bool) -> Expr:
        emit = self.emit
        value = emit.cast(value, "uint8")
        return value ^ emit.splat_of(FLIP, "uint8", 1) if flips else value

    def _words_of_rows(self, read: Read, first: Expr, line: Any, put: Callable[[Expr, Expr], None]) -> None:
        """Four rows of b at a time, interleaved."""
        emit, lanes = self.emit, self.lanes
        picks = [j * lanes + i for i in range(lanes) for j in range(4)]

        def step(k: Expr, inside: Callable[[Expr], Expr] | None) -> None:
            rows = [emit.registers(lanes, dtype="uint8") for _ in range(4)]
            for j, row in enumerate(rows):
                at = emit.bind(4 * k + j if inside is None else emit.min(4 * k + j, self.depth - 1))
                with emit.lanes(lanes) as lane:
                    value = self._byte(read(at, self._column(first + lane)), self.b_flips)
                    if inside is not None:
                        value = emit.select(inside(4 * k + j), value, self._zero())
                    emit.store(row, [lane], value)
            vectors = [row[emit.ramp(0, lanes)] for row in rows]
            put(k, emit.bits(emit.shuffle(vectors, picks), f"int32x{lanes}"))

        whole = self.depth // 4
        with emit.serial(whole) as k:
            step(k, None)
        if not (isinstance(self.depth, int) and self.depth % 4 == 0):
            with emit.serial(self.steps - whole) as rest:
                step(whole + rest, lambda at: at < self.depth)

    def _words_of_columns(self, read: Read, first: Expr, line: Any, put: Callable[[Expr, Expr], None]) -> None:
        """The bytes of a word lie together: a row of them for each column, and then across."""
        emit, lanes = self.emit, self.lanes
        with emit.serial(lanes) as j:
            column = emit.bind(self._column(first + j))
            self._copy_row(line, j, lambda k: self._byte(read(k, column), self.b_flips))
        with emit.serial(self.steps) as k:
            words = emit.registers(lanes, dtype="int32")
            for j in range(lanes):
                emit.store(words, [j], emit.bits(line[j, emit.ramp(4 * k, 4)], "int32"))
            put(k, words[emit.ramp(0, lanes)])

    def _copy_row(self, to: Any, row: Expr, element: Callable[[Expr], Expr]) -> None:
        emit = self.emit
        assert isinstance(self.depth, int)
        for start, width in cover(self.depth, 4 * self.lanes):
            with emit.lanes(width) as lane:
                emit.store(to, [row, start + lane], element(start + lane))

    # --- rows of a --------------------------------------------------------------------------------------------------

    def copy_rows(self, read: Read) -> None:
        """A block of rows of a, of known depth."""
        with self.emit.serial(self.rows) as row:
            self._copy_row(self.a, row, lambda k: self._byte(read(row, k), self.a_flips))
            self.row_copied(row)

    def put(self, row: Expr, k: Expr, value: Expr, end: Dim | None = None) -> None:
        """One byte of a row (or, in a vectorised loop, some), for callers that make the rows; 0 from k = `end` on."""
        byte = self._byte(value, self.a_flips)
        self.emit.store(self.a, [row, k], byte if end is None else self.emit.select(k < end, byte, self._zero()))

    def _zero(self) -> Expr:
        return self.emit.splat_of(0, "uint8", 1)

    def row_copied(self, row: Expr) -> None:
        """To be called when a row is complete: its term."""
        if not self.b_zero:
            return
        emit, width = self.emit, self.dot.width
        count, everywhere = 4 * self.lanes, emit.ramp(0, width)
        sums = emit.registers(width, dtype="int32")
        emit.store(sums, [everywhere], emit.splat_of(0, "int32", width))
        ones = emit.splat_of(1, "int8", count)
        with emit.serial(_ceil(self.depth, count)) as i:
            x = self.a[row, emit.ramp(i * count, count)]
            emit.store(sums, [everywhere], self.dot.add_lanes(emit, sums[everywhere], x, ones))
        while width > 1:
            width //= 2
            low, high = emit.ramp(0, width), emit.ramp(width, width)
            emit.store(sums, [low], sums[low] + sums[high])
        both = self.depth * (self.a_zero * self.b_zero)
        constant = emit.integer(both) if isinstance(both, int) else emit.cast(both, "int32")
        emit.store(self.row_terms, [row], sums[0] * emit.integer(-self.b_zero) + constant)

    # --- sums -------------------------------------------------------------------------------------------------------

    def run(self, use: Callable[[RegisterTile, Expr, Expr, int], None]) -> None:
        """use(sums, first row, first column, vectors) for all tiles of a block: the rows innermost, in one loop."""
        emit, (height, vectors) = self.emit, self.tile
        whole, some = self.rows // height, self.rows % height
        edge = self.edge
        panels = self.panels - bool(edge)
        if not isinstance(panels, int) or panels:
            with emit.serial(panels * whole) as i:
                self._tile(i // whole, i % whole * height, height, vectors, use)
        if edge:
            with emit.serial(whole) as i:
                self._tile(panels, i * height, height, edge, use)
        if some:
            with emit.serial(panels) as panel:
                self._tile(panel, whole * height, some, vectors, use)
            if edge:
                self._tile(panels, whole * height, some, edge, use)

    def valid(self, first: Expr, vectors: int, body: Callable[[int], None]) -> None:
        """body(n) for a tile of known columns, of which the first n exist; a tile has its code twice at most."""
        assert isinstance(self.columns, int)
        width = vectors * self.lanes
        if isinstance(first, int):
            body(min(width, self.columns - first))
        elif self.edge or self.columns % width == 0:
            body(width)
        else:
            rest = self.columns % width
            self.emit.branch(first + width <= self.columns, lambda: body(width), lambda: body(rest))

    def _tile(
        self,
        panel: Expr,
        row: Expr,
        height: int,
        vectors: int,
        use: Callable[[RegisterTile, Expr, Expr, int], None],
    ) -> None:
        emit, lanes = self.emit, self.lanes
        first = panel * self.width

        def term(v: int) -> Expr:
            return self.column_terms[emit.ramp(first + v * lanes, lanes)]

        def weights(k: Expr, v: int) -> Expr:
            return emit.bits(self.b[panel, k, emit.ramp(v * lanes, lanes)], f"int8x{4 * lanes}")

        sums = DotTile(emit, self.dot, height, vectors, term if self.a_zero else None)
        with emit.serial(self.steps) as k:
            sums.step(lambda r: emit.bits(self.a[row + r, emit.ramp(4 * k, 4)], "int32"), lambda v: weights(k, v))
        made = sums.finish()
        if self.b_zero:
            made.update(lambda acc, r, v: acc + emit.splat(self.row_terms[row + r], lanes))
        use(made, row, first, vectors)


def _ceil(a: Dim, b: int) -> Dim:
    return ceil_div(a, b) if isinstance(a, int) else (a + (b - 1)) // b
