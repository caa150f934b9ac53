"""Greedy rewriting: a deterministic worklist over the nodes, until no rule applies.

Nodes are visited in topological order; after a rewrite, the new nodes and the readers of what changed are visited
again, as far up as a pattern can reach. A chain of rewrites that does not end is cut off, and its rules are named.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..diagnostics import IntaglioError, error
from ..edit import Editor
from ..graph import Graph, Node, Value
from ..op import Op
from ..verify import agrees
from .contracts import Bounded, Contract, weakest
from .generate import generate
from .language import Apply, Rule

__all__ = ["Ruleset", "Statistics", "rewrite"]

GENERATIONS = 64  # rewrites of rewrites of one node before it counts as a loop


class Ruleset:
    """Compiled rules. `source` is the generated Python, for reading and for debuggers."""

    def __init__(self, rules: Sequence[Rule], name: str = "rules") -> None:
        self.rules, self.name = tuple(rules), name
        self.matchers, self.source = generate(self.rules, name)
        self.reach = max((_depth(r.left) for r in rules), default=1)
        self.links = frozenset(link for r in rules for link in _links(r.left))

    def at_fault(self, fault: BaseException) -> str:
        """The name of the rule whose compiled code raised `fault`."""
        at = fault.__traceback__
        line = 0
        while at is not None:
            if at.tb_frame.f_code.co_filename == f"<rules {self.name}>":
                line = at.tb_lineno
            at = at.tb_next
        heads = [text for text in self.source.splitlines()[:line] if "while True:  # " in text]
        return heads[-1].split("# ")[1].split(" ")[0] if heads else "?"

    @property
    def contract(self) -> Contract:
        """The weakest promise among the rules."""
        return weakest([r.contract for r in self.rules])


def _links(p: Any) -> Iterator[tuple[Op, Op]]:
    """(op, op of an operand) wherever both stand in a pattern: a change can matter to a match along these only."""
    for a in p.args:
        if isinstance(a, Apply):
            yield p.op, a.op
            yield from _links(a)


def _depth(p: Any) -> int:
    return 1 + max((_depth(a) for a in p.args if isinstance(a, Apply)), default=0)


@dataclass
class Statistics:
    """How often each rule fired."""

    fired: Counter[str] = field(default_factory=Counter)
    bounded: list[tuple[Bounded, tuple[Value, ...]]] = field(default_factory=list)  # what each bounded rewrite put in
    nodes_before: int = 0
    nodes_after: int = 0

    @property
    def total(self) -> int:
        return sum(self.fired.values())


Only = Callable[[Node], bool]


def rewrite(
    graph: Graph, rules: Ruleset, *, limit: int | None = None, only: Only | None = None
) -> tuple[Graph, Statistics]:
    """The graph after all rewrites (at most `limit`, and of nodes for which `only` holds), and what fired.

    Raises IG0401 when a rule builds something ill-typed or changes a type, IG0402 for rules that do not come to an end.
    """
    statistics = Statistics(nodes_before=len(graph.nodes))
    collecting = gc.isenabled()
    gc.disable()  # editing allocates much and frees little: collecting in between costs more than the work
    try:
        editor = Editor(graph)
        _run(editor, rules, statistics, limit, only)
        result = editor.freeze()
    finally:
        if collecting:
            gc.freeze()  # what was made is here to stay: the collector
            gc.unfreeze()  # shall not walk it once for each of its young generations
            gc.enable()
    if not statistics.total:
        result = graph
    statistics.nodes_after = len(result.nodes)
    return result, statistics


def _run(e: Editor, rules: Ruleset, statistics: Statistics, limit: int | None, only: Only | None) -> None:
    find, all_rules, fired, nodes = rules.matchers.get, rules.rules, statistics.fired, e.nodes
    given = iter(tuple(nodes))
    again: list[Node] = []  # nodes to look at before going on, the first ones last
    waiting: set[Node] = set()  # the same
    born: dict[Node, tuple[int, str, Any]] = {}  # new node -> generation, rule, the chain before
    while True:
        if again:
            n = again.pop()
            waiting.discard(n)
        else:
            following = next(given, None)
            if following is None:
                return
            n = following
            n.ahead = False
        matcher = find(n.op)
        if matcher is None or n.uses is None or (only is not None and not only(n)):
            continue
        mark = len(nodes)
        try:
            found = matcher(n, e)
        except IntaglioError as fault:
            raise _ill_typed(rules.at_fault(fault), n, fault) from None
        if found is None:
            if len(nodes) > mark:  # a right side that declined after building
                for extra in reversed(nodes[mark:]):
                    e.erase(extra)
                del nodes[mark:]
            continue
        number, values = found
        rule = all_rules[number]
        _check(rule, n, values)
        fired[rule.name] += 1
        before = born.pop(n, None)
        generation = before[0] + 1 if before is not None else 1
        if generation > GENERATIONS:
            raise _loop(rule.name, before)
        readers = [u for u in n.uses if u is not e and not u.ahead]
        e.replace(n, values)
        if isinstance(rule.contract, Bounded):
            statistics.bounded.append((rule.contract, tuple(values)))
        fresh = [m for m in nodes[mark:] if m.uses is not None]
        for m in fresh:
            born[m] = (generation, rule.name, before)
        if readers:
            readers = _affected(readers, rules)
        for u in [*reversed(readers), *reversed(fresh)]:
            if u not in waiting and find(u.op) is not None:
                waiting.add(u)
                again.append(u)
        if limit is not None and statistics.total >= limit:
            return


def _check(rule: Rule, n: Node, values: Sequence[Value]) -> None:
    """Whether a replacement is one: other values, of the same types."""
    for v, o in zip(values, n.outputs, strict=True):
        if v is o:
            raise error("IG0402", f"rule `{rule.name}` replaces a node by itself")
        if v.type is not o.type and not agrees(v.type, o.type):
            what = f"rule `{rule.name}` replaces {o.type} by {v.type}"
            raise error("IG0401", what, notes=[f"from: {n.loc}"] if n.loc else [], hint="a rewrite keeps types")


def _affected(readers: list[Any], rules: Ruleset) -> list[Any]:
    """`readers` of what changed, and the readers above them that may match now, as far up as a pattern reaches."""
    links, seen, level = rules.links, set(readers), readers
    for _ in range(rules.reach - 1):
        above = [(u, m.op) for m in level for u in m.uses or () if u not in seen]
        level = [u for u, op in above if isinstance(u, Node) and not u.ahead and (u.op, op) in links]
        if not level:
            break
        seen.update(level)
        readers = readers + level
    return readers


def _ill_typed(rule: str, n: Node, fault: IntaglioError) -> IntaglioError:
    d = fault.diagnostics[0]
    notes = [*d.notes, *([f"from: {n.loc}"] if n.loc else [])]
    return error("IG0401", f"rule `{rule}` builds something ill-typed: {d.message}", label=d.label, notes=notes)


def _loop(rule: str, chain: Any) -> IntaglioError:
    names = [rule]
    while chain is not None and len(names) < 12:
        names.append(chain[1])
        chain = chain[2]
    cycle = " <- ".join(names[:6])
    involved = ", ".join(sorted(set(names)))
    return error(
        "IG0402", f"rewriting does not come to an end; the last rules were {cycle}", hint=f"look at: {involved}"
    )
