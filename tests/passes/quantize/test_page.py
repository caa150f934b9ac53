"""docs/quantization.md runs; the report shows where rounding is heard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intaglio

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits.onnx").write_bytes((ROOT / "compiler" / "demo_digits.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "quantization.md", "exec", dont_inherit=True), names)
    assert "quantize{method=gptq}: lossy" in capsys.readouterr().out
    page = names["compiled"].report()
    assert "Where rounding is heard" in page
    assert page.count("bar") > 3


def test_options_of_the_page_exist() -> None:
    from intaglio.passes.syntax import parse_pipeline

    for text in re.findall(r"`((?:equalize,)?quantize\{[^`}]*\})`", PAGE):
        assert parse_pipeline(text)


def test_labels_tell_the_accuracy() -> None:
    x = np.random.default_rng(0).random((32, 1, 8, 8), dtype=np.float32)
    model = ROOT / "compiler" / "demo_digits.onnx"
    right = np.asarray(intaglio.compile(model, "reference")(x)).argmax(1)
    made = intaglio.compile(model, "reference", "quantize{weights=2}", calibration={"image": x, "labels": right})
    notes = [n for e in made.ledger.entries for n in e.notes]
    assert any("McNemar's p" in n and "0 for the better" in n for n in notes)
