"""Every example in docs/cli.md and docs/python.md does what it says."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
INTAGLIO = shlex.join([sys.executable, "-P", "-m", "intaglio"])
SMALL = """graph @main(%x: f32[N, 2]) -> (y: f32[N, 2]) {
  %a = const [1.0, 2.0] : f32[2]
  %b = math.add(%a, %a) : f32[2]
  %y = math.mul(%x, %b) : f32[N, 2]
  return %y
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages take for granted."""
    shutil.copy(ROOT / "compiler" / "demo_digits.onnx", tmp_path / "digits.onnx")
    with np.load(ROOT / "compiler" / "demo_digits.npz") as data:
        images, labels = data["image"].astype(np.float32), data["labels"]
    (tmp_path / "small.ig").write_text(SMALL)
    np.savez(tmp_path / "digits.npz", image=images, labels=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


def test_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("docs_python")  # dataclasses look for the module they are in
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for i, block in enumerate(blocks("python.md", "python")):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, f"docs/python.md, block {i}", "exec", dont_inherit=True), vars(module))


def test_command_line(folder: Path) -> None:
    with np.load(folder / "digits.npz") as data:
        images = data["image"][:4]
    np.savez(folder / "digits.npz", image=images)
    for block in blocks("cli.md", "console"):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, wanted = example.partition("\n")
            line = re.sub(r"\bintaglio ", lambda _: f"{INTAGLIO} ", command)
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
            shown = done.stdout + (done.stderr if done.returncode else "")
            shown += f"[exit {done.returncode}]\n" if done.returncode else ""
            same = doctest.OutputChecker().check_output(wanted, shown, doctest.ELLIPSIS)
            assert same, f"$ {command}\n{shown}\ninstead of\n{wanted}"
