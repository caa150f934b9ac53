"""Rewriting by rules: the language (language.py), its compilation (generate.py), and the driver (driver.py)."""

from .contracts import Bounded, Contract, Exact, Lossy, Real
from .driver import Ruleset, Statistics, rewrite
from .language import Rule, parse_rules, read_rules
from .python import rule

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
