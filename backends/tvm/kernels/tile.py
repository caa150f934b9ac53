"""The register tile: an outer product of broadcast scalars and vectors, accumulated in registers."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from .emit import Emitter
from .kernel import Epilogue, Expr, VectorUnit, ceil_div, cover

Plan = TypeVar("Plan")

FMA_LATENCY_X_PORTS = 8
"""Independent accumulators that keep two FMA ports of latency four busy."""

LOAD_WEIGHT = 0.25
"""Issue slots a load costs even where FMAs outnumber loads: front end and cache ports are shared."""


def issue_slots(rows: int, vectors: int) -> float:
    """Issue slots of one step of a register tile: FMAs or loads, whichever are more, with unhidden
    latency.
    """
    fmas, loads = rows * vectors, rows + vectors
    return max(fmas, FMA_LATENCY_X_PORTS, loads) + LOAD_WEIGHT * loads


STACK_BYTES = 1023
"""Larger arrays TVM takes from its workspace, with a call for each and a copy in memory of what is in registers."""


def stack_chunks(rows: int, pitch: int) -> list[range]:
    """`rows` rows of `pitch` numbers of 4 bytes in about equal parts that TVM leaves on the stack."""
    most = max(1, STACK_BYTES // (4 * pitch))
    size = ceil_div(rows, ceil_div(rows, most))
    return [range(first, min(first + size, rows)) for first in range(0, rows, size)]


RANKED = 3
"""Plans of a kernel that are worth a measurement: the cheapest by estimate."""


def ranked(plans: Iterable[Plan], cost: Callable[[Plan], Any]) -> tuple[Plan, ...]:
    """The RANKED cheapest plans, the cheapest first; of equal ones the earlier."""
    return tuple(heapq.nsmallest(RANKED, plans, key=cost))


def of_rank(plans: Sequence[Plan], rank: int) -> Plan:
    """The plan of a rank; beyond the last, the last."""
    return plans[min(rank, len(plans) - 1)]


@functools.cache
def choose_tile(rows: int, vectors: int, unit: VectorUnit, rank: int = 0) -> tuple[int, int]:
    """(rows, vectors) of the register tile for a problem of that many broadcast rows and vectors.

    Minimises the issue slots of all tiles; those at the edges are as large as what remains. Besides one
    register for a broadcast, one in sixteen stays free: LLVM spills accumulators where it has no room to
    reorder loads.
    """
    found: dict[tuple[int, int], float] = {}
    for r in range(1, min(rows, 14) + 1):
        for v in range(1, min(vectors, 12) + 1):
            if r * v + v + 1 > unit.registers - unit.registers // 16:
                continue
            row_edges = [(rows // r, r), (1, rows % r)]
            column_edges = [(vectors // v, v), (1, vectors % v)]
            cost = sum(n * m * issue_slots(y, x) for n, y in row_edges for m, x in column_edges if y and x)
            found[r, v] = round(cost, 6)
    return of_rank(ranked(found, found.__getitem__), rank)


class RegisterTile:
    """`rows` x `vectors` accumulators; every statement is unrolled so that the buffer ends up in
    registers.
    """

    def __init__(self, emit: Emitter, rows: int, vectors: int, lanes: int, dtype: str = "float32") -> None:
        self._emit, self.dtype = emit, dtype
        self._shape = (rows, vectors, lanes)
        self._acc = [[emit.registers(lanes, dtype=dtype) for _ in range(vectors)] for _ in range(rows)]

    def fill(self, value: float = 0.0) -> None:
        self.update(lambda acc, r, v: self._emit.splat_of(value, self.dtype, self._shape[2]))

    def update(self, value: Callable[[Expr, int, int], Expr]) -> None:
        """acc[r, v] = value(acc[r, v], r, v)."""
        for r in range(self._shape[0]):
            for v in range(self._shape[1]):
                self.update_one(r, v, lambda acc, r=r, v=v: value(acc, r, v))  # type: ignore[misc]

    def __getitem__(self, at: tuple[int, int]) -> Expr:
        """The vector acc[r, v]."""
        return self._acc[at[0]][at[1]][self._emit.ramp(0, self._shape[2])]

    def update_one(self, r: int, v: int, value: Callable[[Expr], Expr]) -> None:
        """acc[r, v] = value(acc[r, v])."""
        self._emit.store(self._acc[r][v], [self._emit.ramp(0, self._shape[2])], value(self[r, v]))

    def add_outer(self, scalar: Callable[[int], Expr], vector: Callable[[int], Expr]) -> None:
        """acc[r, v] += scalar(r) * vector(v)."""
        self.update(lambda acc, r, v: acc + self._emit.splat(scalar(r), self._shape[2]) * vector(v))

    def spill(self, buffer: Any, index: Callable[[int, int], list[Expr]], rows: range | None = None) -> None:
        """Store accumulators, of all rows or some: vector v of row r goes to buffer[index(r, v)] and following."""
        emit, (count, vectors, lanes) = self._emit, self._shape
        for r in range(count) if rows is None else rows:
            for v in range(vectors):
                *prefix, last = index(r, v)
                emit.store(buffer, [*prefix, emit.ramp(last, lanes)], self[r, v])

    def spill_vector(self, buffer: Any, v: int, rows: range) -> None:
        """Store vector v of some rows, one after the other."""
        lanes = self._shape[2]
        for i, r in enumerate(rows):
            self._emit.store(buffer, [self._emit.ramp(i * lanes, lanes)], self[r, v])

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
        for some in stack_chunks(rows, pitch):
            stack = emit.registers(len(some) * pitch, dtype=self.dtype)
            self.spill(stack, lambda r, v, first=some.start: [(r - first) * pitch + starts[v]], some)  # type: ignore[misc]

            def row(r: Expr, first: int = some.start, stack: Any = stack) -> None:
                for start, width in cover(valid, lanes):
                    with emit.lanes(width) as lane:
                        at = index(first + r, start + lane)
                        emit.store(out, at, epilogue(stack[r * pitch + start + lane], at, extras))

            if len(some) == 1:
                row(0)
            else:
                with emit.serial(len(some)) as r:
                    row(r)
