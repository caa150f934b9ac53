"""The register tile: an outer product of broadcast scalars and vectors, accumulated in registers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .emit import Emitter
from .kernel import Epilogue, Expr, VectorUnit, ceil_div, cover

FMA_LATENCY_X_PORTS = 8
"""Independent accumulators that keep two FMA ports of latency four busy."""

LOAD_WEIGHT = 0.25
"""Issue slots a load costs even where FMAs outnumber loads: front end and cache ports are shared."""


def _slots(rows: int, vectors: int) -> float:
    """Issue slots of one step of a register tile: FMAs or loads, whichever are more, with unhidden
    latency.
    """
    fmas, loads = rows * vectors, rows + vectors
    return max(fmas, FMA_LATENCY_X_PORTS, loads) + LOAD_WEIGHT * loads


@functools.cache
def choose_tile(rows: int, vectors: int, unit: VectorUnit) -> tuple[int, int]:
    """(rows, vectors) of the register tile for a problem of that many broadcast rows and vectors.

    Minimises the issue slots of all tiles; those at the edges are as large as what remains. Besides one
    register for a broadcast, one in sixteen stays free: LLVM spills accumulators where it has no room to
    reorder loads.
    """
    best: tuple[float, int, int] | None = None
    for r in range(1, min(rows, 14) + 1):
        for v in range(1, min(vectors, 12) + 1):
            if r * v + v + 1 > unit.registers - unit.registers // 16:
                continue
            row_edges = [(rows // r, r), (1, rows % r)]
            column_edges = [(vectors // v, v), (1, vectors % v)]
            cost = sum(n * m * _slots(y, x) for n, y in row_edges for m, x in column_edges if y and x)
            if best is None or cost < best[0] - 1e-9:
                best = (cost, r, v)
    assert best is not None
    return best[1], best[2]


class RegisterTile:
    """`rows` x `vectors` accumulators; every statement is unrolled so that the buffer ends up in
    registers.
    """

    def __init__(self, emit: Emitter, rows: int, vectors: int, lanes: int) -> None:
        self._emit = emit
        self._shape = (rows, vectors, lanes)
        self._acc = emit.registers(rows, vectors * lanes)

    def fill(self, value: float = 0.0) -> None:
        self.update(lambda acc, r, v: self._emit.splat(self._emit.const(value), self._shape[2]))

    def update(self, value: Callable[[Expr, int, int], Expr]) -> None:
        """acc[r, v] = value(acc[r, v], r, v)."""
        emit, (rows, vectors, lanes) = self._emit, self._shape
        for r in range(rows):
            for v in range(vectors):
                at = [r, emit.ramp(v * lanes, lanes)]
                emit.store(self._acc, at, value(self._acc[tuple(at)], r, v))

    def add_outer(self, scalar: Callable[[int], Expr], vector: Callable[[int], Expr]) -> None:
        """acc[r, v] += scalar(r) * vector(v)."""
        self.update(lambda acc, r, v: acc + self._emit.splat(scalar(r), self._shape[2]) * vector(v))

    def spill(self, buffer: Any, index: Callable[[int, int], list[Expr]]) -> None:
        """Store accumulators: vector v of row r goes to buffer[index(r, v)] and following."""
        emit, (rows, vectors, lanes) = self._emit, self._shape
        for r in range(rows):
            for v in range(vectors):
                value = self._acc[r, emit.ramp(v * lanes, lanes)]
                *prefix, last = index(r, v)
                emit.store(buffer, [*prefix, emit.ramp(last, lanes)], value)

    def store(
        self,
        starts: Sequence[int],
        valid: int,
        index: Callable[[Expr, Expr], tuple[Expr, ...]],
        out: Any,
        epilogue: Epilogue,
        extras: tuple[Any, ...],
    ) -> None:
        """Apply the epilogue and store `valid` columns of each row; vector v holds those from starts[v]
        on.
        """
        # Through the stack, so that the code of a long epilogue exists once and not once an accumulator; of a
        # short one LLVM unrolls the loop, and the detour is gone.
        emit, (rows, _, lanes) = self._emit, self._shape
        pitch = ceil_div(valid, lanes) * lanes
        stack = emit.registers(rows * pitch)
        self.spill(stack, lambda r, v: [r * pitch + starts[v]])

        def row(r: Expr) -> None:
            for start, width in cover(valid, lanes):
                with emit.lanes(width) as lane:
                    at = index(r, start + lane)
                    emit.store(out, at, epilogue(stack[r * pitch + start + lane], at, extras))

        if rows == 1:
            row(0)
        else:
            with emit.serial(rows) as r:
                row(r)
