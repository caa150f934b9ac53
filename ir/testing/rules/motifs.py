"""Whole passes: random graphs in which the left sides of rules occur, and what a pass makes of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np

from ...diagnostics import IntaglioError
from ...dims import UNKNOWN, substitute, symbols
from ...graph import Graph, Value
from ...interpret import evaluate
from ...rewrite import Rule
from ...types import Bool, Float, Int, Tensor
from ...verify import agrees, check
from ..growth import Growth, data
from ..recipes import RECIPES
from .compare import compare_exact, compare_real
from .drawing import Drawing
from .elements import EXACT_FLOATS, REAL_FLOATS
from .hints import Hints
from .instance import Instance
from .judge import Finding
from .numbers import array
from .report import Counterexample, Report
from .samples import sample
from .smaller import smaller
from .tape import Reject, Tape

__all__ = ["check_pass"]

Run = Callable[[Graph], Graph]
MOTIFS, STEPS = 3, 4  # at most: left sides in a graph, random steps between them


def check_pass(
    run: Run, name: str, contract: str, rules: Sequence[Rule] = (), examples: int = 200, seed: int = 0
) -> Report:
    """Run a pass on random graphs that contain the left sides of `rules`; its contract is `exact` or `real`.

    The result verifies, keeps the types of inputs and outputs, and computes the same as far as the contract says. For
    `bounded` and `lossy` passes only the former.
    """
    report = Report(name, contract)
    judge = _Judge(run, contract)
    drawer = _Drawer(rules, contract)
    rng, started = random.Random(seed), time.process_time()
    while report.examples < examples and report.attempts < 20 * examples + 100:
        report.attempts += 1
        tape = Tape((), rng)
        try:
            found = judge.judge(drawer.draw(tape))
        except Reject:
            continue
        report.examples += 1
        if found is not None:
            report.seconds = time.process_time() - started
            found = smaller(found, tape, drawer.draw, judge)
            i = found.instance
            report.status, report.message = "wrong", found.what
            report.counterexample = Counterexample(
                f"pass {name}, {contract}", found.what, i.graph, i.feeds[0], found.after, found.results
            )
            return report
    report.seconds = time.process_time() - started
    if report.examples < max(1, examples // 10):
        report.status, report.message = "cannot instantiate", "hardly any graph could be drawn"
    return report


class _Drawer:
    """Random graphs with motifs."""

    def __init__(self, rules: Sequence[Rule], contract: str) -> None:
        self.rules = [(r, Hints.of(r)) for r in rules]
        self.nasty = contract == "exact"
        self.floats = EXACT_FLOATS if self.nasty else REAL_FLOATS

    def draw(self, tape: Tape) -> Instance:
        grown = Growth(tape, RECIPES, named=False)
        drawings: list[Drawing] = []
        late: list[Value] = []
        for _ in range(1 + tape.below(MOTIFS) if self.rules else 1):
            for _ in range(tape.below(STEPS + 1)):
                grown.step()
            if self.rules:
                rule, hints = self.rules[tape.below(len(self.rules))]
                d = Drawing(tape, hints, self.floats, self.nasty, sample, grown.editor, tuple(grown.values))
                drawings.append(d)
                try:
                    d.apply(rule.left)
                except Reject:
                    continue
                grown.used.update(v for x in d.inner if x.node is not None for v in x.node.inputs if v is not None)
                plain = [v for v in d.inner if isinstance(v.type.elem, (Float, Int, Bool))]  # type: ignore[union-attr]
                grown.values.extend(plain)
                late.extend(v for v in d.inner if v not in plain)
        grown.values.extend(late)  # encodings: no random step takes them
        graph = grown.finish()
        return Instance(graph, (self._feed(graph, drawings, tape),), False)

    def _feed(self, graph: Graph, drawings: Sequence[Drawing], tape: Tape) -> tuple[np.ndarray, ...]:
        how = {v.index: spec for d in drawings for v, spec in d.data.items()}
        if any(s != "N" for v in graph.inputs for s in symbols(v.type.shape)):
            raise Reject("another symbol")
        bound = {s for v in graph.inputs for s in symbols(v.type.shape)}
        if any(symbols(v.type.shape) - bound for n in graph.nodes for v in n.outputs):
            raise Reject("no input tells the symbol's size")
        n = 1 + tape.below(3)
        rng = np.random.default_rng(tape.below(1000))
        arrays = []
        for v in graph.inputs:
            assert isinstance(v.type, Tensor)
            shape = [n if d is UNKNOWN else int(substitute(d, {"N": n})) for d in v.type.shape]  # type: ignore[arg-type]
            mode, seed, domain = how.get(v.index, (0, 0, None))
            drawn = v.index in how
            arrays.append(
                array(shape, v.type.elem, mode, seed, self.nasty, domain, ())
                if drawn
                else data(rng, shape, v.type.elem)
            )
        return tuple(arrays)


class _Judge:
    def __init__(self, run: Run, contract: str) -> None:
        self.run, self.contract = run, contract

    def judge(self, instance: Instance) -> Finding | None:
        before = instance.graph
        try:
            a = evaluate(before, instance.feeds[0])
        except Exception as e:
            raise Reject(str(e)) from None
        try:
            after = self.run(before)
        except IntaglioError as e:
            return Finding("type", e.diagnostics[0].message, instance)
        except Exception as e:
            return Finding("crash", f"{type(e).__name__}: {e}", instance)
        for d in check(after):
            return Finding("type", f"the result does not verify: {d.message}", instance, after)
        for v, w in zip((*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True):
            if not agrees(v.type, w.type):
                return Finding("type", f"{v.type} becomes {w.type}", instance, after)
        try:
            b = evaluate(after, instance.feeds[0])
        except Exception as e:
            return Finding("result", f"the result cannot be computed: {type(e).__name__}: {e}", instance, after)
        if self.contract == "exact":
            verdict = compare_exact(a, b)
        elif self.contract == "real":
            verdict = compare_real(before, after, instance.feeds[0], a, b)
        else:
            return None
        return Finding("result", verdict.what, instance, after, (a, b)) if verdict.what else None
