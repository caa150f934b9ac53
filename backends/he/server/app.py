"""The HTTP face of the server, on aiohttp. It checks messages and passes them on; engines run in other processes.

    POST   /v1/sessions                  a session: {"session": TOKEN}; refused when there are enough
    PUT    /v1/sessions/TOKEN/keys       a stream of messages, a key each       {"missing": how many keys are left}
    POST   /v1/sessions/TOKEN/evaluate   the input ciphertexts as messages      the outputs as messages
    DELETE /v1/sessions/TOKEN

A session lives as long as the connection that it was made on: when that breaks, its process is killed at once.
Errors are JSON: {"error": "IG0568", "message": ..., "hint": ...}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from ....ir.diagnostics import IntaglioError, error
from .. import wire
from ..engine import EngineCrashed
from ..interface import SERVER, Interface, read_interface
from .limits import Limits
from .worker import PIECE, Worker, start

__all__ = ["application", "serve"]

EXECUTOR = "intaglio.backends.he.execute"
STATUS = {"IG0566": 500, "IG0569": 413, "IG0571": 503, "IG0575": 404}
LEFTOVER, LINGER = 4 << 20, 2.0  # bytes and seconds of a refused body that are read away
SWEEP = 0.25  # seconds between two looks for sessions whose client has gone
HINT = "see docs/he-server.md for the order of requests"


@dataclass
class Session:
    """One client. `worker` is None while it starts and when it has ended; `lock`: one request at a time."""

    transport: Any
    worker: Worker | None = None
    loaded: set[tuple[str, int]] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used: float = field(default_factory=time.monotonic)


class Server:
    """All sessions of one program."""

    def __init__(self, folder: Path, executor: str, limits: Limits) -> None:
        self.folder, self.executor, self.limits = folder, executor, limits
        self.interface: Interface = read_interface(folder, SERVER)
        self.sessions: dict[str, Session] = {}

    # --- requests -------------------------------------------------------------------------------------------------

    async def open(self, request: web.Request) -> web.Response:
        if len(self.sessions) >= self.limits.sessions:
            raise error("IG0571", f"there are {len(self.sessions)} sessions already", hint="try again later")
        token, session = secrets.token_urlsafe(16), Session(request.transport)
        self.sessions[token] = session
        try:
            session.worker = await start(self.folder, self.executor, self.limits)
        except BaseException:
            del self.sessions[token]
            raise
        return web.json_response({"session": token, "parameters": self.interface.parameters.digest})

    async def keys(self, request: web.Request) -> web.Response:
        async with self._session(request) as (session, worker):
            manifest = self.interface.manifest
            async for header in self._messages(request, worker, manifest_keys=True, most=len(manifest)):
                session.loaded.add((header.kind, header.index))
            return web.json_response({"missing": len(manifest) - len(session.loaded)})

    async def evaluate(self, request: web.Request) -> web.StreamResponse:
        async with self._session(request) as (session, worker):
            metas, seen = self.interface.input_metas, set()
            if len(session.loaded) < len(self.interface.manifest):
                missing = len(self.interface.manifest) - len(session.loaded)
                raise error("IG0565", f"{missing} keys have not been uploaded", hint="PUT the keys first")
            async for header in self._messages(request, worker, manifest_keys=False, most=len(metas)):
                seen.add(header.index)
            if len(seen) != len(metas):
                raise error("IG0567", f"{len(seen)} of {len(metas)} input ciphertexts came", hint=wire.AGAIN)
            await worker.send(b"E", b"")
            facts = await worker.answer()
            response = web.StreamResponse(headers={"X-Intaglio-Facts": json.dumps(facts)})
            await response.prepare(request)
            async for piece in worker.outputs(self.interface):
                await response.write(piece)
            await response.write_eof()
            return response

    async def close(self, request: web.Request) -> web.Response:
        session = self.sessions.pop(request.match_info["token"], None)
        if session is None:
            raise _unknown()
        await _end(session)
        return web.json_response({})

    # --- parts ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _session(self, request: web.Request) -> AsyncIterator[tuple[Session, Worker]]:
        """The session of a request, for itself alone. It ends when its client goes, or its process dies."""
        token = request.match_info["token"]
        session = self.sessions.get(token)
        if session is None or session.worker is None:
            raise _unknown()
        try:
            async with session.lock:
                yield session, session.worker
                session.used = time.monotonic()
        except (asyncio.CancelledError, ConnectionError, EngineCrashed, TimeoutError):
            self.sessions.pop(token, None)
            await _end(session)
            raise
        finally:
            if session.worker is None or session.worker.process.returncode is not None:
                self.sessions.pop(token, None)

    async def _messages(
        self, request: web.Request, worker: Worker, *, manifest_keys: bool, most: int
    ) -> AsyncIterator[wire.Header]:
        """Each message of the body, once the process has taken it. Its header is checked before it is passed on."""
        parameters, metas = self.interface.parameters, self.interface.input_metas
        count = 0
        while front := await self._read(request, wire.HEADER_BYTES):
            header = wire.parse_header(front, parameters, self.interface.manifest if manifest_keys else None)
            count += 1
            if count > most:
                raise error("IG0569", f"more than the {most} messages that belong into a request", hint=HINT)
            if not manifest_keys:
                fits = header.kind == "ciphertext" and header.index < len(metas)
                if not fits or (header.level, header.size) != (metas[header.index].level, 2):
                    raise error("IG0568", f"`{header.kind}` {header.index} is no input of the program", hint=wire.AGAIN)
            await worker.send(b"H", front)
            digest, left = wire.running_digest(header), header.length
            try:
                while left:
                    piece = await self._read(request, min(left, PIECE))
                    if not piece:
                        raise wire.truncated(header.length - left, header.length)
                    digest.update(piece)
                    left -= len(piece)
                    await worker.send(b"C", piece)
                wire.verify(header, digest.digest())
            except IntaglioError as e:
                if not isinstance(e, EngineCrashed):
                    await worker.send(b"A", b"")
                raise
            await worker.send(b"V", b"")
            await worker.answer()
            yield header

    async def _read(self, request: web.Request, count: int) -> bytes:
        """Up to so many bytes, fewer only at the end of the body."""
        found = b""
        while len(found) < count:
            async with asyncio.timeout(self.limits.silence):
                piece = await request.content.read(count - len(found))
            if not piece:
                break
            found += piece
        return found

    async def sweep(self) -> None:
        """End the sessions whose client has gone or has been silent for too long."""
        while True:
            await asyncio.sleep(SWEEP)
            for token, session in list(self.sessions.items()):
                silent = time.monotonic() - session.used > self.limits.idle and not session.lock.locked()
                if session.worker is not None and (silent or session.transport.is_closing()):
                    self.sessions.pop(token, None)
                    await _end(session)

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(self.sweep())
        yield
        sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeper
        for session in [self.sessions.pop(token) for token in list(self.sessions)]:
            await _end(session)


async def _end(session: Session) -> None:
    worker, session.worker = session.worker, None
    if worker is not None:
        await worker.end()


def _unknown() -> IntaglioError:
    return error("IG0575", "there is no such session", hint="it has ended: POST /v1/sessions makes another")


@web.middleware
async def _explained(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """Errors as JSON: what we raise, what aiohttp raises, and silence."""
    try:
        return await handler(request)
    except IntaglioError as e:
        d = e.diagnostics[0]
        found, status = {"error": d.code, "message": d.message, "hint": d.hint}, STATUS.get(d.code, 400)
    except web.HTTPException as e:
        found, status = {"error": "IG0570", "message": e.reason, "hint": HINT}, e.status
    except TimeoutError:
        found, status = {"error": "IG0571", "message": "the request stopped coming", "hint": "send it again"}, 408
    except web.PayloadAccessError as e:  # what calls itself chunked, and is not
        found, status = {"error": "IG0567", "message": f"the request's body is damaged: {e}", "hint": "again"}, 400
    response = web.json_response(found, status=status)
    if not await _drained(request):
        response.force_close()
    return response


async def _drained(request: web.Request) -> bool:
    """Whether the rest of a refused body is small enough to be read away, so that the connection can go on."""
    left = LEFTOVER
    with contextlib.suppress(TimeoutError, web.PayloadAccessError, ConnectionError):
        async with asyncio.timeout(LINGER):
            while left > 0 and not request.content.at_eof():
                left -= len(await request.content.read(PIECE))
    return request.content.at_eof()


def application(folder: Path, *, limits: Limits | None = None, executor: str = EXECUTOR) -> web.Application:
    """The server of an artifact's folder (or of its server part) as an aiohttp application.

    `executor` is a module with `load(folder) -> program` and `execute(program, engine, inputs) -> outputs`; the caller
    names it, never the artifact. IG0572: no server part there.
    """
    server = Server(folder, executor, limits or Limits())
    app = web.Application(middlewares=[_explained])
    app.cleanup_ctx.append(server.lifetime)
    app.router.add_post("/v1/sessions", server.open)
    app.router.add_put("/v1/sessions/{token}/keys", server.keys)
    app.router.add_post("/v1/sessions/{token}/evaluate", server.evaluate)
    app.router.add_delete("/v1/sessions/{token}", server.close)
    return app


def serve(app: web.Application, host: str, port: int, started: Callable[[str, int], None]) -> None:
    """Serve until SIGINT or SIGTERM. `started` is told the address; port 0 takes a free one."""

    async def run() -> None:
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            started(*runner.addresses[0][:2])
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())
