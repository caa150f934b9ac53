"""The time of work on rows, which goes through local memory piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .hierarchy import Hierarchy

__all__ = ["Pieces", "cycles_of_pieces"]


@dataclass(frozen=True)
class Pieces:
    """Work on rows: bits that are read once, and of each piece the bits read, (unit, operations) and the bits written;
    a number for each transfer."""

    once: tuple[int, ...]
    pieces: tuple[tuple[tuple[int, ...], tuple[tuple[str, int], ...], tuple[int, ...]], ...]


def cycles_of_pieces(work: Pieces, machine: Hierarchy, rate: Callable[[str], float]) -> float:
    """Cycles of work on rows: loads, work and stores in three queues over one port, two pieces in local memory.

    `rate` gives the operations a cycle of a unit.

    Who is ready first goes first; at the same time, the store.
    """
    outer = machine.outer
    jobs: list[list[tuple[int, bool, float]]] = [[], [], []]  # by queue: piece, whether it begins that, cycles
    for i, (reads, done, written) in enumerate(work.pieces):
        loads = [b / outer.reading for b in ((*work.once, *reads) if i == 0 else reads)] or [0.0]
        jobs[0] += [(i, k == 0, t) for k, t in enumerate(loads)]
        jobs[1].append((i, True, sum(n / rate(unit) for unit, n in done)))
        jobs[2] += [(i, k == 0, b / outer.writing) for k, b in enumerate(written)]
    ends = [dict[int, float](), dict[int, float](), dict[int, float]()]  # of each queue, by piece
    at, free, port = [0, 0, 0], [0.0, 0.0, 0.0], float(machine.latency)
    while any(n < len(q) for n, q in zip(at, jobs, strict=True)):
        ready = []
        for q in (0, 1, 2):
            if at[q] == len(jobs[q]):
                continue
            piece, first, _ = jobs[q][at[q]]
            # a buffer of two pieces before; the piece's loads; its work
            needs = [(1, piece - 2)] if q == 0 else [(0, piece), (2, piece - 2)] if q == 1 else [(1, piece)]
            needs = [(r, k) for r, k in needs if first and k >= 0]
            if all(_over(jobs[r], at[r], k) for r, k in needs):
                when = max([free[q], *(ends[r][k] for r, k in needs)])
                ready.append((round(when if q == 1 else max(when, port), 6), round(when, 6), -q))
        start, _, number = min(ready)
        piece, _, time = jobs[-number][at[-number]]
        at[-number] += 1
        free[-number] = ends[-number][piece] = start + time
        port = port if number == -1 else start + time
    return max(free)


def _over(jobs: Sequence[tuple[int, bool, float]], at: int, piece: int) -> bool:
    """Whether all of a piece's jobs are done, `at` being the next one."""
    return at == len(jobs) or jobs[at][0] > piece
