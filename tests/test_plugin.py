"""A third party's package (tests/plugin), installed by pip, is found without a word about it in our code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).with_name("plugin")

MODEL = """\
ig 1
module @m {
  graph @main(%x: f32[4]) -> (y: f32[4]) {
    %0 = math.mul(%x, %x) : f32[4]
    %y = math.abs(%0) : f32[4]
    return %y
  }
}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    source = tmp_path_factory.mktemp("source")
    for file in PLUGIN.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            copy = source / file.relative_to(PLUGIN)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    subprocess.run([*command, "--target", str(folder), str(source)], check=True, capture_output=True)
    return folder


def intaglio(site: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-P", "-m", "intaglio", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_the_pass_is_listed_and_runs_and_its_op_is_in_the_text(site: Path) -> None:
    assert "squared" in intaglio(site, "passes").stdout
    done = intaglio(site, "opt", "-", "-p", "squared", "-o", "-", stdin=MODEL)
    assert done.returncode == 0, done.stderr
    assert "example.square(%x)" in done.stdout


def test_the_op_has_a_page(site: Path) -> None:
    done = intaglio(site, "ops", "example.square")
    assert done.returncode == 0, done.stderr
    assert "x times x" in done.stdout


def test_its_rules_join_canonicalize(site: Path) -> None:
    done = intaglio(site, "opt", "-", "-p", "squared,canonicalize", "-o", "-", stdin=MODEL)
    assert done.returncode == 0, done.stderr
    assert "math.abs" not in done.stdout
    assert "example.square(%x)" in done.stdout


def test_its_rules_are_checked_like_ours(site: Path) -> None:
    done = intaglio(site, "check", str(PLUGIN / "intaglio_example" / "example.rules"), "--examples", "50")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "example-abs-square" in done.stdout


def test_a_backend_that_lacks_the_op_says_so(site: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.ig"
    model.write_text(MODEL.replace("math.mul(%x, %x)", "example.square(%x)"))
    done = intaglio(site, "compile", str(model), "--target", "cpu", "-o", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "example.square" in done.stderr
    assert not (tmp_path / "out").exists()
    assert intaglio(site, "compile", str(model), "--target", "reference", "-o", str(tmp_path / "out")).returncode == 0


def test_without_the_package_the_op_is_unknown(tmp_path: Path) -> None:
    text = MODEL.replace("math.mul(%x, %x)", "example.square(%x)")
    done = intaglio(tmp_path, "opt", "-", "-p", "dce", "-o", "-", stdin=text)
    assert done.returncode == 1
    assert "there is no op `example.square`" in done.stderr
