"""The client: keys, encryption, decryption, and talking to a server. It needs the client's part of an artifact alone.

client = Client(read_interface(folder, "client"))
client.keygen(Path("keys"))                        keys/secret.key (yours alone), keys/eval.keys (for the server)
data = client.encrypt(keys, {"image": array})
with Connection(url, client.interface) as server:
    server.upload(keys)                            once
    answer = server.evaluate(data)
client.decrypt(keys, answer)                       {"scores": array}
"""

from __future__ import annotations

import http.client
import importlib
import io
import json
import os
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...ir.diagnostics import IntaglioError, error
from . import wire
from .interface import Interface
from .owner import KeyOwner, owner

__all__ = ["Client", "Connection"]

SECRET, PUBLIC, EVALUATION = "secret.key", "public.key", "eval.keys"
LAYOUTS = "intaglio.backends.he.layouts"
PIECE = 1 << 20


class Client:
    """One artifact's client. `layouts` has pack(layout, array, slots) and unpack(layout, shape, slot vectors)."""

    def __init__(self, interface: Interface, layouts: Any = None) -> None:
        self.interface = interface
        self.parameters = interface.parameters
        self.owner: KeyOwner = owner(interface.engine, interface.parameters)
        if not self.owner.engine.caps.separate:
            what = f"engine `{interface.engine}` cannot send what it encrypts"
            raise error("IG0563", what, hint="compile for engine `seal`, or use `intaglio run`")
        self.layouts = layouts

    # --- keys -----------------------------------------------------------------------------------------------------

    def keygen(self, folder: Path) -> dict[str, int]:
        """Fresh keys into a folder that holds none yet (IG0574); bytes by file. Only the user can read the secret."""
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / SECRET).exists():
            what = f"`{folder}` holds a secret key already"
            raise error("IG0574", what, hint="choose another folder: what was encrypted under a lost key is lost")
        secret = self.owner.keygen()
        with _new(folder / EVALUATION, 0o644) as f:
            for key in self.owner.eval_keys(secret, self.interface.manifest):
                self._write(f, key.kind, key.data, index=key.step, level=key.level)
        with _new(folder / SECRET, 0o600) as f:  # last: it says that the folder is complete
            self._write(f, "secret", self.owner.dumps_secret(secret))
        return {name: (folder / name).stat().st_size for name in (SECRET, EVALUATION)}

    def _write(self, f: Any, kind: str, data: bytes, **fields: int) -> None:
        f.write(wire.message(kind, data, self.parameters, **fields))
        f.write(data)

    def _secret(self, folder: Path) -> Any:
        try:
            with (folder / SECRET).open("rb") as f:
                found = list(wire.read(f, self.parameters))
        except OSError as e:
            what = f"`{folder / SECRET}` cannot be read: {e.strerror or e}"
            raise error("IG0574", what, hint="`intaglio he keygen DIR -o KEYS` makes keys") from None
        if [header.kind for header, _ in found] != ["secret"]:
            raise error("IG0574", f"`{folder / SECRET}` holds no secret key", hint="`intaglio he keygen` makes one")
        return self.owner.loads_secret(found[0][1])

    # --- values ---------------------------------------------------------------------------------------------------

    def encrypt(self, keys: Path, arrays: Mapping[str, Any]) -> bytes:
        """Every input as ciphertexts, each a message. IG0574 without keys."""
        secret = self._secret(keys)
        public, made, index = self.owner.public_key(secret), io.BytesIO(), 0
        for tensor in self.interface.inputs:
            vectors = self._pack(tensor.layout, arrays[tensor.name])
            if len(vectors) != len(tensor.ciphertexts):
                what = f"input `{tensor.name}` packs into {len(vectors)} ciphertexts, not {len(tensor.ciphertexts)}"
                raise error("IG0572", what, hint="compile the model again")
            for vector, meta in zip(vectors, tensor.ciphertexts, strict=True):
                engine = self.owner.engine
                data = engine.dumps(self.owner.encrypt(public, engine.encode(vector, meta.level, meta.scale)))
                self._write(made, "ciphertext", data, index=index, level=meta.level)
                index += 1
        return made.getvalue()

    def decrypt(self, keys: Path, data: bytes) -> dict[str, Any]:
        """The outputs of what a server sent, by name. IG0567 or IG0568 when it is something else."""
        secret, metas = self._secret(keys), self.interface.output_metas
        found: dict[int, Any] = {}
        for header, payload in wire.read(io.BytesIO(data), self.parameters):
            if header.kind != "ciphertext" or header.index >= len(metas):
                raise error("IG0568", f"`{header.kind}` {header.index} is no output of the program", hint=wire.AGAIN)
            meta = metas[header.index]
            x = self.owner.engine.loads(payload, type(meta)(meta.level, meta.scale, header.size))
            found[header.index] = self.owner.decode(self.owner.decrypt(secret, x))
        if len(found) != len(metas):
            raise error("IG0567", f"{len(found)} of {len(metas)} output ciphertexts are there", hint=wire.AGAIN)
        vectors = [found[i] for i in range(len(metas))]
        made = {}
        for tensor in self.interface.outputs:
            mine, vectors = vectors[: len(tensor.ciphertexts)], vectors[len(tensor.ciphertexts) :]
            made[tensor.name] = self._unpack(tensor.layout, tensor.shape, mine)
        return made

    def _pack(self, layout: Mapping[str, Any], array: Any) -> list[Any]:
        import numpy as np

        if layout.get("kind") != "flat":
            return list(self._layouts().pack(layout, array, self.parameters.slots))
        flat = np.asarray(array, np.float64).reshape(-1)
        slots = self.parameters.slots
        return [flat[i : i + slots] for i in range(0, len(flat), slots)]

    def _unpack(self, layout: Mapping[str, Any], shape: tuple[int, ...], vectors: list[Any]) -> Any:
        import numpy as np

        if layout.get("kind") != "flat":
            return self._layouts().unpack(layout, shape, vectors)
        return np.concatenate(vectors)[: int(np.prod(shape))].reshape(shape)

    def _layouts(self) -> Any:
        return self.layouts or importlib.import_module(LAYOUTS)


class _new:
    """A file that appears under its name when it is complete. `mode` from its first byte on."""

    def __init__(self, path: Path, mode: int) -> None:
        self.path, self.mode, self.temporary = path, mode, path.with_name(f".{path.name}.new")

    def __enter__(self) -> Any:
        self.temporary.unlink(missing_ok=True)
        self.file = os.fdopen(os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, self.mode), "wb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.file.close()
        if kind is None:
            os.replace(self.temporary, self.path)
        else:
            self.temporary.unlink(missing_ok=True)


class Connection:
    """A session on a server. It lives until the block ends."""

    def __init__(self, url: str, interface: Interface, *, timeout: float = 900.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise error("IG0570", f"`{url}` is no address of a server", hint="for example http://127.0.0.1:8750")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url, self.interface = url, interface
        self.http = kind(parts.hostname, parts.port, timeout=timeout)
        self.token, self.facts = "", dict[str, Any]()

    def __enter__(self) -> Connection:
        told = json.loads(self._request("POST", "/v1/sessions", ()))
        if told.get("parameters") != self.interface.parameters.digest:
            raise error("IG0568", "the server has another artifact", hint="use the client's part of the server's")
        self.token = told["session"]
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if exception == (None, None, None):
                self._request("DELETE", f"/v1/sessions/{self.token}", ())
        finally:
            self.http.close()

    def upload(self, keys: Path) -> None:
        """Send the evaluation keys of a folder, in pieces: they are never in memory together."""
        with (keys / EVALUATION).open("rb") as f:
            self._request("PUT", f"/v1/sessions/{self.token}/keys", iter(lambda: f.read(PIECE), b""))

    def evaluate(self, data: bytes) -> bytes:
        """The output ciphertexts for input ciphertexts; `facts` then holds the server's times."""
        pieces = (data[i : i + PIECE] for i in range(0, len(data), PIECE))
        return self._request("POST", f"/v1/sessions/{self.token}/evaluate", pieces)

    def _request(self, method: str, path: str, body: Iterable[bytes]) -> bytes:
        try:
            chunked = {"Transfer-Encoding": "chunked"}
            self.http.request(method, path, body=_chunks(body), headers=chunked, encode_chunked=True)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has answered before it had read everything
        except OSError as e:
            raise self._unreachable(e) from None
        try:
            response = self.http.getresponse()
            self.facts = json.loads(response.headers.get("X-Intaglio-Facts", "{}"))
            found = response.read()
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise self._unreachable(e) from None
        if response.status == 200:
            return found
        raise _told(found, response.status)

    def _unreachable(self, e: Exception) -> IntaglioError:
        return error(
            "IG0570", f"the server at {self.url} does not answer: {e}", hint="`intaglio he serve DIR` starts one"
        )


def _chunks(body: Iterable[bytes]) -> Iterator[bytes]:
    yield from body


def _told(data: bytes, status: int) -> IntaglioError:
    """The error that a server has reported."""
    try:
        told = json.loads(data)
        return error(str(told["error"]), f"server: {told['message']}", hint=str(told["hint"]))
    except (ValueError, KeyError, TypeError):
        return error("IG0570", f"the server answered with status {status}", hint="is it a server of intaglio?")
