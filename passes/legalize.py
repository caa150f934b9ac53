"""Making a graph legal for a target: by rules where the target lacks an op, by saying so where it has no other way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ..ir.diagnostics import Diagnostic, IntaglioError
from ..ir.graph import Graph, Node
from ..ir.rewrite import rewrite
from .bounds import book_bounds
from .definition import Context, define_pass
from .options import option
from .rulebook import ruleset

__all__ = ["RULES", "Legalize", "legalize", "refused"]

# The files of rules by which a target's illegal nodes are rewritten; those without an entry use FILES.
RULES: dict[str, tuple[str, ...]] = {}
FILES = ("decompose",)
ROUNDS = 8  # what a rule writes may be illegal itself
LIMIT = 20  # findings reported at once


@dataclass(frozen=True)
class Legalize:
    without: tuple[str, ...] = option((), "ops to do without, beside those that the target refuses")
    strict: bool = option(True, "fail when something illegal is left; else only note it")


@define_pass("legalize", contract="bounded", options=Legalize)
def legalize(graph: Graph, options: Legalize, context: Context) -> Graph:
    """Rewrite what the target does not run, and report what is left.

    A node that `Target.legal` refuses is rewritten by the target's rules (rules/decompose.rules unless it has its own);
    whatever else the node's op is used for stays as it is. What no rule can help is an error, one finding for each node
    with its place in the imported model.

    Before:

        graph @main(%x: f32[2, 3]) -> (y: f32[2, 3]) {
          %y = nn.gelu(%x) : f32[2, 3]
          return %y
        }

    After `legalize{without=[nn.gelu]}`:

        graph @main(%x: f32[2, 3]) -> (y: f32[2, 3]) {
          %0 = const 0.5 : f32[]
          %1 = math.mul(%x, %0) : f32[2, 3]
          %2 = const 0.70710677 : f32[]
          %3 = math.mul(%x, %2) : f32[2, 3]
          %4 = math.erf(%3) : f32[2, 3]
          %5 = const 1.0 : f32[]
          %6 = math.add(%4, %5) : f32[2, 3]
          %y = math.mul(%1, %6) : f32[2, 3]
          return %y
        }
    """
    target = context.target

    def reason(node: Node) -> str:
        if node.op.name in options.without:
            return "the pipeline asks to do without it"
        return target.legal(node) if target is not None else ""

    rules = ruleset(RULES.get(target.name, FILES) if target is not None else FILES, ("exact", "real", "bounded"))
    fired: Counter[str] = Counter()
    for _ in range(ROUNDS):
        if not any(map(reason, graph.nodes)):
            break
        graph, statistics = rewrite(graph, rules, only=lambda node: bool(reason(node)))
        book_bounds(graph, statistics, context)
        fired += statistics.fired
        if not statistics.total:
            break
    if fired:
        context.note(", ".join(f"{name} {count}" for name, count in sorted(fired.items())))
    left = refused(graph, reason)
    if left and options.strict:
        raise IntaglioError.of(left[:LIMIT])
    for d in left:
        context.note(d.message)
    return graph


def refused(graph: Graph, reason: Callable[[Node], str]) -> list[Diagnostic]:
    """A finding (IG0420) for every node for which there is a reason."""
    found = []
    for node in graph.nodes:
        why = reason(node)
        if why:
            notes = (f"from: {node.loc}",) if node.loc is not None else ()
            label = ", ".join(str(v.type) for v in node.outputs)
            what = f"the target does not run `{node.op.name}`: {why}"
            found.append(Diagnostic("IG0420", what, label=label, notes=notes))
    return found
