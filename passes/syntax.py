"""Pipelines as text: `freeze{N=1},fold,fuse{max=8}`, read into steps with exact complaints.

    pipeline = [step {"," step}]
    step     = name ["{" [option {"," option}] "}"]
    option   = name ["=" value]

A value runs to the next comma or brace, except inside `[...]` and `"..."`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..ir.diagnostics import error
from . import find
from .definition import Pass
from .options import Given, Source, fill, render

__all__ = ["Step", "parse_options", "parse_pipeline"]

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Step:
    """A pass and its options."""

    rewrite: Pass
    options: Any

    def __str__(self) -> str:
        text = render(self.options)
        return f"{self.rewrite.name}{{{text}}}" if text else self.rewrite.name


def parse_pipeline(text: str, name: str = "pipeline") -> tuple[Step, ...]:
    """The steps; IG0403, IG0404 or IG0406 with the position in `text` when it is no pipeline."""
    scan = _Scanner(Source(name, text))
    steps: list[Step] = []
    if scan.end():
        return ()
    while True:
        start, word = scan.name(_NAME, "a pass")
        rewrite = find(word, scan.source.at(start, len(word)))
        given: list[Given] = []
        if scan.take("{"):
            given = scan.options("}")
        options = fill(rewrite.options, given, owner=f"pass `{word}`", source=scan.source)
        steps.append(Step(rewrite, options))
        if scan.end():
            return tuple(steps)
        scan.expect(",", "`,` and another pass")


def parse_options(source: Source, offset: int, code: str = "IG0404") -> list[Given]:
    """`option=value,option=value` from `offset` to the end of the text: what follows the colon of a target."""
    scan = _Scanner(source, code)
    scan.at = offset
    return scan.options("")


class _Scanner:
    """A cursor over the text."""

    def __init__(self, source: Source, code: str = "IG0404") -> None:
        self.source, self.text, self.at, self.code = source, source.text, 0, code

    def space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def end(self) -> bool:
        self.space()
        return self.at >= len(self.text)

    def take(self, mark: str) -> bool:
        self.space()
        if mark and self.text.startswith(mark, self.at):
            self.at += len(mark)
            return True
        return False

    def expect(self, mark: str, what: str) -> None:
        if not self.take(mark):
            self.fail(what)

    def fail(self, wanted: str) -> None:
        self.space()
        found = "the end" if self.at >= len(self.text) else f"`{self.text[self.at]}`"
        raise error(self.code, f"expected {wanted}, found {found}", position=self.source.at(self.at))

    def name(self, pattern: re.Pattern[str], what: str) -> tuple[int, str]:
        self.space()
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(f"the name of {what}")
            raise AssertionError
        self.at = found.end()
        return found.start(), found[0]

    def options(self, close: str) -> list[Given]:
        """Options up to `close` (which is taken), or to the end of the text when it is empty."""
        given: list[Given] = []
        if self.take(close) or (not close and self.end()):
            return given
        while True:
            start, word = self.name(_OPTION, "an option")
            value, place = None, self.at
            if self.take("="):
                place, value = self.value(close)
            given.append(Given(word, value, start, place))
            if self.take(close) or (not close and self.end()):
                return given
            self.expect(",", f"`,` or `{close}`" if close else "`,`")

    def value(self, close: str) -> tuple[int, str]:
        """A value and where it starts."""
        self.space()
        start, depth = self.at, 0
        while self.at < len(self.text):
            c = self.text[self.at]
            if c == '"':
                self._string()
                continue
            if depth == 0 and (c == "," or c == "{" or c == (close or None)):
                break
            depth += (c == "[") - (c == "]")
            if depth < 0:
                break
            self.at += 1
        if depth > 0:
            raise error(self.code, "this `[` is not closed", position=self.source.at(self.text.index("[", start)))
        text = self.text[start : self.at].rstrip()
        if not text:
            self.fail("a value")
        return start, text

    def _string(self) -> None:
        found = re.compile(r'"(?:[^"\\\n]|\\.)*"').match(self.text, self.at)
        place = self.source.at(self.at)
        if found is None:
            raise error(self.code, "this string is not closed", position=place)
        try:
            json.loads(found[0])
        except ValueError:
            raise error(self.code, "this string has an escape that JSON does not know", position=place) from None
        self.at = found.end()
