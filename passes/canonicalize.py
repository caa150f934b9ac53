"""Bringing a graph into the form that other passes and backends look for, by rules (rules/*.rules)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from ..ir.graph import Graph
from ..ir.rewrite import Ruleset, rewrite
from .bounds import book_bounds
from .definition import Context, define_pass
from .fold import Fold, fold
from .options import option
from .rulebook import plugins, ruleset

__all__ = ["FILES", "Canonicalize", "apply_rules", "canonicalize"]

FILES = (
    "algebra",
    "constants",
    "minmax",
    "functions",
    "logic",
    "casts",
    "shapes",
    "slices",
    "reductions",
    "linear",
    "idioms",
)
ROUNDS = 16  # a rewrite may make room for one that was tried before, upstream; each round costs one look at every node


@dataclass(frozen=True)
class Canonicalize:
    only: tuple[Literal["exact", "real", "bounded"], ...] = option(("exact", "real"), "the contracts of rules to use")
    rules: tuple[str, ...] = option((), "the rules to use, * and ? are wild; none named: all")
    without: tuple[str, ...] = option((), "rules to leave out")


@define_pass("canonicalize", contract="real", options=Canonicalize)
def canonicalize(graph: Graph, options: Canonicalize, context: Context) -> Graph:
    """Simplify by algebra, and put together what exporters write out.

    Some 450 rules: neutral elements, constants that meet, clips, casts, shapes that cancel, reductions, batch norms and
    scales that go into the weights before them, GELU, softmax and layer norm. `intaglio check` tests every one of them
    against its contract. Constants are folded first; how often each rule fired is noted in the ledger.

    Before:

        dim N in 1..
        graph @main(%x: f32[N, 3, 8, 8], %w: f32[2, 3, 1, 1]) -> (y: f32[N, 2]) {
          %half = const 0.5 : f32[]
          %six = const 6.0 : f32[]
          %zero = const 0.0 : f32[]
          %0 = nn.conv(%x, %w) : f32[N, 2, 8, 8]
          %1 = math.add(%0, %half) : f32[N, 2, 8, 8]
          %2 = math.minimum(%1, %six) : f32[N, 2, 8, 8]
          %3 = math.maximum(%2, %zero) : f32[N, 2, 8, 8]
          %4 = math.reduce_mean(%3) {axes = [2, 3]} : f32[N, 2, 1, 1]
          %y = shape.reshape(%4) {shape = [N, 2]} : f32[N, 2]
          return %y
        }

    After `canonicalize`:

        dim N in 1..
        graph @main(%x: f32[N, 3, 8, 8], %w: f32[2, 3, 1, 1]) -> (y: f32[N, 2]) {
          %0 = const [0.5, 0.5] : f32[2]
          %1 = nn.conv(%x, %w, %0) : f32[N, 2, 8, 8]
          %2 = math.relu(%1) : f32[N, 2, 8, 8]
          %six = const 6.0 : f32[]
          %3 = math.minimum(%2, %six) : f32[N, 2, 8, 8]
          %y = math.reduce_mean(%3) {axes = [2, 3], keepdims = false} : f32[N, 2]
          return %y
        }

    With `only=[exact]`, rounding stays as it is:

    Before:

        graph @main(%x: f32[2, 3]) -> (y: f32[6]) {
          %0 = math.neg(%x) : f32[2, 3]
          %1 = math.neg(%0) : f32[2, 3]
          %2 = shape.reshape(%1) {shape = [3, 2]} : f32[3, 2]
          %y = shape.reshape(%2) {shape = [6]} : f32[6]
          return %y
        }

    After `canonicalize{only=[exact]}`:

        graph @main(%x: f32[2, 3]) -> (y: f32[6]) {
          %y = shape.reshape(%x) {shape = [6]} : f32[6]
          return %y
        }
    """
    graph = fold.run(graph, Fold(), context)  # rules look for constants, not for what comes to one
    return apply_rules(graph, ruleset(FILES, options.only, options.rules, options.without, plugins()), context)


def apply_rules(graph: Graph, rules: Ruleset, context: Context) -> Graph:
    """`graph` after all rewrites, round by round until nothing fits any more; what fired is noted."""
    fired: Counter[str] = Counter()
    for _ in range(ROUNDS):
        graph, statistics = rewrite(graph, rules)
        book_bounds(graph, statistics, context)
        fired += statistics.fired
        if not statistics.total:
            break
    if fired:
        context.note(", ".join(f"{name} {count}" for name, count in sorted(fired.items())))
    return graph
