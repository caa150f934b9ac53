"""Progress on stderr: a bar on a terminal, a line for each step in a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from ..passes.definition import Stage

__all__ = ["Progress"]

QUIET = 5.0  # seconds between lines about one step


class Progress:
    """`with Progress("compiling", 5) as progress: progress.step("fold")`, once before each step."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.start = self.told = time.perf_counter()
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[what]}", markup=False),
                TimeElapsedColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, what="")
        return self

    def step(self, what: str) -> None:
        if isinstance(what, Stage):
            self._stage(what)
            return
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, what=what)
        else:
            seconds = time.perf_counter() - self.start
            print(f"{self.title} [{self.done + 1}/{self.total}] {what} ({seconds:.1f} s)", file=sys.stderr, flush=True)
        self.done += 1

    def _stage(self, what: str) -> None:
        """Where a long step is: in a pipe every few seconds."""
        now = time.perf_counter()
        if self.bar is not None:
            self.bar.update(self.task, what=what)
        elif now - self.told > QUIET:
            print(f"{self.title} [{self.done}] ... {what} ({now - self.start:.1f} s)", file=sys.stderr, flush=True)
            self.told = now

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()
