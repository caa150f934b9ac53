"""Client and server over HTTP, each in a process: the way through, the caps, and everything that is no message."""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.backends.he import wire
from intaglio.backends.he.client import Client, Connection
from intaglio.backends.he.parameters import Parameters
from intaglio.ir.diagnostics import IntaglioError

from . import tiny_program as tiny

pytest.importorskip("seal", reason="engine `seal` is not installed: pip install 'intaglio[he]'")
pytest.importorskip("aiohttp", reason="the server needs aiohttp: pip install 'intaglio[he]'")

HERE = Path(__file__).parent
X = np.random.default_rng(0).normal(size=2048)
PARAMETERS = tiny.PARAMETERS


class Served:
    """`intaglio he serve` in a process of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        path = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
        command = [sys.executable, "-P", "-m", "intaglio", "he", "serve", str(folder), "--port", "0", *flags]
        self.process = subprocess.Popen(
            [*command, "--executor", "tiny_program"],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)

    def children(self) -> list[int]:
        """The sessions' processes."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def memory(self) -> int:
        """Bytes that the process and its children hold now."""
        total = 0
        for pid in (self.process.pid, *self.children()):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))
        return total

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("artifact"))


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(tiny.interface())


@pytest.fixture(scope="module")
def keys(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("keys") / "mine"
    client.keygen(made)
    return made


@pytest.fixture(scope="module")
def data(client: Client, keys: Path) -> bytes:
    return client.encrypt(keys, {"x": X})


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    made = Served(folder, "--memory", "3G")
    yield made
    assert made.stop() in (0, -15, 143)


def until(holds: Any, seconds: float = 15.0) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    assert holds()


def answers(server: Served, client: Client, keys: Path, data: bytes) -> None:
    with Connection(server.url, client.interface) as session:
        session.upload(keys)
        found = client.decrypt(keys, session.evaluate(data))["y"]
    np.testing.assert_allclose(found, tiny.meaning(X), atol=0.01)


def test_the_way_through(server: Served, client: Client, keys: Path, data: bytes) -> None:
    with Connection(server.url, client.interface) as session:
        session.upload(keys)
        for _ in range(2):  # keys are uploaded once
            found = client.decrypt(keys, session.evaluate(data))["y"]
            np.testing.assert_allclose(found, tiny.meaning(X), atol=0.01)
        assert session.facts["outputs"] == 1
    until(lambda: not server.children())


def test_sessions_do_not_share_keys(server: Served, client: Client, keys: Path, data: bytes, tmp_path: Path) -> None:
    client.keygen(tmp_path / "other")
    theirs = client.encrypt(tmp_path / "other", {"x": X})
    with Connection(server.url, client.interface) as mine, Connection(server.url, client.interface) as other:
        mine.upload(keys)
        other.upload(tmp_path / "other")
        assert len(server.children()) == 2
        right = client.decrypt(tmp_path / "other", other.evaluate(theirs))["y"]
        np.testing.assert_allclose(right, tiny.meaning(X), atol=0.01)
        # encrypted under the other's secret, evaluated with my keys: noise, whoever decrypts it
        for who in (keys, tmp_path / "other"):
            wrong = client.decrypt(who, mine.evaluate(theirs))["y"]
            assert np.abs(wrong - tiny.meaning(X)).max() > 1


def test_a_request_without_its_keys_is_refused(server: Served, client: Client, data: bytes) -> None:
    with Connection(server.url, client.interface) as session, pytest.raises(IntaglioError, match="keys have not been"):
        session.evaluate(data)


def test_a_client_that_goes_leaves_nothing_behind(server: Served, client: Client, keys: Path) -> None:
    session = Connection(server.url, client.interface).__enter__()
    session.upload(keys)
    assert server.children()
    session.http.close()  # between two requests
    until(lambda: not server.children())

    session = Connection(server.url, client.interface).__enter__()
    session.http.putrequest("PUT", f"/v1/sessions/{session.token}/keys")  # in the midst of one
    session.http.putheader("Content-Length", "100000")
    session.http.endheaders(b"IGHE")
    session.http.close()
    until(lambda: not server.children())


def test_a_client_that_goes_during_an_evaluation_leaves_nothing_behind(
    client: Client, keys: Path, data: bytes, tmp_path: Path
) -> None:
    (tiny.write(tmp_path) / "slow").touch()
    slow = Served(tmp_path)
    try:
        session = Connection(slow.url, client.interface).__enter__()
        session.upload(keys)
        session.http.request("POST", f"/v1/sessions/{session.token}/evaluate", data)
        time.sleep(0.3)
        assert slow.children()
        session.http.close()
        until(lambda: not slow.children())
    finally:
        slow.stop()


@pytest.mark.parametrize(("what", "code"), [("slow", "IG0571"), ("greedy", "IG0571"), ("crash", "IG0566")])
def test_time_and_memory_end_where_they_are_capped_and_crashes_are_reported(
    what: str, code: str, client: Client, keys: Path, data: bytes, tmp_path: Path
) -> None:
    (tiny.write(tmp_path) / what).touch()
    served = Served(tmp_path, "--seconds", "8" if what == "slow" else "60", "--memory", "2G")
    try:
        with pytest.raises(IntaglioError) as e, Connection(served.url, client.interface) as session:
            session.upload(keys)
            session.evaluate(data)
        assert e.value.diagnostics[0].code == code
        until(lambda: not served.children())
        (tmp_path / what).unlink()
        answers(served, client, keys, data)  # the next client never hears of it
    finally:
        served.stop()


def test_sessions_are_counted(client: Client, folder: Path) -> None:
    served = Served(folder, "--sessions", "1")
    try:
        refused = pytest.raises(IntaglioError, match="1 sessions already")
        with Connection(served.url, client.interface), refused, Connection(served.url, client.interface):
            pass
        until(lambda: not served.children())
        with Connection(served.url, client.interface):
            pass
    finally:
        served.stop()


def test_a_server_that_is_killed_takes_its_sessions_along(client: Client, folder: Path) -> None:
    served = Served(folder)
    session = Connection(served.url, client.interface).__enter__()
    (child,) = served.children()
    served.process.kill()
    served.process.wait()
    until(lambda: not Path(f"/proc/{child}").exists())
    session.http.close()


# --- what is not a message --------------------------------------------------------------------------------------------

OTHER = Parameters(1 << 12, (36, 29), (37,), 28)


def mutations(rng: random.Random, good: list[tuple[wire.Header, bytes]]) -> tuple[str, bytes]:
    """One upload that is wrong in some way: what it is called, and its bytes."""
    header, payload = rng.choice(good)
    fields = {"index": header.index, "level": header.level, "size": header.size}

    def sealed(changed: bytes, kind: str = header.kind, parameters: Parameters = PARAMETERS, **more: int) -> bytes:
        """With a true header and digest, so that it gets further."""
        return wire.message(kind, changed, parameters, **(fields | more)) + changed

    whole = sealed(payload)
    match rng.randrange(10):
        case 0:
            return "truncated", whole[: rng.randrange(len(whole))]
        case 1:
            return "garbage", rng.randbytes(rng.randrange(1, 5000))
        case 2:
            changed = bytearray(whole)
            for _ in range(rng.randrange(1, 9)):
                changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
            return "changed", bytes(changed)
        case 3:
            length = rng.choice([1 << 20, 1 << 24, 1 << 40, (1 << 64) - 1])
            false = wire.Header(header.kind, **fields, length=length, parameters=PARAMETERS.digest, digest=bytes(32))
            return "oversized", false.packed() + bytes(32) + payload[:1000]
        case 4:
            return "other parameters", sealed(payload, parameters=OTHER)
        case 5:
            return "another kind", sealed(payload, kind=rng.choice(["secret", "public", "conjugate"]))
        case 6:
            return "another place", sealed(payload, index=rng.randrange(2, 1 << 32), level=rng.randrange(2), size=2)
        case 7:  # the engine sees these: headers of its own, lengths within, values out of range
            changed = bytearray(payload)
            for _ in range(rng.randrange(1, 9)):
                changed[rng.randrange(min(len(changed), rng.choice([16, 120, 1 << 20])))] = rng.choice([0, 1, 127, 255])
            return "damaged inside", sealed(bytes(changed))
        case 8:
            return "cut inside", sealed(payload[: rng.randrange(len(payload))])
        case _:
            front = payload[: rng.choice([0, 16, 48, 100])]
            return "garbage inside", sealed(front + rng.randbytes(rng.randrange(2000)))


def fuzz(served: Served, client: Client, keys: Path, data: bytes, count: int) -> dict[str, int]:
    """Send so many wrong uploads; how many of each kind were refused with which status."""
    rng = random.Random(count)
    with (keys / "eval.keys").open("rb") as f:
        good = list(wire.read(f, PARAMETERS))
    import io

    ciphertext = list(wire.read(io.BytesIO(data), PARAMETERS))
    seen: dict[str, int] = {}
    session: Connection | None = None
    for i in range(count):
        if session is None:
            session = Connection(served.url, client.interface).__enter__()
            session.upload(keys)
        place = rng.choice(["keys", "evaluate"])
        name, body = mutations(rng, good if place == "keys" else ciphertext)
        try:
            if place == "keys":
                session._request("PUT", f"/v1/sessions/{session.token}/keys", [body])
            else:
                session._request("POST", f"/v1/sessions/{session.token}/evaluate", [body])
            told = "taken"
        except IntaglioError as e:
            told = e.diagnostics[0].code
            assert told in {f"IG{n:04}" for n in range(560, 580)}
            assert told not in ("IG0570", "IG0575"), f"upload {i} ({name}) had no proper answer: {e}"
        seen[f"{name}: {told}"] = seen.get(f"{name}: {told}", 0) + 1
        if told == "IG0566":  # the session's process died: reported, and another is made
            session.http.close()
            session = None
    if session is not None:
        session.http.close()
    return seen


def survives(folder: Path, client: Client, keys: Path, data: bytes, count: int) -> dict[str, int]:
    served = Served(folder, "--memory", "2G")
    try:
        answers(served, client, keys, data)
        until(lambda: not served.children())
        before = served.memory()
        seen = fuzz(served, client, keys, data, count)
        until(lambda: not served.children())
        assert served.process.poll() is None
        answers(served, client, keys, data)
        until(lambda: not served.children())
        assert served.memory() < before + (24 << 20)
        return seen
    finally:
        served.stop()


def check_seen(seen: dict[str, int]) -> None:
    """Everything that can be seen from outside was refused; only residues may be changed unnoticed: they are random."""
    taken = {name for name in seen if name.endswith("taken")}
    assert taken <= {"damaged inside: taken", "truncated: taken"}, seen  # truncated to nothing: an empty stream of keys
    assert len({name.partition(":")[0] for name in seen}) == 10


def test_the_server_lives_through_300_wrong_uploads(folder: Path, client: Client, keys: Path, data: bytes) -> None:
    check_seen(survives(folder, client, keys, data, 300))


@pytest.mark.deep
def test_the_server_lives_through_10000_wrong_uploads(folder: Path, client: Client, keys: Path, data: bytes) -> None:
    seen = survives(folder, client, keys, data, 10_000)
    check_seen(seen)
    print(seen)


def test_nonsense_instead_of_http(server: Served, client: Client, keys: Path, data: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for raw in (
        b"\x00" * 4096,
        b"GET / HTTP/1.1\r\n\r\n",
        b"PUT /v1/sessions/x/keys HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=20) as link:
            link.sendall(raw)
            assert link.recv(64).startswith(b"HTTP/1.")
    for method, path in [("GET", "/"), ("PUT", "/v1/sessions/x/keys"), ("DELETE", "/v1/sessions/x"), ("PUT", "/v1/x")]:
        link2 = server.connection()
        link2.request(method, path, b"x" * 1000)
        response = link2.getresponse()
        assert response.status in (404, 405)
        assert b"error" in response.read()
        link2.close()
    answers(server, client, keys, data)


def test_a_server_that_is_not_there_is_told_so(client: Client) -> None:
    with pytest.raises(IntaglioError, match="does not answer"), Connection("http://127.0.0.1:9", client.interface):
        pass
    with pytest.raises(IntaglioError, match="no address"), Connection("ftp://x", client.interface):
        pass


# --- who knows what ---------------------------------------------------------------------------------------------------

SECRET_NAMES = ("keygen", "decrypt", "loads_secret", "dumps_secret", "eval_keys", "Decryptor", "KeyGenerator")

INSPECT = """
import sys
from intaglio.backends.he.server import app, process, worker, limits
from intaglio.backends.he.engines import engine
from intaglio.backends.he.parameters import Parameters
made = engine("seal", Parameters(4096, (36, 28), (37,), 28))
names = {f"{m.__name__}.{n}" for m in list(sys.modules.values()) if m.__name__.startswith("intaglio.backends.he")
         for n in dir(m)} | {f"engine.{n}" for n in dir(made)}
print("\\n".join(sorted(names)))
"""


def test_the_server_has_no_secret_key_api() -> None:
    """Everything that a serving process loads, by name: no module of the keys' side, nothing that makes a secret."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", INSPECT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=True,
    )
    names = done.stdout.split()
    assert any(name.startswith("intaglio.backends.he.server.app.") for name in names)
    modules = {name.rpartition(".")[0] for name in names}
    for module in ("owner", "client", "engines.seal_keys", "engines.sim", "engines.lattigo"):
        assert f"intaglio.backends.he.{module}" not in modules
    assert not [name for name in names if name.rpartition(".")[2] in SECRET_NAMES]
    for file in sorted((Path(wire.__file__).parent / "server").glob("*.py")):
        text = file.read_text("utf-8")
        assert not [name for name in SECRET_NAMES if name in text], file.name


def test_the_clients_part_has_no_weights_and_both_have_the_security_statement(folder: Path) -> None:
    assert [p.name for p in (folder / "client").iterdir()] == ["interface.json"]
    for part in ("client", "server"):
        text = (folder / part / "interface.json").read_text("utf-8")
        assert '"stamp": "128-bit classical, by table"' in text
        assert str(tiny.FACTOR) not in text


def test_secret_keys_are_their_owners_alone(client: Client, keys: Path) -> None:
    assert (keys / "secret.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(IntaglioError, match="holds a secret key already"):
        client.keygen(keys)
