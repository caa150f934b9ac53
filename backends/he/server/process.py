"""A session's process: one engine, one client's keys, one program. It ends with its parent, or when it is told to.

It reads frames from a socket (worker.py writes them) and answers each V and E with a frame of JSON:

    H    a message's header: a new message begins       V    its digest was right: use it
    C    bytes of it                                    A    forget it
    E    evaluate; after the answer come the outputs, as messages
"""

from __future__ import annotations

import ctypes
import importlib
import json
import resource
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from ....ir.diagnostics import IntaglioError, error
from .. import wire
from ..engine import Engine, EvalKey
from ..engines import engine
from ..interface import SERVER, Interface, read_interface

__all__ = ["FRAME", "main"]

FRAME = struct.Struct("<cI")
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main(arguments: list[str]) -> int:
    """Serve one session on the socket with that file descriptor."""
    descriptor, memory, folder, executor = int(arguments[0]), int(arguments[1]), Path(arguments[2]), arguments[3]
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the parent's
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=descriptor) as link:
        session = None
        try:
            session = Session(link, folder, executor)
            _answer(link, {})
        except Exception as e:
            _answer(link, _told(e))
        while session is not None and session.step():
            pass
    return 0


class Session:
    """What one client has sent so far."""

    def __init__(self, link: socket.socket, folder: Path, executor: str) -> None:
        self.link = link
        self.interface: Interface = read_interface(folder, SERVER)
        self.engine: Engine = engine(self.interface.engine, self.interface.parameters)
        if not self.engine.caps.separate:
            what = f"engine `{self.engine.name}` keeps its keys to itself: it cannot serve"
            raise error("IG0563", what, hint="compile for engine `seal`")
        self.executor: Any = importlib.import_module(executor)
        self.program = self.executor.load(folder)
        self.inputs: dict[int, Any] = {}
        self.header: wire.Header | None = None
        self.payload = bytearray()

    def step(self) -> bool:
        """Take one frame; False at the end of the connection."""
        front = _exactly(self.link, FRAME.size)
        if front is None:
            return False
        kind, length = FRAME.unpack(front)
        body = _exactly(self.link, length)
        if body is None:
            return False
        try:
            self._take(kind, body)
        except Exception as e:  # whatever an engine throws: told to the client, and the session goes on
            self.header, self.payload = None, bytearray()
            if kind in b"VE":
                _answer(self.link, _told(e))
        return True

    def _take(self, kind: bytes, body: bytes) -> None:
        match kind:
            case b"H":
                self.payload = bytearray()
                self.header = wire.parse_header(body, self.interface.parameters)
            case b"C":
                self.payload += body
            case b"A":
                self.header, self.payload = None, bytearray()
            case b"V":
                self._use()
                _answer(self.link, {})
            case b"E":
                self._evaluate()

    def _use(self) -> None:
        header, payload = self.header, bytes(self.payload)
        self.header, self.payload = None, bytearray()
        if header is None:  # there was no memory for it
            raise MemoryError
        if header.kind == "ciphertext":
            self.inputs[header.index] = self.engine.loads(payload, self.interface.input_metas[header.index])
        else:
            self.engine.load_key(EvalKey(header.kind, header.index, header.level, payload))

    def _evaluate(self) -> None:
        inputs, self.inputs = [self.inputs[i] for i in range(len(self.interface.input_metas))], {}
        start, spent = time.perf_counter(), time.process_time()
        outputs = self.executor.execute(self.program, self.engine, inputs)
        facts = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - spent}
        metas = [self.engine.meta(x) for x in outputs]
        if [(m.level, m.scale) for m in metas] != [(m.level, m.scale) for m in self.interface.output_metas]:
            raise error("IG0564", "the outputs are not those of the interface", hint="compile the model again")
        facts["outputs"] = len(outputs)
        facts["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        made = [self.engine.dumps(x) for x in outputs]
        _answer(self.link, facts)
        for i, (data, meta) in enumerate(zip(made, metas, strict=True)):
            front = wire.message(
                "ciphertext", data, self.interface.parameters, index=i, level=meta.level, size=meta.size
            )
            self.link.sendall(front)
            self.link.sendall(data)


def _told(e: Exception) -> dict[str, Any]:
    """An exception as the client will see it: never a traceback."""
    if isinstance(e, IntaglioError):
        d = e.diagnostics[0]
        return {"error": d.code, "message": d.message, "hint": d.hint}
    if isinstance(e, MemoryError):
        return {"error": "IG0571", "message": "the session's cap of memory is reached", "hint": "`serve --memory`"}
    print(f"intaglio: session: {e!r}", file=sys.stderr)
    return {"error": "IG0566", "message": f"the evaluation failed ({type(e).__name__})", "hint": "see the server's log"}


def _answer(link: socket.socket, facts: dict[str, Any]) -> None:
    data = json.dumps(facts).encode()
    link.sendall(FRAME.pack(b"J", len(data)) + data)


def _exactly(link: socket.socket, count: int) -> bytes | None:
    found = bytearray()
    while len(found) < count:
        part = link.recv(count - len(found))
        if not part:
            return None
        found += part
    return bytes(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
