"""`intaglio he`: the whole way on files, and what is said when something is amiss."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from intaglio.backends.he import calibrate
from intaglio.backends.he.engine import Meta
from intaglio.backends.he.interface import Interface, Tensor, read_interface, save_interface
from intaglio.backends.he.parameters import KeyManifest, Parameters
from intaglio.compiler.cli import main
from intaglio.ir.diagnostics import IntaglioError

pytest.importorskip("seal", reason="engine `seal` is not installed: pip install 'intaglio[he]'")
pytest.importorskip("aiohttp", reason="the server needs aiohttp: pip install 'intaglio[he]'")

PARAMETERS = Parameters(1 << 12, (36, 28), (37,), 28)
TURN = """
def load(folder):
    return None

def execute(program, engine, inputs):
    return [engine.rotate(x, 1) for x in inputs]
"""


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    meta = Meta(1, PARAMETERS.scale)
    tensors = [(Tensor(name, (2, 1024), {"kind": "flat"}, (meta,)),) for name in ("x", "y")]
    folder = tmp_path / "artifact"
    folder.mkdir()
    save_interface(folder, Interface("seal", PARAMETERS, KeyManifest.of({1: 1}), *tensors))
    (tmp_path / "turn.py").write_text(TURN)
    return folder


def run(*arguments: object) -> int:
    return main(["he", *map(str, arguments)])


def test_the_whole_way(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.arange(2048, dtype=np.float32).reshape(2, 1024) / 1000
    np.savez(tmp_path / "x.npz", x=x)
    client, keys = artifact / "client", tmp_path / "keys"
    assert run("keygen", client, "-o", keys) == 0
    assert run("encrypt", client, "--keys", keys, "--input", tmp_path / "x.npz", "-o", tmp_path / "x.ct") == 0
    served = subprocess.Popen(
        [sys.executable, "-P", "-m", "intaglio", "he", "serve", str(artifact), "--port", "0", "--executor", "turn"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert served.stdout is not None
        url = served.stdout.readline().split()[-1]
        where = ("--keys", keys, "--server", url)
        assert run("evaluate", client, *where, tmp_path / "x.ct", "-o", tmp_path / "y.ct") == 0
    finally:
        served.terminate()
        served.wait(20)
    assert run("decrypt", client, "--keys", keys, tmp_path / "y.ct", "-o", tmp_path / "y.npz") == 0
    with np.load(tmp_path / "y.npz") as found:
        np.testing.assert_allclose(found["y"].reshape(-1), np.roll(x.reshape(-1), -1), atol=0.01)
    assert run("decrypt", client, "--keys", keys, tmp_path / "y.ct") == 0
    assert "evaluated in" in capsys.readouterr().out


def test_mistakes_are_diagnosed(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 1024), np.float32))
    np.savez(tmp_path / "small.npz", x=np.zeros((2, 3), np.float32))
    (tmp_path / "x.ct").write_bytes(b"nonsense")
    run("keygen", artifact, "-o", keys)
    output = ("-o", tmp_path / "z.ct")
    for code, *arguments in [
        ("IG0572", "keygen", tmp_path, "-o", keys),
        ("IG0574", "keygen", artifact, "-o", keys),
        ("IG0574", "encrypt", artifact, "--keys", tmp_path, "--input", tmp_path / "x.npz", *output),
        ("IG0003", "encrypt", artifact, "--keys", keys, "--input", tmp_path / "small.npz", *output),
        ("IG0567", "decrypt", artifact, "--keys", keys, tmp_path / "x.ct"),
        ("IG0001", "decrypt", artifact, "--keys", keys, tmp_path / "none.ct"),
        ("IG0570", "evaluate", artifact, "--keys", keys, "--server", "http://127.0.0.1:9", tmp_path / "x.ct", *output),
        ("IG0002", "serve", artifact, "--memory", "much"),
        ("IG0002", "serve", artifact, "--seconds", "-1"),
        ("IG0570", "serve", artifact, "--host", "192.0.2.1"),
        ("IG0002", "calibrate", "--ring", "3"),
        ("IG0563", "calibrate", "--engine", "none", "--ring", "12"),
    ]:
        assert run(*arguments) == 1, arguments
        assert code in capsys.readouterr().err, arguments


def test_calibrate_writes_what_the_cost_model_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibrate, "SECONDS", 0.5)
    assert run("calibrate", "--ring", 12) == 0
    assert "CPU ms at level" in capsys.readouterr().out
    found = calibrate.read("seal", 4096)
    assert found.cost("rotate", 1) > 0


def test_interfaces_from_elsewhere_are_checked(artifact: Path) -> None:
    path = artifact / "client" / "interface.json"
    text = path.read_text()
    for old, new, code in [
        ('"ring_degree": 4096', '"ring_degree": 2048', "IG0561"),
        ('"format": 1', '"format": 9', "IG0572"),
        ('"secret": "ternary"', '"secret": "h=64"', "IG0561"),
        ("36,", "99,", "IG0560"),
        ('"name": "x"', '"name": 3', "IG0572"),
        ("268435456", "0", "IG0572"),
        ("{", "", "IG0572"),
    ]:
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(IntaglioError) as e:
            read_interface(artifact, "client")
        assert e.value.diagnostics[0].code == code, new
    path.write_text(text)
    read_interface(artifact / "client", "client")
