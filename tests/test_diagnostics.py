"""The list of diagnostic codes in docs/diagnostics.md is the list of codes in the source."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = re.compile(r"\bIG\d{4}\b")


def used() -> dict[str, str]:
    """Every code in the source and a file that has it."""
    files = [file for folder in ("backends", "compiler", "ir", "passes") for file in (ROOT / folder).rglob("*.py")]
    return {code: str(file.relative_to(ROOT)) for file in files for code in CODE.findall(file.read_text("utf-8"))}


def listed() -> list[str]:
    text = (ROOT / "docs" / "diagnostics.md").read_text("utf-8")
    return re.findall(r"^\| (IG\d{4}) \|", text, re.MULTILINE)


def test_every_code_is_listed() -> None:
    missing = {code: file for code, file in used().items() if code not in listed()}
    assert not missing, "add them to docs/diagnostics.md"


def test_nothing_else_is_listed() -> None:
    assert set(listed()) <= set(used())
    assert len(listed()) == len(set(listed()))
    assert listed() == sorted(listed())
