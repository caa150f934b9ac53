"""The rules beside the passes: `.rules` files in rules/, read once, compiled once for each selection.

Third parties add files to those of `canonicalize` through the entry-point group `intaglio.rules`: each entry is the
path of a `.rules` file.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
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


@functools.cache
def plugins() -> tuple[Rule, ...]:
    """The rules that installed packages add."""
    return tuple(
        rule for e in importlib.metadata.entry_points(group="intaglio.rules") for rule in read_rules(Path(e.load()))
    )


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
    files: tuple[str, ...],
    only: tuple[str, ...],
    rules: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    added: tuple[Rule, ...] = (),
) -> Ruleset:
    """The rules of `files` and `added` with the contracts `only`, restricted to `rules` if any, `without` some."""
    all_rules = (*(r for f in files for r in shelf(f)), *added)
    chosen = {r.name for w in rules for r in named(all_rules, w)} if rules else {r.name for r in all_rules}
    chosen -= {r.name for w in without for r in named(all_rules, w)}
    kept = [r for r in all_rules if r.name in chosen and kind(r) in only]
    return Ruleset(kept, "+".join(files))
