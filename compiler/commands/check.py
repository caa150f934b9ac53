"""Property-test rules against their contracts: those of a file, or a pass with all of its rules.

Each rule is run on generated graphs that contain its left side. What is wrong is shown on the smallest graph that could
be found. Exit 0 when nothing is wrong, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...ir.rewrite import Rule


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="FILE.rules|PASS", help="a file of rules, or the name of a pass")
    parser.add_argument("--rule", action="append", default=[], metavar="NAME", help="only this rule; may be repeated")
    parser.add_argument("--examples", type=int, default=200, metavar="N", help="examples for each rule (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other examples (default: 0)")


def run(args: argparse.Namespace) -> int:
    from ...ir.diagnostics import error
    from ...ir.rewrite import Ruleset, read_rules
    from ...ir.testing import check_pass, check_rule, table
    from ...passes import find

    if args.examples < 1:
        raise error("IG0002", f"--examples is at least 1, not {args.examples}")
    path = Path(args.what)
    rewrite = None if path.suffix == ".rules" or path.is_file() else find(args.what)
    rules = read_rules(path) if rewrite is None else _rules_of(rewrite.name)
    chosen = [r for r in rules if not args.rule or r.name in args.rule]
    if missing := sorted(set(args.rule) - {r.name for r in rules}):
        known = ", ".join(r.name for r in rules[:8]) or "none"
        raise error("IG0002", f"there is no rule `{missing[0]}` in {args.what}", hint=f"it has: {known}")
    everything = Ruleset(rules, args.what) if len(rules) > 1 else None
    reports = [check_rule(r, args.examples, args.seed, everything=everything) for r in chosen]
    if rewrite is not None and not args.rule:
        reports.append(check_pass(rewrite, rewrite.name, rewrite.contract, rules, args.examples, args.seed))
    print(table(reports))
    wrong = [r for r in reports if not r.ok]
    for r in wrong:
        print(f"\n{r.counterexample or r}")
    sys.stdout.flush()
    if wrong:
        print(f"{len(wrong)} of {len(reports)} do not keep their promise", file=sys.stderr)
    return 1 if wrong else 0


def _rules_of(name: str) -> list[Rule]:
    """The rules of a pass: those its module lists as `RULES`, the files of the rule book it names as `FILES`."""
    import importlib
    import importlib.metadata

    from ... import passes
    from ...ir.rewrite import Rule as Kind
    from ...passes.rulebook import shelf, shelves

    if name in passes.PASSES:
        module = importlib.import_module(passes.PASSES[name], passes.__name__)
    else:
        entries = importlib.metadata.entry_points(group="intaglio.passes")
        module = importlib.import_module(next(e.module for e in entries if e.name == name))
    files = getattr(module, "FILES", (name,) if name in shelves() else ())
    own = [r for r in getattr(module, "RULES", ()) if isinstance(r, Kind)]
    return own + [r for f in files for r in shelf(f)]
