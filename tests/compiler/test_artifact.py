"""Artifacts: what is written is what is read, and whatever was changed in between is refused by name."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.compiler import files
from intaglio.compiler.api import Compiled, load_artifact
from intaglio.compiler.manifest import _seal
from intaglio.ir import IntaglioError, Module

FILES = ["manifest.json", "model.ig", "model.safetensors", "source.json"]
X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def refused(folder: Path) -> tuple[str, str]:
    """Code and message of why an artifact is not loaded."""
    with pytest.raises(IntaglioError) as caught:
        load_artifact(folder)
    found = caught.value.diagnostics[0]
    return found.code, found.message


def test_round_trip(module: Module, artifact: Path) -> None:
    compiled = intaglio.compile(module, "reference", "fold")
    loaded = load_artifact(artifact)
    for name, value in compiled.run({"x": X}).items():
        assert np.array_equal(loaded.run({"x": X})[name], value)
    assert loaded.module == compiled.module
    assert loaded.ledger == compiled.ledger
    assert loaded.source == compiled.source
    assert loaded.manifest.pipeline == "fold"
    assert [str(p.type) for p in loaded.manifest.inputs] == ["f32[N, 8]"]
    assert loaded.manifest.dims == {"N": (1, 64)}
    assert loaded.manifest.cost.flops > 0
    assert intaglio.load(artifact) == compiled.module


def test_saving_again_gives_the_same_files(artifact: Path, tmp_path: Path) -> None:
    Compiled.load(artifact).save(tmp_path / "again")
    for name in FILES:
        assert (artifact / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_any_change_is_noticed(name: str, artifact: Path) -> None:
    path = artifact / name
    data = bytearray(path.read_bytes())
    rng = random.Random(name)
    for _ in range(40):
        at = rng.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        if name == "manifest.json" and _same_json(data, changed):
            continue
        code, message = refused(artifact)
        assert name in message
        assert code == "IG0507" or (name == "manifest.json" and code == "IG0509")
    path.write_bytes(data[:-1] if name != "manifest.json" else data[:-3])
    assert refused(artifact)[0] in ("IG0507", "IG0509")
    path.write_bytes(data)
    load_artifact(artifact)


def _same_json(a: bytes, b: bytes) -> bool:
    """White space is nobody's content."""
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_named(name: str, artifact: Path) -> None:
    (artifact / name).unlink()
    code, message = refused(artifact)
    assert code == ("IG0506" if name == "manifest.json" else "IG0508")
    assert name in message


GARBAGE = [
    "",
    "{",
    "[]",
    "3",
    "null",
    '"x"',
    "{}",
    '{"format": 2}',
    '{"format": [1]}',
    '{"format": 1}',
    "\x00\x01",
    "[" * 100_000,
]


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_for_a_manifest(text: str, artifact: Path) -> None:
    (artifact / "manifest.json").write_text(text)
    code, message = refused(artifact)
    assert code in ("IG0507", "IG0509")
    assert "manifest.json" in message


@pytest.mark.parametrize(
    "key", ["name", "target", "options", "inputs", "dims", "ledger", "cost", "timings", "origin", "files", "backend"]
)
@pytest.mark.parametrize(
    "value", [None, 3, [], {}, "x", [[1]], {"a": {"b": 1}}, {"../../etc/passwd": {"sha256": "", "bytes": 0}}]
)
def test_nonsense_in_a_manifest(key: str, value: Any, artifact: Path) -> None:
    """Sealed again, as by a program with a bug: still a diagnostic, or nonsense that makes no difference."""
    path = artifact / "manifest.json"
    data = json.loads(path.read_text())
    data[key] = value
    del data["seal"]
    path.write_text(json.dumps({**data, "seal": _seal(data)}))
    try:
        load_artifact(artifact).run({"x": X})
    except IntaglioError as e:
        assert e.diagnostics[0].code.startswith("IG05")


def test_a_newer_format_is_named(artifact: Path) -> None:
    path = artifact / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    code, message = refused(artifact)
    assert code == "IG0509"
    assert "format version 99" in message


def test_a_failed_save_leaves_the_old_one(module: Module, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in artifact.iterdir()}
    compiled = intaglio.compile(module, "reference")

    def fail(self: object, folder: Path) -> dict[str, Any]:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(type(compiled.program), "save", fail)
    with pytest.raises(RuntimeError):
        compiled.save(artifact)
    assert {p.name: p.read_bytes() for p in artifact.iterdir()} == before
    assert [p.name for p in artifact.parent.iterdir() if p.name.endswith(".tmp")] == []


def test_leftovers_go_and_living_writers_stay(tmp_path: Path) -> None:
    dead = tmp_path / ".out.01234567.tmp"
    dead.mkdir()
    (dead / "half").write_text("")
    with files.new_folder(tmp_path / "out", replaces=lambda p: True) as first:
        assert not dead.exists()
        with files.new_folder(tmp_path / "out", replaces=lambda p: True) as second:
            assert first.exists()
            (second / "who").write_text("second")
        (first / "who").write_text("first")
    assert (tmp_path / "out" / "who").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_is_not_followed(tmp_path: Path, artifact: Path, module: Module) -> None:
    link = tmp_path / "link"
    link.symlink_to(artifact)
    with pytest.raises(IntaglioError, match="IG0510"):
        intaglio.compile(module, "reference").save(link)
