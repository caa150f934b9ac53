"""docs/passes.md, docs/rules.md and docs/write-a-pass.md: their code runs, their tables are those of the program.

INTAGLIO_BLESS=1 writes the tables.
"""

from __future__ import annotations

import inspect
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from intaglio.ir.rewrite import parse_rules
from intaglio.ir.rewrite.helpers import HELPERS
from intaglio.passes import PASSES, find
from intaglio.passes.rulebook import FOLDER, kind, shelf, shelves

DOCS = Path(__file__).resolve().parents[2] / "docs"
DIGITS = Path(__file__).resolve().parents[2] / "compiler" / "demo_digits.onnx"
BLESS = bool(os.environ.get("INTAGLIO_BLESS"))


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["rules.md", "write-a-pass.md"])
def test_python(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits.onnx").write_bytes(DIGITS.read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for text in blocks(name, "python"):
        exec(compile(text, name, "exec", dont_inherit=True), names)
    capsys.readouterr()


@pytest.mark.parametrize("text", blocks("rules.md", "rules"))
def test_rules(text: str) -> None:
    assert parse_rules(text)


def table(name: str, mark: str, found: str) -> None:
    """The part of a page between two marks is `found`; or it is from now on."""
    between = re.compile(rf"(?<=<!-- {mark} -->\n)(?:.|\n)*?(?=<!-- /{mark} -->)")
    if BLESS:
        (DOCS / name).write_text(between.sub(lambda _: found, page(name)), encoding="utf-8")
    have = between.search(page(name))
    assert have is not None and have[0] == found


def test_table_of_passes() -> None:
    rows = [f"| `{n}` | {find(n).contract} | {find(n).summary.rstrip('.')} |\n" for n in PASSES]
    head = "| pass | contract | what it does |\n|---|---|---|\n"
    table("passes.md", "passes", head + "".join(rows))


def test_table_of_rules() -> None:
    rows, total = [], Counter[str]()
    for name in shelves():
        kinds = Counter(kind(r) for r in shelf(name))
        total += kinds
        about = (FOLDER / f"{name}.rules").read_text(encoding="utf-8").splitlines()[0].removeprefix("// ")
        rows.append(_row(f"`{name}`", kinds, about.partition(". ")[0].partition(":")[0].rstrip(".")))
    head = "| file | rules | exact | real | bounded | what they are about |\n|---|---|---|---|---|---|\n"
    table("passes.md", "rules", head + "".join([*rows, _row("all", total, "")]))


def _row(name: str, kinds: Counter[str], about: str) -> str:
    return f"| {name} | {kinds.total()} | {kinds['exact']} | {kinds['real']} | {kinds['bounded']} | {about} |\n"


def test_table_of_functions() -> None:
    rows = []
    for name, fn in HELPERS.items():
        if getattr(fn, "__module__", "").startswith("intaglio"):
            if fn.__name__ == "<lambda>":
                continue
            doc = inspect.getdoc(fn)
            assert doc, f"{name} is not documented"
            parameters = ", ".join(inspect.signature(fn).parameters)
            rows.append(f"| `{name}({parameters})` | {doc.partition(chr(10))[0].rstrip('.')} |\n")
        else:
            assert f"`{name}`" in page("rules.md")
    table("rules.md", "helpers", "| function | what it answers |\n|---|---|\n" + "".join(sorted(rows)))
