"""The rows of one side of a product of activations, in blocks that share a copy of the other side.

A task has one matrix of the batch and some blocks of its rows: it copies the other matrix first, then goes over blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .batched import unravel
from .emit import Emitter
from .kernel import Dim, Expr, ceil_div

__all__ = ["QueryRows", "Task"]

ROWS = 32
"""Rows of a block, at most: a block of scores in floats over 128 keys takes 18 KB."""

SYMBOLIC_ROWS = 16
"""Rows of a block where their number is unknown."""

BLOCKS_A_TASK = 8
"""Blocks of rows that share one copy of the other side."""


@dataclass(frozen=True)
class Task:
    """The index of a matrix in the batch, and which blocks of its rows are this task's."""

    batch: tuple[Expr, ...]
    first: Expr
    count: Dim


class QueryRows:
    """`rows` rows, which may be symbolic, in `blocks` blocks of one `height`."""

    def __init__(self, emit: Emitter, rows: Dim) -> None:
        self._emit, self._rows = emit, rows
        if isinstance(rows, int):
            self.blocks: Dim = ceil_div(rows, ROWS)
            self.height = ceil_div(rows, self.blocks)
        else:
            self.height = SYMBOLIC_ROWS
            self.blocks = (rows + self.height - 1) // self.height

    @contextmanager
    def tasks(self, batch: tuple[Dim, ...]) -> Iterator[Task]:
        """The parallel loop over the blocks of all matrices; `batch` may be symbolic."""
        total: Dim = 1
        for d in batch:
            total = d if isinstance(total, int) and total == 1 else total * d
        chunks = (self.blocks + BLOCKS_A_TASK - 1) // BLOCKS_A_TASK
        if isinstance(chunks, int) and chunks == 1:
            with self._emit.parallel(total) as task:
                yield Task(unravel(task, batch), 0, self.blocks)
        else:
            with self._emit.parallel(total * chunks) as task:
                first = task % chunks * BLOCKS_A_TASK
                yield Task(unravel(task // chunks, batch), first, self._emit.min(self.blocks - first, BLOCKS_A_TASK))

    @contextmanager
    def each(self, task: Task) -> Iterator[tuple[Expr, Expr]]:
        """The loop over the blocks of a task: the number of a block, and its first row."""
        with self._emit.serial(task.count) as i:
            block = task.first + i
            yield block, self._emit.bind(self._start(block))

    def _start(self, block: Expr) -> Expr:
        """The first row of a block; the last block steps back, so that all have one height."""
        if isinstance(self._rows, int):
            return self._emit.step_back(block, self.height, self._rows)
        return block * self.height

    def row(self, start: Expr, row: Expr) -> Expr:
        """A row of a block; of a symbolic number of rows, the last one stands for those beyond it."""
        if isinstance(self._rows, int):
            return start + row
        return self._emit.min(start + row, self._rows - 1)
