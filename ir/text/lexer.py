"""Text to tokens: one regular expression, made of the terminals that `ig.lark` defines.

A program is read in coarse tokens. A `Part` of it, the text of a coarse token, is read again in fine ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

from .fault import Fault

__all__ = ["ABBREVIATION", "DEPTH", "Lexer", "Part", "Token"]

ABBREVIATION = 9  # the priority of terminals that stand for several finer ones
DEPTH = 64  # brackets inside brackets; what reads them is recursive

_OPENING, _CLOSING = frozenset("([{<"), frozenset(")]}>")


class Token:
    """A piece of the text. Small and plain, because there are six for every node."""

    __slots__ = ("pos", "type", "value")
    # lark copies these to the token that ends the input
    start_pos: ClassVar[int] = 0
    end_pos: ClassVar[int] = 0
    line: ClassVar[int] = 0
    column: ClassVar[int] = 0
    end_line: ClassVar[int] = 0
    end_column: ClassVar[int] = 0

    def __init__(self, type: str, value: str, pos: int) -> None:
        self.type, self.value, self.pos = type, value, pos

    def __repr__(self) -> str:
        return f"{self.type}({self.value!r} at {self.pos})"


class Part(str):
    """The text of a coarse token, that begins at `base` of the program and is read in fine tokens."""

    base: int

    @classmethod
    def of(cls, text: str, base: int) -> Part:
        made = cls(text)
        made.base = base
        return made


class Lexer:
    """What lark calls for tokens; `conf` holds the grammar's terminals."""

    def __init__(self, conf: Any) -> None:
        patterns, words, self._signs = [], [], {}
        ignored = []
        for terminal in sorted(conf.terminals, key=lambda t: (-t.priority, t.name)):
            pattern = terminal.pattern
            if terminal.name in conf.ignore:
                ignored.append(pattern.value)
            elif pattern.type == "re":
                patterns.append((terminal.name, pattern.value, terminal.priority))
            elif re.fullmatch(r"\w+", pattern.value):
                words.append((terminal.name, pattern.value))
            else:
                self._signs[pattern.value] = terminal.name
        self._words = {text: name for name, text in words}
        signs = "|".join(re.escape(s) for s in sorted(self._signs, key=len, reverse=True))
        keywords = "|".join(text for _, text in words)
        rest = [
            ("WORD", rf"(?:{keywords})(?![A-Za-z0-9_.])(?!\s*=)", 1),
            *((name, value, p) for name, value, p in patterns if p < ABBREVIATION),
            ("SIGN", signs, 1),
        ]
        coarse = [(name, value, p) for name, value, p in patterns if p >= ABBREVIATION]
        skip = f"(?:{'|'.join(ignored)})*+"
        self._coarse, self._fine = (
            re.compile(
                skip + "(?:" + "|".join(f"(?P<{n}>{v})" for n, v, _ in chosen) + r"|(?P<END>\Z)|(?P<BAD>.))", re.S
            )
            for chosen in (coarse + rest, rest)
        )

    def lex(self, text: str) -> Iterator[Token]:
        """The tokens of `text`; lark's interface."""
        base = text.base if isinstance(text, Part) else 0
        regex = self._fine if isinstance(text, Part) else self._coarse
        words, signs, depth = self._words, self._signs, 0
        for m in regex.finditer(text):
            kind = m.lastgroup
            value = m[kind]  # type: ignore[index]
            pos = m.end() - len(value) + base
            if kind == "SIGN":
                kind = signs[value]
                if value in _OPENING:
                    depth += 1
                    if depth > DEPTH:
                        raise Fault("IG0305", f"more than {DEPTH} brackets inside each other", pos)
                elif value in _CLOSING:
                    depth -= 1
            elif kind == "WORD":
                kind = words[value]
            elif kind == "END":
                return
            elif kind == "BAD":
                raise _bad(value, pos)
            yield Token(kind, value, pos)  # type: ignore[arg-type]


def _bad(character: str, pos: int) -> Fault:
    if character == '"':
        hint = "a string ends on its line; quotes, backslashes and control characters inside are escaped as in JSON"
        return Fault("IG0301", "this string does not end", pos, hint=hint)
    if character in "%@":
        what = "value" if character == "%" else "symbol"
        hint = f'write {character}name or {character}"any text"'
        return Fault("IG0301", f"a {what} has no name", pos, hint=hint)
    return Fault("IG0301", f"nothing begins with {character!r}", pos)
