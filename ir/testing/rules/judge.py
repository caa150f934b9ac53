"""One example: everything that a rule promises, on one graph.

The rule fires, comes to an end (alone and with others), what it builds verifies and keeps types, the results agree as
its contract says, the cost does not rise, and the order in which nodes are listed does not matter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ...diagnostics import IntaglioError
from ...dims import UNKNOWN
from ...graph import Graph, Node
from ...interpret import evaluate
from ...rewrite import Exact, Real, Rule, Ruleset, rewrite
from ...target import node_cost
from ...verify import agrees, check
from .compare import Comparison, compare_exact, compare_real
from .contracts import compare_bounded
from .instance import Instance
from .tape import Reject

__all__ = ["Finding", "Judge", "another_order", "flops", "may_cost_more"]

Array = npt.NDArray[Any]
Feeds = Sequence[Array]


@dataclass(frozen=True)
class Finding:
    """What is wrong, and the example that shows it."""

    kind: str  # result, type, end, cost, order, crash
    what: str
    instance: Instance
    after: Graph | None = None
    results: tuple[Sequence[Array], Sequence[Array]] | None = None


def may_cost_more(rule: Rule) -> bool:
    """Rules claim not to raise the cost, unless their documentation says "costs more" and why."""
    return "costs more" in rule.doc.lower()


def flops(graph: Graph) -> int:
    return sum(node_cost(n, {"N": 2}).flops for n in graph.nodes)


def another_order(graph: Graph, rng: random.Random) -> Graph:
    """The same graph with its nodes in some other topological order."""
    left = list(graph.nodes)
    order: list[Node] = []
    done: set[Node] = set()
    while left:
        ready = [n for n in left if all(v is None or v.node is None or v.node in done for v in n.inputs)]
        n = ready[int(rng.random() * len(ready))]
        left.remove(n)
        order.append(n)
        done.add(n)
    return Graph(graph.name, graph.inputs, tuple(order), graph.outputs, graph.output_names)


def _left(graph: Graph, feeds: Feeds) -> tuple[Array, ...]:
    """What the left side computes; Reject when it cannot be computed."""
    try:
        return evaluate(graph, feeds)
    except Exception as e:
        raise Reject(_words(e)) from None


def _words(e: Exception) -> str:
    return e.diagnostics[0].message if isinstance(e, IntaglioError) else f"{type(e).__name__}: {e}"


class Judge:
    """The examiner of one rule; `everything` are the rules it will run together with."""

    def __init__(self, rule: Rule, everything: Ruleset | None = None) -> None:
        self.rule, self.everything = rule, everything
        self.alone = Ruleset([rule], rule.name)
        self.costs = not may_cost_more(rule)
        self.fired = False
        self.compared = 0  # numbers that were looked at

    def judge(self, instance: Instance, thorough: bool = True) -> Finding | None:
        """What is wrong on an instance. `fired` tells whether the rule applied at all."""
        self.fired = True  # an error comes from a rule that fired
        try:
            after, statistics = rewrite(instance.graph, self.alone)
        except IntaglioError as e:
            kind = "end" if e.diagnostics[0].code == "IG0402" else "type"
            return self._of_sound(Finding(kind, e.diagnostics[0].message, instance))
        except Exception as e:
            return self._of_sound(Finding("crash", f"{type(e).__name__}: {e}", instance))
        self.fired = statistics.total > 0
        if not self.fired:
            return None
        found = self._types(instance, after)
        if found is not None:
            return self._of_sound(found)
        found = self._results(instance, after)
        if found is None and self.costs:
            found = self._cost(instance, after)
        if found is None and thorough:
            found = self._order(instance, after) or self._together(instance)
        return found

    def _of_sound(self, found: Finding) -> Finding:
        """The finding, unless the left side itself cannot be computed: indices out of range and the like."""
        for feeds in found.instance.feeds:
            _left(found.instance.graph, feeds)
        return found

    def _types(self, instance: Instance, after: Graph) -> Finding | None:
        for d in check(after):
            return Finding("type", f"the result does not verify: {d.message}", instance, after)
        for v, w in zip(instance.graph.outputs, after.outputs, strict=True):
            if not agrees(v.type, w.type):
                return Finding("type", f"{v.type} becomes {w.type}", instance, after)
        return None

    def _results(self, instance: Instance, after: Graph) -> Finding | None:
        for feeds in instance.feeds:
            a = _left(instance.graph, feeds)
            one = Instance(instance.graph, (feeds,), instance.plain)
            try:
                b = evaluate(after, feeds)
            except Exception as e:
                return Finding("result", f"the result cannot be computed: {_words(e)}", one, after)
            verdict = self.compare(instance.graph, after, feeds, a, b)
            self.compared += verdict.compared
            if verdict.what:
                return Finding("result", verdict.what, one, after, (a, b))
        return None

    def compare(self, before: Graph, after: Graph, feeds: Feeds, a: Sequence[Array], b: Sequence[Array]) -> Comparison:
        """Do results agree as the contract says?"""
        contract = self.rule.contract
        if isinstance(contract, Exact):
            return compare_exact(a, b)
        if isinstance(contract, Real):
            return compare_real(before, after, feeds, a, b)
        return compare_bounded(contract, a, b)

    def _cost(self, instance: Instance, after: Graph) -> Finding | None:
        if any(d is UNKNOWN for n in instance.graph.nodes for v in n.outputs for d in v.type.shape):
            return None  # there is no telling
        have, had = flops(after), flops(instance.graph)
        if have <= had:
            return None
        what = f"{had} operations become {have}"
        if not instance.plain:
            what += "; an inner node is used elsewhere too: `one_use` is missing"
        return Finding("cost", what, instance, after)

    def _order(self, instance: Instance, after: Graph) -> Finding | None:
        other = another_order(instance.graph, random.Random(len(instance.graph.nodes)))
        if other.nodes == instance.graph.nodes:
            return None
        try:
            again, _ = rewrite(other, self.alone)
        except IntaglioError as e:
            return Finding("order", f"in another order of nodes: {e.diagnostics[0].message}", instance, after)
        if again.digest == after.digest:
            return None
        for feeds in instance.feeds:
            a, b = evaluate(after, feeds), evaluate(again, feeds)
            verdict = self.compare(after, again, feeds, a, b)
            if verdict.what:
                return Finding("order", f"in another order of nodes {verdict.what}", instance, again, (a, b))
        return None

    def _together(self, instance: Instance) -> Finding | None:
        """With all other rules: it comes to an end, and types stay."""
        if self.everything is None:
            return None
        try:
            after, _ = rewrite(instance.graph, self.everything)
        except IntaglioError as e:
            return Finding("end", f"together with the other rules: {e.diagnostics[0].message}", instance)
        found = self._types(instance, after)
        return found and Finding(found.kind, f"together with the other rules: {found.what}", instance, after)
