"""An engine's process: for libraries that may take their process along when something goes wrong.

The parent sends a call as JSON on a pipe and gets JSON back; arrays of numbers travel through a block of shared memory.
The block is an anonymous file that the child inherits: nothing of it is left when both are gone.
When the process dies (a panic, a signal, no memory) the parent hears the end of the pipe and raises EngineCrashed; what
the process held is gone, and the next `start` makes a fresh one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import resource
import socket
import subprocess
import sys
import threading
from typing import Any

from ....ir.diagnostics import error
from ..engine import EngineCrashed

__all__ = ["Process", "serve"]

LARGEST = 1 << 20  # bytes of one call or answer


class Process:
    """A process that runs the calls of a `service`: a module with `make(arguments) -> object` whose methods are called.

    `memory` caps its address space in bytes, 0 for no cap; `environment` is set before anything is loaded.
    """

    def __init__(
        self, engine: str, service: str, arguments: Any, *, floats: int, environment: dict[str, str], memory: int = 0
    ) -> None:
        self.engine = engine
        file = os.memfd_create("intaglio-he")
        os.ftruncate(file, 4 * floats)
        self.block = mmap.mmap(file, 4 * floats)
        ours, theirs = socket.socketpair()
        said = json.dumps({"service": service, "arguments": arguments, "block": file, "memory": memory})
        path = os.pathsep.join(p for p in sys.path if p)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"import {__name__} as w; w.serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno(), file],
                env={**os.environ, "PYTHONPATH": path, **environment},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        os.close(file)
        self.link = ours.makefile("rwb")
        ours.close()
        try:
            self._send(said)
            self._receive()
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        self.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method of the service; numbers in arrays go through `write` and `read`."""
        self._send(json.dumps([method, *arguments]))
        return self._receive()

    def write(self, values: Any) -> int:
        """Put float32 values into the shared block; how many."""
        import numpy as np

        array = np.asarray(values, np.float32).reshape(-1)
        np.frombuffer(self.block, np.float32, len(array))[:] = array
        return len(array)

    def read(self, count: int) -> Any:
        """float64[count] from the shared block."""
        import numpy as np

        return np.frombuffer(self.block, np.float32, count).astype(np.float64)

    def _send(self, text: str) -> None:
        try:
            self.link.write(text.encode() + b"\n")
            self.link.flush()
        except (OSError, ValueError):
            raise self._crashed() from None

    def _receive(self) -> Any:
        try:
            line = self.link.readline(LARGEST)
        except (OSError, ValueError):
            line = b""
        if not line:
            raise self._crashed()
        told = json.loads(line)
        if "error" in told:
            raise error(told["error"], told["message"], hint=told["hint"])
        return told["result"]

    def _crashed(self) -> EngineCrashed:
        self.process.kill()
        code = self.process.wait()
        said = self.process.stderr.read().decode(errors="replace") if self.process.stderr else ""
        last = next((line for line in said.splitlines() if line.startswith(("panic:", "fatal error:", "runtime:"))), "")
        why = last or (f"signal {-code}" if code < 0 else f"exit code {code}")
        self.close()
        return EngineCrashed(self.engine, why)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """End the process and free the block; a second time does nothing."""
        process = getattr(self, "process", None)
        if process is not None:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()
            self.process = process
        with contextlib.suppress(OSError, AttributeError, ValueError):
            self.link.close()


def serve(descriptor: int) -> None:
    """The process: answer calls on a socket until it is closed.

    That is done by a thread other than the main one: Go asks for the bounds of the stack in every call, and for the
    main thread glibc reads them from /proc/self/maps, which takes half a millisecond; a call takes a microsecond else.
    """
    thread = threading.Thread(target=_serve, args=(descriptor,))
    thread.start()
    thread.join()


def _serve(descriptor: int) -> None:
    with socket.socket(fileno=descriptor) as link, link.makefile("rwb") as stream:
        said = json.loads(stream.readline(LARGEST))
        if said["memory"]:
            resource.setrlimit(resource.RLIMIT_AS, (said["memory"], said["memory"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        block = mmap.mmap(said["block"], 0)
        target: Any = None

        def answer(call: Any) -> dict[str, Any]:
            from ....ir.diagnostics import IntaglioError

            try:
                return {"result": call()}
            except IntaglioError as e:
                d = e.diagnostics[0]
                return {"error": d.code, "message": d.message, "hint": d.hint}

        def start() -> None:
            nonlocal target
            target = importlib.import_module(said["service"]).make(said["arguments"], block)

        stream.write(json.dumps(answer(start)).encode() + b"\n")
        stream.flush()
        while line := stream.readline(LARGEST):
            method, *arguments = json.loads(line)
            told = answer(lambda m=method, a=arguments: getattr(target, m)(*a))
            stream.write(json.dumps(told).encode() + b"\n")
            stream.flush()
        os._exit(0)  # a library with threads of its own need not be asked
