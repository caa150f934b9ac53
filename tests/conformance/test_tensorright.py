"""The rules that TensorRight states for XLA, in our language: each passes its test (see tensorright.rules)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from intaglio.ir.rewrite import Rule, read_rules
from intaglio.ir.testing import check_rule

FILE = Path(__file__).with_name("tensorright.rules")
RULES = read_rules(FILE)
PUBLISHED = {
    "add": 4, "broadcast": 8, "clamp": 3, "compare": 6, "concat": 7, "conv": 4, "divmod": 8, "dot": 6, "dyslice": 6,
    "dyupslice": 4, "iota": 1, "logical": 11, "max": 2, "mul": 10, "not": 2, "pad": 4, "reduce": 8, "relabel": 2,
    "reverse": 4, "select": 4, "slice": 13, "sub": 3,
}  # fmt: skip


def test_all_are_here_or_have_a_reason() -> None:
    first = {"conv": 0, "sub": 0}  # those that number from 0
    published = {f"{k}-{i:02}" for k, n in PUBLISHED.items() for i in range(first.get(k, 1), n + first.get(k, 1))}
    assert len(published) == 120
    stated = {r.name for r in RULES}
    left_out = set(re.findall(r"^//   ([a-z]+-\d\d)  ", FILE.read_text(encoding="utf-8"), re.MULTILINE))
    assert stated | left_out == published
    assert not stated & left_out
    assert len(stated) == 114


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_rule(rule: Rule) -> None:
    report = check_rule(rule, examples=60)
    assert report.ok, str(report.counterexample or report)


@pytest.mark.deep
@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_rule_thoroughly(rule: Rule) -> None:
    report = check_rule(rule, examples=2000, seed=1)
    assert report.ok, str(report.counterexample or report)
