"""Where keys and values stand in a TOML file. `tomllib` reads the values and forgets the places.

    [array]
    dims = {row = 16}      ("array",) 1:1   ("array", "dims") 2:1   ("array", "dims", "row") 2:9

The text has been read by `tomllib` before, so only what is valid TOML has to be understood here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ...ir.diagnostics import Position

__all__ = ["Path", "Spans", "scan"]

Path = tuple[str | int, ...]

SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
BLANK = re.compile(r"[ \t]*")
KEY = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'|[A-Za-z0-9_-]+")
STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'',
    re.DOTALL,
)
BARE = re.compile(r"[^,\]}\n#]+")


@dataclass
class Spans:
    """Keys and values by path, as (offset, length) in the text."""

    file: str
    text: str
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def position(self, path: Path, value: bool = True) -> Position:
        """The value at that path, or the key; where there is none, the nearest table around it."""
        if value and path in self.values:
            return self._at(*self.values[path])
        if (*path, 0) in self.keys:  # [[list]]: its first table
            return self._at(*self.keys[*path, 0])
        for end in range(len(path), 0, -1):
            if path[:end] in self.keys:
                return self._at(*self.keys[path[:end]])
        return self._at(0, 1)

    def _at(self, offset: int, length: int) -> Position:
        return place(self.file, self.text, offset, length)


def place(file: str, text: str, offset: int, length: int) -> Position:
    """The position of a part of a text; the marked part ends with its line."""
    line = text.count("\n", 0, offset) + 1
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    source = text[start : len(text) if end < 0 else end].rstrip("\r")
    return Position(file, line, offset - start + 1, max(1, min(length, len(source) - (offset - start))), source)


def scan(file: str, text: str) -> Spans:
    """The places of every table, key and value; array elements have their index in the path."""
    spans = Spans(file, text)
    counts: dict[Path, int] = {}
    prefix: Path = ()
    i = _skip(text, 0)
    while i < len(text):
        if text[i] == "[":
            start, many = i, text.startswith("[[", i)
            path, i = _key(text, i + 1 + many)
            prefix = _inside(path, counts)
            if many:
                counts[prefix] = counts.get(prefix, -1) + 1
                prefix = (*prefix, counts[prefix])
            i = text.index("]", i) + 1 + many
            spans.keys[prefix] = (start, i - start)
        else:
            i = _pair(spans, prefix, i)
        i = _skip(text, i)
    return spans


def _inside(path: Path, counts: dict[Path, int]) -> Path:
    """[a.b] after [[a]] is a table of the latest a."""
    out: Path = ()
    for part in path[:-1]:
        out = (*out, part)
        if out in counts:
            out = (*out, counts[out])
    return (*out, path[-1])


def _pair(spans: Spans, prefix: Path, i: int) -> int:
    """`key = value`; returns the offset after it."""
    path, end = _key(spans.text, i)
    for n in range(1, len(path) + 1):
        spans.keys.setdefault(prefix + path[:n], (i, end - i))
    return _value(spans, prefix + path, _skip(spans.text, spans.text.index("=", end) + 1))


def _value(spans: Spans, path: Path, i: int) -> int:
    text, start = spans.text, i
    string = STRING.match(text, i)
    if string:
        i = string.end()
    elif text[i] in "[{":
        closing, n = {"[": "]", "{": "}"}[text[i]], 0
        i = _skip(text, i + 1)
        while text[i] != closing:
            i = _value(spans, (*path, n), i) if closing == "]" else _pair(spans, path, i)
            n += 1
            i = _skip(text, i)
            if text[i] == ",":
                i = _skip(text, i + 1)
        i += 1
    else:
        found = BARE.match(text, i)
        assert found is not None, "tomllib has read this value"
        i += len(found[0].rstrip())
    spans.values[path] = (start, i - start)
    return i


def _key(text: str, i: int) -> tuple[Path, int]:
    """A dotted key and the offset after it."""
    path: Path = ()
    while True:
        found = KEY.match(text, _blank(text, i))
        assert found is not None, "tomllib has read this key"
        part, end = found[0], found.end()
        path = (*path, part[1:-1] if part[0] in "\"'" else part)
        after = _blank(text, end)
        if text[after : after + 1] != ".":
            return path, end
        i = after + 1


def _skip(text: str, i: int) -> int:
    found = SPACE.match(text, i)
    return found.end() if found else i


def _blank(text: str, i: int) -> int:
    found = BLANK.match(text, i)
    return found.end() if found else i
