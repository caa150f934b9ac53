"""Attention in integers: products of bytes, and between them a softmax of rows of sums, which stay in the cache.

A task is one matrix of the batch (one head of one sequence). It copies K and V into panels, then takes a block of query
rows at a time. A row goes through three passes: scores of the sums, and the largest; how far below it each one is,
an exponential for that from a table, and their sum; and each exponential's share of the sum, as a byte again, that is
a row of the second product.

What scores are made of sums, and bytes of shares, is the caller's affair: it is told as functions of one element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emit import Emitter
from ..kernel import Dim, Expr, VectorUnit
from ..query_rows import QueryRows
from ..rows import fold_lanes
from ..tile import RegisterTile
from .fixed import Rescale
from .lookup import Lookup
from .product import ByteProduct, Side

__all__ = ["ByteAttention", "emit_byte_attention"]

Index = tuple[Expr, ...]
Read = Callable[[Index], Expr]
"""The byte at an index (*batch, row, column); called inside vectorised loops."""


@dataclass(frozen=True)
class ByteAttention:
    """q[*batch, queries, depth], k[*batch, depth, keys], v[*batch, keys, width]; `batch`, `queries`, `keys` may be
    symbolic. `k_depth_innermost`: neighbours along the depth of k are neighbours in memory.

    `score(index, sum)` is a number of `score_dtype`; `below(score, largest)` an index of `exponentials`, whose
    numbers are `words`. A share is (exponential * one + total / 2) / total, rounded down; `weight(index, share)` makes
    a byte of it. `result(index, sum)` is stored in `out`, whose axis i is the axis `perm[i]` of an index. Sums and
    shares are rescaled before, where there is a factor for it. A score of nan makes its row's result any bytes.
    """

    batch: tuple[Dim, ...]
    queries: Dim
    keys: Dim
    depth: int
    width: int
    q: Side
    k: Side
    weights: Side
    v: Side
    read_q: Read
    read_k: Read
    read_v: Read
    k_depth_innermost: bool
    score_scale: Rescale | None
    score_dtype: str
    score: Callable[[Index, Expr], Expr]
    below: Callable[[Expr, Expr], Expr]
    exponentials: Lookup
    words: Any
    one: int
    weight_scale: Rescale | None
    weight: Callable[[Index, Expr], Expr]
    result_scale: Rescale | None
    result: Callable[[Index, Expr], Expr]
    out: Any
    perm: tuple[int, ...]


def emit_byte_attention(emit: Emitter, unit: VectorUnit, operands: ByteAttention) -> None:
    """The loops, inside of a function that the caller has begun."""
    _Attention(emit, unit, operands).run()


class _Attention:
    def __init__(self, emit: Emitter, unit: VectorUnit, o: ByteAttention) -> None:
        self.emit, self.unit, self.lanes, self.o = emit, unit, unit.lanes, o
        self.queries = QueryRows(emit, o.queries)
        self.rows = self.queries.height
        self.first = ByteProduct(emit, unit, self.rows, o.depth, o.keys, o.q, o.k)
        self.second = ByteProduct(emit, unit, self.rows, o.keys, o.width, o.weights, o.v)
        self.pitch = self.first.panels * self.first.width + self.lanes

    def run(self) -> None:
        emit, o = self.emit, self.o
        with self.queries.tasks(o.batch) as task:
            self.first.allocate()
            self.second.allocate()
            self.sums = emit.scratch(self.rows, self.pitch, dtype="int32")
            self.scores = emit.scratch(self.rows, self.pitch, dtype=o.score_dtype)
            self.powers = emit.scratch(self.rows, self.pitch, dtype="int32")
            self.largest = emit.scratch(self.rows, dtype=o.score_dtype)
            self.totals = emit.scratch(self.rows, dtype="int32")
            self.first.copy_columns(lambda d, j: o.read_k((*task.batch, d, j)), o.k_depth_innermost)
            self.second.copy_columns(lambda j, w: o.read_v((*task.batch, j, w)))
            with self.queries.each(task) as (_, start):
                self._block(task.batch, start)

    def _block(self, batch: Index, start: Expr) -> None:
        emit, o, lanes = self.emit, self.o, self.lanes
        self.first.copy_rows(lambda row, d: o.read_q((*batch, self.queries.row(start, row), d)))

        def kept(sums: RegisterTile, row: Expr, column: Expr, vectors: int) -> None:
            self._rescale(sums, o.score_scale)
            sums.spill(self.sums, lambda r, v: [row + r, column + v * lanes])

        self.first.run(kept)
        # pass after pass over all rows: what a pass waits for at the end of a row overlaps with the next one
        with emit.serial(self.rows) as row:
            self._score((*batch, emit.bind(self.queries.row(start, row))), row)
        with emit.serial(self.rows) as row:
            self._raise(row)
        with emit.serial(self.rows) as row:
            self._share((*batch, emit.bind(self.queries.row(start, row))), row)
        with emit.serial(self.rows) as row:
            self.second.row_copied(row)

        def placed(index: Index) -> Index:
            return tuple(index[a] for a in o.perm)

        def stored(sums: RegisterTile, row: Expr, column: Expr, vectors: int) -> None:
            self._rescale(sums, o.result_scale)

            def store(valid: int) -> None:
                sums.store(
                    range(0, valid, lanes),
                    valid,
                    lambda r, x: placed((*batch, self.queries.row(start, row + r), column + x)),
                    o.out,
                    lambda value, index, _: o.result(tuple(index[o.perm.index(a)] for a in range(len(index))), value),
                    (),
                )

            self.second.valid(column, vectors, store)

        self.second.run(stored)

    def _rescale(self, sums: RegisterTile, scale: Rescale | None) -> None:
        if scale is not None:
            sums.update(lambda acc, r, v: scale.uniform(self.emit, acc, self.lanes))

    # --- one row ----------------------------------------------------------------------------------------------------

    def _vectors(self, body: Callable[[Expr, bool], None]) -> None:
        """body(first column, whether all exist) for every vector of a row."""
        emit, keys, lanes = self.emit, self.o.keys, self.lanes
        with emit.serial(keys // lanes) as i:
            body(i * lanes, True)
        if not isinstance(keys, int):
            with emit.when(keys % lanes > 0):
                body(keys // lanes * lanes, False)
        elif keys % lanes:
            body(keys // lanes * lanes, False)

    def _score(self, at: Index, row: Expr) -> None:
        """Sums to scores, and the largest."""
        emit, o, lanes = self.emit, self.o, self.lanes
        everywhere = emit.ramp(0, lanes)
        best = emit.registers(lanes, dtype=o.score_dtype)
        self._fill(best, -math.inf if o.score_dtype == "float32" else int(np.iinfo(o.score_dtype).min))

        def scored(start: Expr, whole: bool) -> None:
            with emit.lanes(lanes) as lane:
                # beyond the last key that one once more, which leaves the largest as it is
                j = start + lane if whole else emit.min(start + lane, o.keys - 1)
                emit.store(self.scores, [row, start + lane], o.score((*at, j), self.sums[row, j]))
            here = self.scores[row, emit.ramp(start, lanes)]
            emit.store(best, [everywhere], emit.max(best[everywhere], here))

        self._vectors(scored)
        fold_lanes(emit, best, lanes, emit.max)
        emit.store(self.largest, [row], best[0])

    def _raise(self, row: Expr) -> None:
        """Scores to exponentials, and their sum."""
        emit, o, lanes = self.emit, self.o, self.lanes
        everywhere = emit.ramp(0, lanes)
        total, index = (emit.registers(lanes, dtype="int32") for _ in range(2))
        self._fill(total, 0)

        def raised(start: Expr, whole: bool) -> None:
            with emit.lanes(lanes) as lane:
                emit.store(index, [lane], o.below(self.scores[row, start + lane], self.largest[row]))
            power = o.exponentials.vector(emit, o.words, index)
            if not whole:
                power = emit.select(emit.ramp(start, lanes) < emit.splat(o.keys, lanes), power, self._all(0))
            emit.store(self.powers, [row, emit.ramp(start, lanes)], power)
            emit.store(total, [everywhere], total[everywhere] + self.powers[row, emit.ramp(start, lanes)])

        self._vectors(raised)
        fold_lanes(emit, total, lanes, lambda a, b: a + b)
        emit.store(self.totals, [row], total[0])

    def _share(self, at: Index, row: Expr) -> None:
        """Exponentials to shares of their sum, which become a row of the second product."""
        emit, o, lanes = self.emit, self.o, self.lanes
        shares = emit.registers(lanes, dtype="int32")
        total = emit.bind(self.totals[row])
        inverse = emit.bind(emit.const(1.0) / emit.to_float(total))

        def shared(start: Expr, whole: bool) -> None:
            share = self._divided(self.powers[row, emit.ramp(start, lanes)], total, inverse)
            if o.weight_scale is not None:
                share = o.weight_scale.uniform(emit, share, lanes)
            emit.store(shares, [emit.ramp(0, lanes)], share)
            with emit.lanes(lanes) as lane:
                j = start + lane if whole else emit.min(start + lane, o.keys - 1)
                self.second.put(row, start + lane, o.weight((*at, j), shares[lane]), None if whole else o.keys)

        self._vectors(shared)

    def _divided(self, power: Expr, total: Expr, inverse: Expr) -> Expr:
        """(power * one + total / 2) / total, rounded down: estimated in floats to less than one, and put right."""
        emit, lanes = self.emit, self.lanes

        def kept(value: Expr) -> Expr:
            buffer = emit.registers(lanes, dtype="int32")
            emit.store(buffer, [emit.ramp(0, lanes)], value)
            return buffer[emit.ramp(0, lanes)]

        sums = emit.splat(total, lanes)
        number = kept(power * self._all(self.o.one) + emit.splat(total >> emit.integer(1), lanes))
        guess = kept(emit.cast(emit.cast(number, "float32") * emit.splat(inverse, lanes), "int32"))
        rest = kept(number - guess * sums)
        one, none = self._all(1), self._all(0)
        return guess + emit.select(rest >= sums, one, none) - emit.select(rest < none, one, none)

    def _fill(self, buffer: Any, value: float) -> None:
        self.emit.store(
            buffer, [self.emit.ramp(0, self.lanes)], self.emit.splat_of(value, str(buffer.dtype), self.lanes)
        )

    def _all(self, value: int) -> Expr:
        return self.emit.splat_of(value, "int32", self.lanes)
