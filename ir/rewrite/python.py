"""Rules whose right side is Python; the left side stays data, so their tests are generated like any other's.

@rule("matmul(x, w: const) where rank(w) == 2", contract=Lossy("rel_l2", 0.01))
def low_rank(m: Match, *, rank: int = 8) -> Value | None:
    \"\"\"A thin product of two factors instead of one.\"\"\"
    ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..diagnostics import Position
from .contracts import Contract
from .language import Rule
from .reader import parse_left

__all__ = ["rule"]


def rule(left: str, *, contract: Contract, name: str = "") -> Callable[[Callable[..., Any]], Rule]:
    """Make a rule of a function from a `Match` to the new value(s), or None to decline.

    Keyword-only parameters are options: `Rule.with_options(rank=4)`.
    """

    def make(fn: Callable[..., Any]) -> Rule:
        called = name or fn.__name__.replace("_", "-")
        pattern, conditions = parse_left(left, f"<pattern of {called}>")
        code = fn.__code__
        where = Position(code.co_filename, code.co_firstlineno, 1)
        options = {p.name: p.default for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY}
        return Rule(called, contract, pattern, conditions, fn, inspect.getdoc(fn) or "", where, options)

    return make
