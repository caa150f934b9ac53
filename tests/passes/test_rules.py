"""Every rule beside the passes keeps its promise on generated instances of its left side; the files are in order."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from intaglio.ir import Graph, evaluate
from intaglio.ir.ops import OPS
from intaglio.ir.rewrite import Rule, rewrite
from intaglio.ir.rewrite.helpers import HELPERS
from intaglio.ir.testing import assert_rule, graphs
from intaglio.ir.verify import verify
from intaglio.passes.canonicalize import FILES
from intaglio.passes.rulebook import FOLDER, ruleset, shelf, shelves

EXAMPLES = 40
DEEP = 400
RULES = [pytest.param(rule, id=f"{name}:{rule.name}") for name in shelves() for rule in shelf(name)]


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: Rule) -> None:
    assert_rule(rule, examples=EXAMPLES)


@pytest.mark.deep
@pytest.mark.parametrize("rule", RULES)
def test_rule_thoroughly(rule: Rule) -> None:
    assert_rule(rule, examples=DEEP, seed=1)


def test_there_are_enough() -> None:
    assert sum(len(shelf(name)) for name in FILES) >= 150
    assert set(FILES) | {"layout", "decompose"} == set(shelves())


def test_every_rule_is_explained() -> None:
    for name in shelves():
        for rule in shelf(name):
            assert rule.doc, f"{rule.position}: rule `{rule.name}` has no /// line"


def test_names_are_unique() -> None:
    names = Counter(rule.name for name in shelves() for rule in shelf(name))
    assert [n for n, count in names.items() if count > 1] == []


def test_lines_are_not_too_long() -> None:
    for path in FOLDER.glob("*.rules"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 120 and line == line.rstrip(), f"{path.name}:{number}"


def test_helpers_do_not_hide_ops() -> None:
    assert not set(HELPERS) & {name.rpartition(".")[2] for name in OPS}


def test_the_compiled_rules_tell_where_they_come_from() -> None:
    rules = ruleset(("algebra",), ("exact", "real"))
    assert re.search(r"# neg-neg \(.*algebra\.rules:\d+:6\)", rules.source)


# --- all rules together, on whole graphs ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(graphs(max_nodes=16))
def test_exact_rules_keep_every_bit(case: tuple[Graph, list[Any]]) -> None:
    graph, inputs = case
    for files in (FILES, ("layout",)):
        after, _ = rewrite(graph, ruleset(files, ("exact",)))
        verify(after)
        for x, y in zip(evaluate(graph, inputs), evaluate(after, inputs), strict=True):
            assert x.dtype == y.dtype and same_bits(x, y)


def same_bits(x: Any, y: Any) -> bool:
    """Equal, zeros by sign; every nan is as good as another."""
    if x.dtype.kind not in "fV":
        return bool(np.array_equal(x, y))
    x, y = x.astype(np.float64), y.astype(np.float64)
    return bool(np.array_equal(x, y, equal_nan=True) and np.array_equal(np.signbit(x)[x == 0], np.signbit(y)[y == 0]))


@settings(max_examples=60, deadline=None)
@given(graphs(max_nodes=16))
def test_all_rules_come_to_an_end_and_keep_types(case: tuple[Graph, list[Any]]) -> None:
    graph, _ = case
    for files in (FILES, ("layout",)):
        after, _ = rewrite(graph, ruleset(files, ("exact", "real")))
        verify(after)
        assert [v.type for v in after.outputs] == [v.type for v in graph.outputs]
