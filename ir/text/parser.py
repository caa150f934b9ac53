"""Text to syntax: lark, which is imported when the first text is read, and what it says about mistakes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from .fault import Fault
from .lexer import Lexer, Part
from .syntax import Actions

__all__ = ["parse"]


@cache
def _lark() -> Any:
    import lark

    grammar = Path(__file__).with_name("ig.lark").read_text(encoding="utf-8")
    starts = ["file", "graph", "type", "attributes"]
    lexer = type("Lexer", (Lexer, lark.lexer.Lexer), {})  # lark insists on its own base class
    return lark.Lark(grammar, parser="lalr", lexer=lexer, transformer=Actions(), start=starts)


def parse(text: str, start: str) -> Any:
    """The record of `text` (a `Part` is read in fine tokens); raises `Fault`."""
    import lark

    parser = _lark()
    try:
        return parser.parse(text, start=start)
    except lark.UnexpectedToken as e:
        raise _unexpected(e, text, parser) from None


# What a person calls the terminals; the other ones are called by what they look like.
_WORDS = {
    "VALUE": "a value such as %x",
    "SYMBOL": "a symbol such as @main",
    "STRING": "a string",
    "NAME": "a name",
    "INT": "an integer",
    "FLOAT": "a number",
    "UNKNOWN": "`?`",
    "ABSENT": "`_`",
    "BLOCK": "a block such as 4x4",
    "POWER": "a power such as 2^40",
}


def _unexpected(e: Any, text: str, parser: Any) -> Fault:
    base = text.base if isinstance(text, Part) else 0
    token, ended = e.token, e.token.type == "$END"
    pos = base + len(text.rstrip()) if ended else token.pos
    found = "the end of the text" if ended else f"`{_short(token.value)}`"
    looks = {t.name: t.pattern.value for t in parser.terminals if t.pattern.type == "str"}
    fine = [t for t in sorted(e.expected) if t in _WORDS or t in looks or t == "$END"]
    names = [_WORDS.get(t) or ("the end of the text" if t == "$END" else f"`{looks[t]}`") for t in fine]
    wanted = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "something else"
    return Fault("IG0302", f"expected {wanted}, found {found}", pos, 1 if ended else len(token.value))


def _short(text: str) -> str:
    line = text.partition("\n")[0]
    return line if line == text and len(line) <= 40 else f"{line[:40]}..."
