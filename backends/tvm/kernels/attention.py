"""Attention, softmax(Q K^T) V, without the scores in memory.

A task is one matrix of the batch (one head of one sequence). It copies K, transposed, and V into panels, then takes a
block of query rows at a time: products with K into a scratch block of scores that stays in the cache, softmax over its
rows, products with V. The sums of the exponentials divide the results, not the scores. A row is not cut into pieces, so
that there is nothing to correct afterwards: the block of scores outgrows L2 only beyond some ten thousand keys.

How Q, K, V and the mask lie in memory is the caller's affair: they are read through functions of an index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .emit import Emitter
from .kernel import Dim, Expr, VectorUnit, ceil_div, cover, identity
from .query_rows import QueryRows
from .rows import exponentials
from .tile import RegisterTile, choose_tile

SYMBOLIC_KEYS = 128
"""Number of keys that tiles are chosen for where it is unknown."""

Read = Callable[[tuple[Expr, ...]], Expr]
"""The element at an index (*batch, row, column); called inside vectorised loops."""


@dataclass(frozen=True)
class Operands:
    """What attention reads and where its results go.

    `batch` are the leading dimensions, q[*batch, queries, depth], k[*batch, depth, keys], v[*batch, keys, width]:
    `batch`, `queries` and `keys` may be symbolic. `keys_outermost` tells that neighbours along the depth of k are
    neighbours in memory. `score(index, product)` makes the score of a product: scale, mask. `out_index` is where in
    `out` the element (*batch, query, column) belongs.

    Of known extents, `seen` may tell for each query up to which key the weights are not all 0: what lies behind is
    left out. `table` gives access to an array of integers.
    """

    batch: tuple[Dim, ...]
    queries: Dim
    keys: Dim
    depth: int
    width: int
    q: Read
    k: Read
    v: Read
    keys_outermost: bool
    score: Callable[[tuple[Expr, ...], Expr], Expr]
    out: Any
    out_index: Callable[[tuple[Expr, ...]], tuple[Expr, ...]]
    seen: npt.NDArray[np.int32] | None = None
    table: Callable[[npt.NDArray[np.int32]], Callable[[Expr], Expr]] | None = None


def emit_attention(emit: Emitter, unit: VectorUnit, operands: Operands) -> None:
    """The loops of attention, inside of a function that the caller has begun."""
    _Attention(emit, unit, operands).run()


class _Attention:
    def __init__(self, emit: Emitter, unit: VectorUnit, operands: Operands) -> None:
        self.emit, self.unit, self.o = emit, unit, operands
        lanes = unit.lanes
        keys = operands.keys
        self.queries = QueryRows(emit, operands.queries)
        self.rows = self.queries.height
        # Scores are padded to whole vectors, whose last lanes are -inf.
        self.vectors: Dim = ceil_div(keys, lanes) if isinstance(keys, int) else (keys + lanes - 1) // lanes
        known = self.vectors if isinstance(self.vectors, int) else SYMBOLIC_KEYS // lanes
        self.score_tile = choose_tile(self.rows, known, unit)
        self.panel = self.score_tile[1] * lanes
        wide = self.vectors // self.score_tile[1] if isinstance(self.vectors, int) else None
        self.edge = self.vectors % self.score_tile[1] if isinstance(self.vectors, int) else 0
        self.panels: Dim = (keys + self.panel - 1) // self.panel if wide is None else wide + bool(self.edge)
        self.whole_panels: Dim = self.panels if wide is None else wide
        # Rows of scores lie a cache line past a power of two apart, in different sets.
        self.pitch: Dim = self.panels * self.panel + lanes
        self.width = ceil_div(operands.width, lanes) * lanes
        self.keys_of = self._keys_of_blocks()

    def _keys_of_blocks(self) -> Callable[[Expr], Expr]:
        """How many keys a block of rows looks at: all, or whole vectors up to the last one that a row of it sees."""
        o, lanes, blocks = self.o, self.unit.lanes, self.queries.blocks
        if o.seen is None or o.table is None or not isinstance(o.keys, int) or not isinstance(blocks, int):
            return lambda block: o.keys
        last = np.array(
            [o.seen[min(b * self.rows, len(o.seen) - self.rows) :][: self.rows].max() for b in range(blocks)]
        )
        keys = np.minimum(-(-last // lanes) * lanes, o.keys).astype(np.int32)
        return o.table(keys) if (keys < o.keys).any() else lambda block: o.keys

    def run(self) -> None:
        emit, o = self.emit, self.o
        with self.queries.tasks(o.batch) as task:
            batch = task.batch
            k = emit.scratch(self.panels, o.depth, self.panel)
            v = emit.scratch(o.keys, self.width)
            q = emit.scratch(self.rows, o.depth)
            scores = emit.scratch(self.rows, self.pitch)
            scale = emit.scratch(self.rows)
            self._copy_keys(batch, k)
            self._copy(o.keys, o.width, v, lambda row, column: o.v((*batch, row, column)))
            with self.queries.each(task) as (block, start):
                self._copy(
                    self.rows, o.depth, q, lambda row, column: o.q((*batch, self.queries.row(start, row), column))
                )
                keys = emit.bind(self.keys_of(block))
                self._scores(q, k, keys, scores)
                with emit.serial(self.rows) as row:
                    self._softmax((*batch, self.queries.row(start, row)), row, keys, scores, scale)
                self._results(batch, start, keys, scores, scale, v)

    def _copy(self, rows: Dim, columns: int, to: Any, element: Callable[[Expr, Expr], Expr]) -> None:
        emit = self.emit
        with emit.serial(rows) as row:
            for first, lanes in cover(columns, self.unit.lanes):
                with emit.lanes(lanes) as lane:
                    emit.store(to, [row, first + lane], element(row, first + lane))

    def _copy_keys(self, batch: tuple[Expr, ...], to: Any) -> None:
        """K into panels of [depth][keys of a panel]; the keys beyond the last one are copies of it."""
        emit, o, lanes = self.emit, self.o, self.unit.lanes

        def key(j: Expr) -> Expr:
            exact = isinstance(o.keys, int) and o.keys % lanes == 0
            return j if exact else emit.min(j, o.keys - 1)

        with emit.serial(self.vectors) as chunk:
            panel, column = chunk // self.score_tile[1], chunk % self.score_tile[1] * lanes
            if not o.keys_outermost:
                with emit.serial(o.depth) as d, emit.lanes(lanes) as lane:
                    emit.store(to, [panel, d, column + lane], o.k((*batch, d, key(chunk * lanes + lane))))
                return
            pieces = cover(o.depth, lanes)
            side = pieces[0][1]

            def squares(first: Expr) -> None:
                with emit.serial(lanes // side) as part:
                    square = [emit.registers(side) for _ in range(side)]
                    for j in range(side):
                        row = emit.bind(key(chunk * lanes + part * side + j))
                        with emit.lanes(side) as lane:
                            emit.store(square[j], [lane], o.k((*batch, first + lane, row)))
                    for d, vector in enumerate(self._transposed(square)):
                        emit.store(to, [panel, first + d, emit.ramp(column + part * side, side)], vector)

            whole = o.depth // side
            with emit.serial(whole) as piece:
                squares(piece * side)
            if o.depth % side:
                squares(o.depth - side)

    def _transposed(self, square: list[Any]) -> list[Expr]:
        """The columns of a square of rows in registers: pairs of rows swap blocks of 1, 2, 4, ... lanes."""
        emit, side, step = self.emit, len(square), 1
        everywhere = emit.ramp(0, side)
        while step < side:
            swapped = [emit.registers(side) for _ in range(side)]
            for i in range(side):
                if i & step:
                    continue
                pair = [square[r][everywhere] for r in (i, i + step)]
                low = [c if not c & step else side + c - step for c in range(side)]
                for r, picks in ((i, low), (i + step, [c + step for c in low])):
                    emit.store(swapped[r], [everywhere], emit.shuffle(pair, picks))
            square, step = swapped, 2 * step
        return [row[everywhere] for row in square]

    def _tiles(self, height: int, count: Dim, body: Callable[[Expr, Expr, int], None]) -> None:
        """body(column block, first row, height) for all tiles of a block of rows: the rows innermost, in one loop."""
        emit, whole = self.emit, self.rows // height
        with emit.serial(count * whole) as i:
            body(i // whole, i % whole * height, height)
        if self.rows % height:
            with emit.serial(count) as column:
                body(column, whole * height, self.rows % height)

    def _scores(self, q: Any, k: Any, keys: Expr, scores: Any) -> None:
        emit, lanes = self.emit, self.unit.lanes
        height, vectors = self.score_tile

        def tile(panel: Expr, row: Expr, height: int, vectors: int) -> None:
            acc = RegisterTile(emit, height, vectors, lanes)
            acc.fill()
            with emit.serial(self.o.depth) as d:
                acc.add_outer(lambda r: q[row + r, d], lambda v: k[panel, d, emit.ramp(v * lanes, lanes)])
            acc.spill(scores, lambda r, v: [row + r, panel * self.panel + v * lanes])

        def edge() -> None:
            self._tiles(height, 1, lambda _, row, h: tile(self.whole_panels, row, h, self.edge))

        some = not isinstance(keys, int) and isinstance(self.whole_panels, int)
        whole = emit.min((keys + self.panel - 1) // self.panel, self.whole_panels) if some else self.whole_panels
        self._tiles(height, whole, lambda panel, row, h: tile(panel, row, h, vectors))
        if self.edge and some:
            with emit.when(keys > self.whole_panels * self.panel):
                edge()
        elif self.edge:
            edge()

    def _softmax(self, row: tuple[Expr, ...], r: Expr, keys: Expr, scores: Any, scale: Any) -> None:
        """Scores of a row to exponentials, and one over their sum."""
        emit, o, lanes = self.emit, self.o, self.unit.lanes
        rest = o.keys % lanes
        with emit.serial(keys // lanes) as i, emit.lanes(lanes) as lane:
            j = i * lanes + lane
            emit.store(scores, [r, j], o.score((*row, j), scores[r, j]))

        def last_vector() -> None:
            with emit.serial(rest) as i:
                j = o.keys // lanes * lanes + i
                emit.store(scores, [r, j], o.score((*row, j), scores[r, j]))
            with emit.serial(lanes - rest) as i:
                emit.store(scores, [r, o.keys + i], emit.const(float("-inf")))

        if not isinstance(rest, int) or (rest and isinstance(keys, int)):
            last_vector()
        elif rest:
            with emit.when(keys == o.keys):
                last_vector()
        vectors = self.vectors if keys is o.keys else (keys + lanes - 1) // lanes
        total = exponentials(emit, lambda column: (r, column), scores, vectors, lanes)
        emit.store(scale, [r], emit.const(1.0) / total)

    def _results(self, batch: tuple[Expr, ...], start: Expr, keys: Expr, scores: Any, scale: Any, v: Any) -> None:
        emit, o, lanes = self.emit, self.o, self.unit.lanes
        height, vectors = choose_tile(self.rows, self.width // lanes, self.unit)

        def tile(first: Expr, valid: int, row: Expr, height: int) -> None:
            acc = RegisterTile(emit, height, ceil_div(valid, lanes), lanes)
            acc.fill()
            with emit.serial(keys) as j:
                acc.add_outer(lambda r: scores[row + r, j], lambda x: v[j, emit.ramp(first + x * lanes, lanes)])
            acc.update(lambda value, r, x: value * emit.splat(scale[row + r], lanes))
            acc.store(
                range(0, valid, lanes),
                valid,
                lambda r, x: o.out_index((*batch, self.queries.row(start, row + r), first + x)),
                o.out,
                identity,
                (),
            )

        block = vectors * lanes
        whole, rest = divmod(o.width, block)
        if whole:
            self._tiles(height, whole, lambda b, row, h: tile(b * block, block, row, h))
        if rest:
            self._tiles(height, 1, lambda _, row, h: tile(whole * block, rest, row, h))
