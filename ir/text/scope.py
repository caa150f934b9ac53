"""What a text calls the values of a graph."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

from ..graph import Node, Value
from . import syntax
from .fault import Fault
from .lexer import Token

__all__ = ["Scope", "nearest"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_LATEST = 2000  # names among which a similar one is looked for


class Scope:
    """The values of one graph by what the text calls them: `%x`, `%0`, `%"any text"`; `_` is an absent operand."""

    def __init__(self) -> None:
        self.values: dict[str, Value | None] = {"_": None}

    def results(self, tokens: list[Token], node: Node) -> None:
        """Name the results of `node`."""
        if len(node.outputs) != len(tokens):
            message = f"`{node.op.name}` has {len(node.outputs)} results, but {len(tokens)} names are given"
            raise Fault("IG0311", message, tokens[0].pos, len(tokens[0].value))
        for token, value in zip(tokens, node.outputs, strict=True):
            self.define(token, value)

    def define(self, token: Token, value: Value) -> None:
        key, name = _key(token)
        if key in self.values:
            hint = "every value of a graph has its own name"
            raise Fault("IG0307", f"{key} is defined twice", token.pos, len(token.value), hint=hint)
        self.values[key] = value
        value.name = name

    def read(self, token: Token) -> Value | None:
        key, _ = _key(token)
        try:
            return self.values[key]
        except KeyError:
            raise self.undefined(key, token.pos) from None

    def read_all(self, text: str, pos: int) -> tuple[Value | None, ...]:
        """The operands of a CALL, one of which is not defined."""
        found = []
        for key in text[:-1].split(", "):
            if key not in self.values:
                raise self.undefined(key, pos)
            found.append(self.values[key])
            pos += len(key) + 2
        return tuple(found)

    def undefined(self, key: str, pos: int) -> Fault:
        names = [k for k in self.values if k != "_"]
        return Fault("IG0306", f"{key} is not defined before its use", pos, len(key), hint=nearest(key, names))


def _key(token: Token) -> tuple[str, str]:
    """What a scope calls the value of a token, and the value's own name ("" for numbered ones)."""
    text = token.value
    if text[1:2] != '"':
        return text, "" if text[1:2].isdigit() else text[1:]
    name = syntax.unquote(text[1:], token.pos + 1)
    return f"%{name if _IDENTIFIER.fullmatch(name) else json.dumps(name)}", name


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names what may have been meant."""
    close = difflib.get_close_matches(name, list(known)[-_LATEST:], n=3)
    return f"did you mean {', '.join(close)}?" if close else ""
