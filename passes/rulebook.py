"""The rules beside the passes: `.rules` files in rules/, read once, compiled once for each selection."""

from __future__ import annotations

import difflib
import functools
from fnmatch import fnmatchcase
from pathlib import Path

from ..ir.diagnostics import error
from ..ir.rewrite import Rule, Ruleset, read_rules

__all__ = ["FOLDER", "kind", "named", "ruleset", "shelves"]

FOLDER = Path(__file__).with_name("rules")


@functools.cache
def shelf(name: str) -> tuple[Rule, ...]:
    """The rules of one file."""
    return tuple(read_rules(FOLDER / f"{name}.rules"))


def shelves() -> list[str]:
    """The names of the files."""
    return sorted(p.stem for p in FOLDER.glob("*.rules"))


def kind(rule: Rule) -> str:
    """The first word of a rule's contract."""
    return type(rule.contract).__name__.lower()


def named(rules: tuple[Rule, ...], wanted: str) -> list[Rule]:
    """The rules whose name fits `wanted`, which may have * and ? in it; IG0414 if there are none."""
    found = [r for r in rules if fnmatchcase(r.name, wanted)]
    if not found:
        close = difflib.get_close_matches(wanted, [r.name for r in rules], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else ""
        raise error("IG0414", f"there is no rule `{wanted}`", hint=hint)
    return found


@functools.cache
def ruleset(
    files: tuple[str, ...], only: tuple[str, ...], rules: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> Ruleset:
    """The rules of `files` with the contracts `only`, restricted to `rules` if any are named, `without` some."""
    all_rules = tuple(r for f in files for r in shelf(f))
    chosen = {r.name for w in rules for r in named(all_rules, w)} if rules else {r.name for r in all_rules}
    chosen -= {r.name for w in without for r in named(all_rules, w)}
    kept = [r for r in all_rules if r.name in chosen and kind(r) in only]
    return Ruleset(kept, "+".join(files))
