"""What pipelines make of what exporters write: golden cases in files/rewrites.txt, which bless themselves.

INTAGLIO_BLESS=1 writes what the tests find.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.ir import Graph, IntaglioError, Tensor, evaluate, verify
from intaglio.ir.text import parse_graph, print_graph
from intaglio.passes.canonicalize import canonicalize
from intaglio.passes.definition import Context
from intaglio.passes.syntax import parse_pipeline

PATH = Path(__file__).resolve().parents[1] / "files" / "rewrites.txt"
BLESS = bool(os.environ.get("INTAGLIO_BLESS"))
CASE = re.compile(r"^=== (.*?) \| (.*)\n(graph (?:.|\n)*?^}\n)--- \n((?:(?!^===).*\n)*)", re.MULTILINE)
CASES = CASE.findall(PATH.read_text(encoding="utf-8"))


def run(graph: Graph, pipeline: str, context: Context | None = None) -> Graph:
    for step in parse_pipeline(pipeline):
        graph = step.rewrite.run(graph, step.options, context or Context())
        verify(graph)
    return graph


def bare(graph: Graph) -> str:
    """Without locations, which name all the rules on the way."""
    return re.sub(r" loc\(.*\)$", "", print_graph(graph), flags=re.MULTILINE)


def test_golden_pipelines() -> None:
    found = []
    for title, pipeline, before, _ in CASES:
        after = run(parse_graph(before), pipeline)
        found.append(f"=== {title} | {pipeline}\n{before}--- \n{bare(after)}")
    text = "".join(found)
    if BLESS:
        PATH.write_text(text, encoding="utf-8")
    assert PATH.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(("pipeline", "before"), [c[1:3] for c in CASES], ids=[c[0] for c in CASES])
def test_golden_pipelines_keep_the_meaning(pipeline: str, before: str) -> None:
    graph = parse_graph(before)
    after = run(graph, pipeline)
    inputs = [values(v.type, i) for i, v in enumerate(graph.inputs)]
    for x, y in zip(evaluate(graph, inputs), evaluate(after, inputs, check=True), strict=True):
        np.testing.assert_allclose(y, x, rtol=2e-5, atol=2e-6)


def values(t: Any, seed: int) -> Any:
    assert isinstance(t, Tensor)
    drawn = np.random.default_rng(seed).normal(size=[int(d) for d in t.shape]) * 3
    return (np.rint(drawn * 10) if t.dtype.kind == "i" else drawn).astype(t.dtype)


def test_options_choose_rules() -> None:
    graph = parse_graph(
        "graph @main(%x: f32[2]) -> (y: f32[2], z: f32[2]) {\n"
        "  %0 = math.neg(%x) : f32[2]\n  %1 = math.neg(%0) : f32[2]\n  %y = math.abs(%1) : f32[2]\n"
        "  %2 = math.exp(%x) : f32[2]\n  %z = math.log(%2) : f32[2]\n  return %y, %z\n}\n"
    )
    names = {
        "canonicalize": ["math.abs"],
        "canonicalize{only=[exact]}": ["math.abs", "math.exp", "math.log"],
        "canonicalize{rules=[log-*]}": ["math.neg", "math.neg", "math.abs"],
        "canonicalize{without=[neg-neg, abs-neg]}": ["math.neg", "math.neg", "math.abs"],
    }
    for pipeline, expected in names.items():
        assert [n.op.name for n in run(graph, pipeline).nodes] == expected
    with pytest.raises(IntaglioError, match="IG0414"):
        run(graph, "canonicalize{rules=[neg-nge]}")


def test_what_fired_is_noted() -> None:
    context = Context()
    canonicalize(parse_graph(CASES[0][2]), context)
    assert context.notes == ["div-constant 1, gelu-half-outside 1"]


def test_new_nodes_say_where_they_come_from() -> None:
    after = run(parse_graph(CASES[0][2]), "canonicalize")
    assert str(after).count('via "div-constant", "gelu-half-outside"') == 1
