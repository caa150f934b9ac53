"""Bounded rules are booked: what the ledger claims holds for what is measured."""

from __future__ import annotations

import numpy as np

from intaglio.compiler.api import load, optimize
from intaglio.compiler.pipeline import run_pipeline
from intaglio.ir import Editor, Module, Tensor, evaluate
from intaglio.passes.syntax import parse_pipeline


def _module(last: str) -> Module:
    e = Editor()
    x = e.input("x", Tensor((64,), "f32"))
    y = e.emit("math.sigmoid", x)
    e.output(e.emit(last, y), "y")
    return Module("m", {"main": e.freeze()})


def test_a_bounded_rule_is_claimed_at_the_outputs() -> None:
    module = _module("math.neg")
    outcome = run_pipeline(module, parse_pipeline("legalize{without=[math.sigmoid]}"))
    (entry,) = outcome.ledger.entries
    assert entry.contract == "bounded"
    claimed = entry.claimed["max_abs"]
    x = np.linspace(-20, 20, 64, dtype=np.float32)
    moved = float(np.abs(evaluate(outcome.module.main, [x])[0] - evaluate(module.main, [x])[0]).max())
    assert 0 < claimed < 1e-3
    assert moved <= claimed


def test_an_unbounded_op_behind_it_is_said_in_the_ledger() -> None:
    outcome = run_pipeline(_module("math.exp"), parse_pipeline("legalize{without=[math.sigmoid]}"))
    (entry,) = outcome.ledger.entries
    assert "max_abs" not in entry.claimed
    assert any("no bound is known" in note for note in entry.notes)


def test_exact_and_real_rules_claim_nothing() -> None:
    outcome = run_pipeline(_module("math.neg"), parse_pipeline("canonicalize"))
    assert outcome.ledger.entries[0].claimed == {}
    assert optimize(load(_module("math.neg")), "canonicalize").main.nodes
