"""`intaglio check`: a table, counterexamples as IR, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from intaglio.compiler.cli import main

RULES = """
/// Twice the opposite.
rule neg-neg exact:
    neg(neg(x)) => x

/// The wrong way round.
rule neg-sub real:
    neg(sub(x, y)) => sub(x, y)
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "mine.rules"
    path.write_text(RULES, encoding="utf-8")
    return str(path)


def test_a_wrong_rule_is_shown(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", rules, "--examples", "50"]) == 1
    told = capsys.readouterr()
    lines = [line.split() for line in told.out.splitlines()]
    assert lines[1][:3] == ["neg-neg", "exact", "50"] and lines[1][-1] == "ok"
    assert lines[2][0] == "neg-sub" and lines[2][-1] == "wrong"
    assert "math.sub(%x, %y)" in told.out and "becomes" in told.out
    assert told.err == "1 of 2 do not keep their promise\n"


def test_one_rule(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", rules, "--rule", "neg-neg", "--examples", "20", "--seed", "3"]) == 0
    assert "neg-sub" not in capsys.readouterr().out
    assert main(["check", rules, "--rule", "neg"]) == 1
    assert "there is no rule `neg`" in capsys.readouterr().err


def test_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "cse", "--examples", "20"]) == 0
    assert main(["check", "layout", "--examples", "5"]) == 0
    assert "sink-relu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nowhere.rules"], "IG0001"), (["nopass"], "IG0403"), (["cse", "--examples", "0"], "IG0002")],
)
def test_mistakes(arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments]) == 1
    assert code in capsys.readouterr().err
