"""The examples of docs/text.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from intaglio.ir import IntaglioError, parse, print_graph, print_module, verify
from intaglio.ir.text import parse_graph, parse_type

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "text.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", blocks("ig"))
def test_programs(text: str) -> None:
    verify(parse(text))
    assert (print_module(parse(text)) if text.startswith("ig") else print_graph(parse_graph(text))) == text


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for text in blocks("python"):
        names: dict[str, Any] = {"folder": tmp_path}
        exec(compile(text, "docs/text.md", "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} == {"copy.ig", "copy.safetensors"}


def test_mistakes() -> None:
    for text, found in zip(blocks("mistake"), blocks("diagnostics"), strict=True):
        with pytest.raises(IntaglioError) as caught:
            parse(text)
        assert str(caught.value) + "\n" == found


def test_types() -> None:
    table = PAGE[PAGE.index("## Types") : PAGE.index("## Attributes")]
    types = re.findall(r"`([a-z0-9]+(?:<[^`]*>)?\[[^`]*)`", table)
    assert len(types) >= 8
    for text in types:
        if "@" not in text:
            assert str(parse_type(text)) == text


def test_codes_are_all_there() -> None:
    """Every code that reading a text can give is explained."""
    page = (ROOT / "docs" / "diagnostics.md").read_text(encoding="utf-8")
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "ir" / "text").glob("*.py"))
    assert sorted(set(re.findall(r"IG03\d\d", source))) == re.findall(r"^\| (IG03\d\d) ", page, re.MULTILINE)
