"""Rewriting by rules: the language (language.py, reader.py), its compilation (generate.py), the driver (driver.py)."""

from .contracts import Bounded, Contract, Exact, Lossy, Real
from .driver import Ruleset, Statistics, rewrite
from .language import Rule
from .python import rule
from .reader import parse_rules, read_rules

__all__ = [
    "Bounded",
    "Contract",
    "Exact",
    "Lossy",
    "Real",
    "Rule",
    "Ruleset",
    "Statistics",
    "parse_rules",
    "read_rules",
    "rewrite",
    "rule",
]
