"""The parent's end of worker.py: start a worker in some environment, ask it, stop it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["WorkerFailed", "WorkerProcess"]

SCRIPT = Path(__file__).with_name("worker.py")


class WorkerFailed(Exception):
    """What the worker said went wrong, or that it is gone."""


class WorkerProcess:
    """One worker, confined to `cores`; a context manager that ends it."""

    def __init__(self, python: str | Path, cores: Sequence[int]) -> None:
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            [str(python), "-P", str(SCRIPT), *map(str, cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            bufsize=1,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            code = self._process.wait()
            self._said.seek(0)
            last = self._said.read().strip().splitlines()[-1:] or ["nothing said"]
            raise WorkerFailed(f"the worker ended with code {code} at `{do}`: {last[0]}")
        found: dict[str, Any] = json.loads(reply)
        if "error" in found:
            raise WorkerFailed(found["error"])
        return found

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()
