"""The parent's end of a session's process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ....ir.diagnostics import IntaglioError, error
from .. import wire
from ..engine import EngineCrashed
from ..interface import Interface
from .limits import Limits
from .process import FRAME

__all__ = ["Worker", "start"]

PIECE = 1 << 16  # bytes


class Worker:
    """One process. Every method but `end` may raise EngineCrashed, after which only `end` makes sense."""

    def __init__(self, process: asyncio.subprocess.Process, read: Any, write: Any, limits: Limits) -> None:
        self.process, self.reader, self.writer, self.limits = process, read, write, limits

    async def send(self, kind: bytes, body: bytes) -> None:
        try:
            self.writer.write(FRAME.pack(kind, len(body)) + body)
            await self.writer.drain()  # the process takes what it can: nothing piles up here
        except (ConnectionError, OSError):
            raise await self._crash() from None

    async def answer(self) -> dict[str, Any]:
        """The process's next answer; what it reports as an error is raised."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                _, length = FRAME.unpack(await self.reader.readexactly(FRAME.size))
                told: dict[str, Any] = json.loads(await self.reader.readexactly(length))
        except TimeoutError:
            await self.end()
            what = f"the session took more than {self.limits.seconds:g} s"
            raise error("IG0571", what, hint="`intaglio he serve --seconds` sets the cap") from None
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            raise await self._crash() from None
        if "error" in told:
            raise error(told["error"], told["message"], hint=told["hint"])
        return told

    async def outputs(self, interface: Interface) -> AsyncIterator[bytes]:
        """The messages after the answer to E, in pieces."""
        for _ in interface.output_metas:
            try:
                front = await self.reader.readexactly(wire.HEADER_BYTES)
                yield front
                left = wire.parse_header(front, interface.parameters).length
                while left:
                    piece = await self.reader.readexactly(min(left, PIECE))
                    left -= len(piece)
                    yield piece
            except (asyncio.IncompleteReadError, ConnectionError, OSError):
                raise await self._crash() from None

    async def _crash(self) -> IntaglioError:
        await self.end()
        code = self.process.returncode
        why = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return EngineCrashed("session", f"its process ended with {why}")

    async def end(self) -> None:
        """Kill the process, if it lives, and forget it. Safe to call twice, and while cancelled."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.writer.close()
        await asyncio.shield(self.process.wait())


async def start(folder: Path, executor: str, limits: Limits) -> Worker:
    """A process that has loaded the program of an artifact, and waits for keys. Raises what it reports."""
    ours, theirs = socket.socketpair()
    command = ["-P", "-m", f"{__package__}.process", str(theirs.fileno()), str(limits.memory), str(folder), executor]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    # one thread: an idle pool of BLAS would be charged to every session's cap of memory
    environment["OPENBLAS_NUM_THREADS"] = "1"
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, env=environment
        )
    read, write = await asyncio.open_connection(sock=ours)
    worker = Worker(process, read, write, limits)
    try:
        await worker.answer()
    except BaseException:
        await worker.end()
        raise
    return worker
