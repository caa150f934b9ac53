"""The demonstration runs, compares itself where it can, and says so where it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from intaglio.compiler.demo import main


@pytest.mark.parametrize("with_onnxruntime", [True, False])
def test_demo(
    with_onnxruntime: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if with_onnxruntime:
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setenv("INTAGLIO_DATA", str(tmp_path / "nowhere"))
    page = tmp_path / "report.html"
    assert main(["--target", "reference", "--seconds", "0.02", "--report", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "intaglio reference        99.00%" in shown
    assert ("onnxruntime 1." in shown) is with_onnxruntime
    assert ("(no comparison: onnxruntime is not installed)" in shown) is not with_onnxruntime
    assert page.stat().st_size > 10_000


def test_demo_for_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tvm")
    monkeypatch.setenv("INTAGLIO_DATA", str(tmp_path / "nowhere"))
    assert main(["--seconds", "0.05", "--report", str(tmp_path / "report.html")]) == 0
    assert "intaglio cpu              99.00%" in capsys.readouterr().out


def test_wrong_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "toaster"]) == 1
    assert "IG0501" in capsys.readouterr().err
