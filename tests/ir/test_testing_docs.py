"""The examples of docs/testing.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from intaglio.ir.testing import SAMPLES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def test_examples_run(capsys: Any) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {"__name__": "testing_docs"}
    try:
        for text in blocks:
            exec(compile(text, "docs/testing.md", "exec"), names)
    finally:
        SAMPLES.pop("acme.roll", None)
    shown = capsys.readouterr().out
    assert "rule neg-sub-bits" in shown and "becomes" in shown
