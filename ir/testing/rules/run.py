"""Checking rules: draw, judge, and make what is wrong small.

report = check_rule(rule)            one rule, 200 examples
reports = check_rules("my.rules")    a file, each rule also together with the others
assert_rule(rule)                    for a test: raises AssertionError with the counterexample
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...rewrite import Bounded, Lossy, Real, Rule, Ruleset, read_rules, rewrite
from ...rewrite.language import Expr
from ...types import Elem, Float
from .compare import wide
from .contracts import METRICS, climb, dense
from .elements import EXACT_FLOATS, REAL_FLOATS
from .hints import Hints
from .instance import Instance, draw_instance
from .judge import Finding, Judge
from .report import Counterexample, Report
from .smaller import smaller
from .tape import Reject, Tape, mutated

__all__ = ["assert_rule", "check_rule", "check_rules"]

F64, F32 = Float("f64"), Float("f32")


def check_rules(rules: str | Path | Iterable[Rule], examples: int = 200, seed: int = 0) -> list[Report]:
    """Check rules, or those of a file, one by one and together."""
    found = read_rules(Path(rules)) if isinstance(rules, (str, Path)) else list(rules)
    everything = Ruleset(found, "checked") if len(found) > 1 else None
    return [check_rule(r, examples, seed, everything=everything) for r in found]


def assert_rule(rule: Rule, examples: int = 200, seed: int = 0) -> None:
    """Raise AssertionError, with the smallest counterexample, when a rule does not keep its promise."""
    report = check_rule(rule, examples, seed)
    if not report.ok:
        raise AssertionError(str(report.counterexample or report))


def check_rule(rule: Rule, examples: int = 200, seed: int = 0, *, everything: Ruleset | None = None) -> Report:
    """Draw `examples` instances of the left side on which the rule fires, and check all that it promises."""
    return _Run(rule, examples, seed, everything).report()


class _Run:
    def __init__(self, rule: Rule, examples: int, seed: int, everything: Ruleset | None) -> None:
        self.rule, self.examples, self.seed = rule, examples, seed
        self.hints = Hints.of(rule)
        self.judge = Judge(rule, everything)
        self.nasty = not isinstance(rule.contract, (Real, Bounded, Lossy))
        self.floats: tuple[Elem, ...] = EXACT_FLOATS if self.nasty else REAL_FLOATS
        if isinstance(rule.contract, (Bounded, Lossy)):
            self.floats = (F64, F32)
        self.tapes: list[Tape] = []  # of examples on which the rule fired
        self.reasons: dict[str, int] = {}
        self.losses: list[Instance] = []

    def draw(self, tape: Tape) -> Instance:
        return draw_instance(self.rule.left, self.hints, tape, self.floats, self.nasty)

    def report(self) -> Report:
        started = time.process_time()
        report = Report(self.rule.name, str(self.rule.contract), self.rule)
        finding, tape = self.search(report)
        report.seconds = time.process_time() - started
        if finding is None and report.examples >= max(1, self.examples // 10):
            finding, tape = self.beyond(report), None
        if finding is not None:
            report.counterexample = self.small(finding, tape)
            report.status, report.message = "wrong", report.counterexample.what
        elif report.examples < max(1, self.examples // 10):
            report.status, report.message = "cannot instantiate", self.why_not()
        elif self.judge.compared == 0:
            report.status, report.message = (
                "cannot instantiate",
                "every drawn result is inf or nan: nothing was compared",
            )
        return report

    def search(self, report: Report) -> tuple[Finding | None, Tape | None]:
        most = 40 * self.examples + 400
        rng = random.Random(self.seed)
        while report.examples < self.examples and report.attempts < most:
            report.attempts += 1
            tape = Tape(self.prefix(report, rng), rng)
            try:
                instance = self.draw(tape)
                finding = self.judge.judge(instance, thorough=report.examples % 4 == 0)
            except Reject as e:
                self.reasons[str(e)] = self.reasons.get(str(e), 0) + 1
                continue
            if not self.judge.fired:
                continue
            report.examples += 1
            if finding is not None:
                return finding, tape
            if len(self.tapes) < 64:
                self.tapes.append(tape)
            if isinstance(self.rule.contract, Bounded) and report.examples % 8 == 0:
                found = self.climb(instance, rng)
                if found is not None:
                    return found, None
            if isinstance(self.rule.contract, Lossy) and len(self.losses) < 50 and instance.plain:
                self.losses.append(instance)
        return None, None

    def prefix(self, report: Report, rng: random.Random) -> Sequence[int]:
        """Fresh decisions; where few examples fit, decisions near those of an example that did."""
        if self.tapes and report.examples < 0.5 * report.attempts and rng.random() < 0.8:
            return mutated(self.tapes[int(rng.random() * len(self.tapes))], rng)
        return ()

    # --- making it small ----------------------------------------------------------------------------------------------

    def small(self, finding: Finding, tape: Tape | None) -> Counterexample:
        if tape is not None:
            finding = smaller(finding, tape, self.draw, self.judge)
        i = finding.instance
        title = f"rule {self.rule.name} ({self.rule.position}), {self.rule.contract}"
        return Counterexample(title, finding.what, i.graph, i.feeds[0], finding.after, finding.results)

    # --- bounded and lossy --------------------------------------------------------------------------------------------

    def climb(self, instance: Instance, rng: random.Random) -> Finding | None:
        assert isinstance(self.rule.contract, Bounded)
        after, _ = rewrite(instance.graph, self.judge.alone)
        worst = climb(self.rule.contract, instance.graph, after, instance.feeds[0], rng)
        return None if worst is None else self.judge.judge(replace(instance, feeds=(worst,)))

    def beyond(self, report: Report) -> Finding | None:
        """What is checked once per rule: the dense grid of a bound, the budget and the limits of a loss."""
        if isinstance(self.rule.contract, Bounded):
            return self.grid(self.rule.contract)
        if isinstance(self.rule.contract, Lossy):
            return self.loss(self.rule.contract, report)
        return None

    def grid(self, contract: Bounded) -> Finding | None:
        for tape in self.tapes:
            instance = self.draw(Tape(tape.values))
            after, _ = rewrite(instance.graph, self.judge.alone)
            found = dense(contract, instance.graph, after)
            if found is not None:
                point = tuple(np.full_like(x, found[1]) for x in instance.feeds[0])
                again = self.judge.judge(replace(instance, feeds=(point,)))
                return again or Finding("result", found[0], instance, after)
        return None

    def loss(self, contract: Lossy, report: Report) -> Finding | None:
        metric = METRICS.get(contract.metric)
        if metric is None:
            report.notes.append(f"`{contract.metric}` is measured end to end, not on drawn examples")
            return None
        measured = self.measured(self.rule, metric)
        report.notes.append(f"{contract.metric} {measured:.3g} of {contract.budget:g} on drawn examples")
        first = self.losses[0]
        after, _ = rewrite(first.graph, self.judge.alone)
        if measured > contract.budget:
            return Finding(
                "result", f"{contract.metric} is {measured:.3g}, {contract.budget:g} are claimed", first, after
            )
        stuck = self.knobs(metric, measured)
        return Finding("result", stuck, first, after) if stuck else None

    def measured(self, rule: Rule, metric: Callable[[np.ndarray, np.ndarray], float]) -> float:
        """The error over all examples kept."""
        from ...interpret import evaluate

        alone = Ruleset([rule], rule.name)
        old, new = [], []
        for instance in self.losses:
            after, _ = rewrite(instance.graph, alone)
            a, b = evaluate(instance.graph, instance.feeds[0]), evaluate(after, instance.feeds[0])
            old.append(wide(a[0]).ravel())
            new.append(wide(b[0]).ravel())
        return metric(np.concatenate(old), np.concatenate(new)) if old else 0.0

    def knobs(self, metric: Callable[[np.ndarray, np.ndarray], float], now: float) -> str:
        """Towards one end of one numeric option, the error vanishes."""
        numeric = {k: v for k, v in self.rule.options.items() if type(v) in (int, float)}
        if not numeric or now < 1e-6:
            return ""
        best = now
        for name, value in numeric.items():
            ends = [value * 8, value * 64] if type(value) is int else [value * 1e-4, value * 1e4]
            for end in ends:
                best = min(best, self.measured(self.rule.with_options(**{name: end}), metric))
        return (
            ""
            if best <= 1e-3 * now + 1e-9
            else f"no option brings the error to 0: from {now:.3g} to {best:.3g} at best"
        )

    # --- what cannot be drawn -----------------------------------------------------------------------------------------

    def why_not(self) -> str:
        """The condition that keeps the rule from firing, or why no graph could be drawn."""
        rng = random.Random(self.seed)
        for count, condition in enumerate([None, *self.rule.conditions]):
            held = 0

            def declines(m: object) -> None:
                nonlocal held
                held += 1

            part = replace(self.rule, conditions=self.rule.conditions[:count], right=declines, options={})
            alone = Ruleset([part], part.name)
            for _ in range(300):
                try:
                    rewrite(self.draw(Tape((), rng)).graph, alone)
                except Reject as e:
                    self.reasons[str(e)] = self.reasons.get(str(e), 0) + 1
            if held < 6:
                if condition is None:
                    usual = max(self.reasons, key=lambda k: self.reasons[k], default="the pattern does not match")
                    return f"no graph with the left side could be drawn: {usual}"
                return f"condition `{_text(condition)}` hardly ever holds ({condition.position})"
        return "the right side declines"


def _text(condition: Expr) -> str:
    at = condition.position
    return at.source[at.column - 1 : at.column - 1 + at.length] or at.source.strip()
