"""Options: a frozen dataclass on the Python side, `max=8, exact` in a pipeline or a target.

A field's annotation is its kind (int, float, bool, str, `Literal`, `X | None`, `tuple[int, ...]`); `option(default,
doc)` gives it a default and a line of documentation. One field may be declared with `rest=True` and gathers the
options whose names are free, such as the symbols of `freeze{N=8}`; its kind is `tuple[tuple[str, X], ...]`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.diagnostics import IntaglioError, Position, error

__all__ = ["REQUIRED", "Given", "NoOptions", "Source", "describe", "fill", "keywords", "option", "render"]

REQUIRED = dataclasses.MISSING


@dataclass(frozen=True)
class NoOptions:
    """For passes and targets that have none."""


def option(default: Any = REQUIRED, doc: str = "", *, rest: bool = False) -> Any:
    """A dataclass field with a line of documentation."""
    return dataclasses.field(default=default, metadata={"doc": doc, "rest": rest})


@dataclass(frozen=True, slots=True)
class Source:
    """The text that options were written in, so that complaints can point into it."""

    name: str
    text: str

    def at(self, offset: int, length: int = 1) -> Position:
        before = self.text[:offset]
        line = before.count("\n")
        start = before.rfind("\n") + 1
        lines = self.text.split("\n")
        return Position(self.name, line + 1, offset - start + 1, max(1, length), lines[line])


@dataclass(frozen=True, slots=True)
class Given:
    """One option as written: `name=text`, or `name` alone. Offsets count from 0 in the source."""

    name: str
    text: str | None
    offset: int = 0
    value_offset: int = 0


def fill(options: type, given: Sequence[Given], *, owner: str, source: Source, code: str = "IG0406") -> Any:
    """An instance of `options` from what was written; `code` is that of complaints."""
    fields = {f.name: f for f in dataclasses.fields(options)}
    kinds = typing.get_type_hints(options)
    rest = next((f.name for f in fields.values() if f.metadata.get("rest")), None)
    values: dict[str, Any] = {}
    gathered: dict[str, Any] = {}
    for one in given:
        place = source.at(one.offset, len(one.name))
        if one.name in values or one.name in gathered:
            raise error(code, f"option `{one.name}` of {owner} is given twice", position=place)
        if one.name in fields and one.name != rest:
            kind, into = kinds[one.name], values
        elif rest is not None:
            kind, into = typing.get_args(typing.get_args(kinds[rest])[0])[1], gathered
        else:
            raise error(code, f"{owner} has no option `{one.name}`", position=place, hint=_known(one.name, fields))
        try:
            into[one.name] = _convert(kind, one.text)
        except ValueError:
            text = "nothing" if one.text is None else f"`{one.text}`"
            where = place if one.text is None else source.at(one.value_offset, len(one.text))
            what = f"option `{one.name}` of {owner} is {kind_words(kind)}, not {text}"
            raise error(code, what, position=where) from None
    if rest is not None and gathered:
        values[rest] = tuple(gathered.items())
    return build(options, values, owner=owner, source=source, code=code)


def keywords(options: type, values: Mapping[str, Any], *, owner: str, code: str = "IG0406") -> Any:
    """An instance of `options` from Python values."""
    fields = {f.name: f for f in dataclasses.fields(options)}
    kinds = typing.get_type_hints(options)
    rest = next((f.name for f in fields.values() if f.metadata.get("rest")), None)
    known: dict[str, Any] = {}
    gathered: dict[str, Any] = {}
    for name, value in values.items():
        if name in fields:
            kind, into = kinds[name], known
        elif rest is not None:
            kind, into = typing.get_args(typing.get_args(kinds[rest])[0])[1], gathered
        else:
            raise error(code, f"{owner} has no option `{name}`", hint=_known(name, fields))
        if not _fits(kind, value):
            raise error(code, f"option `{name}` of {owner} is {kind_words(kind)}, not {value!r}")
        into[name] = tuple(value) if isinstance(value, list) else float(value) if kind is float else value
    if rest is not None and gathered:
        known[rest] = tuple(gathered.items())
    return build(options, known, owner=owner, source=None, code=code)


def build(options: type, values: Mapping[str, Any], *, owner: str, source: Source | None, code: str) -> Any:
    """Construct the dataclass; a `ValueError` of its `__post_init__` is the user's mistake."""
    place = source.at(0, len(source.text)) if source is not None and source.text else None
    missing = [f.name for f in dataclasses.fields(options) if f.name not in values and _default(f) is REQUIRED]
    if missing:
        raise error(code, f"{owner} needs option `{missing[0]}`", position=place)
    try:
        return options(**values)
    except IntaglioError:
        raise
    except ValueError as e:
        raise error(code, f"{owner}: {e}", position=place) from None


def describe(options: type) -> list[tuple[str, str, str, str]]:
    """Name, kind, default and documentation of each option, in words."""
    kinds = typing.get_type_hints(options)
    rows = []
    for f in dataclasses.fields(options):
        kind = kinds[f.name]
        doc = str(f.metadata.get("doc", ""))
        if f.metadata.get("rest"):
            inner = typing.get_args(typing.get_args(kind)[0])[1]
            rows.append(("NAME", kind_words(inner), "", doc))
        else:
            default = _default(f)
            rows.append((f.name, kind_words(kind), "" if default is REQUIRED else _text(default), doc))
    return rows


def render(options: Any) -> str:
    """The options that differ from their defaults, as they are written: `max=8, exact`."""
    parts = []
    for f in dataclasses.fields(options):
        value = getattr(options, f.name)
        if f.metadata.get("rest"):
            parts += [f"{k}={_text(v)}" for k, v in value]
        elif value != _default(f):
            parts.append(f"{f.name}={_text(value)}")
    return ",".join(parts)


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _known(name: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, fields, n=2)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"it has: {', '.join(fields)}" if fields else "it has no options"


# --- kinds ----------------------------------------------------------------------------------------------------------


def _alternatives(kind: Any) -> list[Any]:
    """The members of `X | None`, None left out."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [a for a in typing.get_args(kind) if a is not type(None)]
    return [kind]


def _optional(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType) and type(None) in typing.get_args(kind)


def kind_words(kind: Any) -> str:
    """`int` is "an integer"."""
    words = " or ".join(_one_kind(a) for a in _alternatives(kind))
    return f"{words} or none" if _optional(kind) else words


def _one_kind(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return f"a list [a, b, ...] where each is {_one_kind(inner)}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def _convert(kind: Any, text: str | None) -> Any:
    """The value that `text` writes; ValueError when it is none of that kind."""
    if _optional(kind) and text == "none":
        return None
    for one in _alternatives(kind):
        try:
            return _convert_one(one, text)
        except ValueError:
            continue
    raise ValueError(text)


def _convert_one(kind: Any, text: str | None) -> Any:
    if kind is bool:
        if text in (None, "true", "false"):
            return text != "false"
        raise ValueError(text)
    if text is None:
        raise ValueError(text)
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        for value in typing.get_args(kind):
            if str(value) == text:
                return value
        raise ValueError(text)
    if origin is tuple:
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError(text)
        inner = typing.get_args(kind)[0]
        body = text[1:-1].strip()
        return tuple(_convert_one(inner, part.strip()) for part in body.split(",")) if body else ()
    if kind is int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise ValueError(text)
        return int(text)
    if kind is float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf", text):
            raise ValueError(text)
        return float(text)
    if kind is str:
        return json.loads(text) if text.startswith('"') else text
    raise TypeError(f"options of kind {kind} cannot be written as text")


def _fits(kind: Any, value: Any) -> bool:
    if value is None:
        return _optional(kind)
    return any(_fits_one(a, value) for a in _alternatives(kind))


def _fits_one(kind: Any, value: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return any(value == a and type(value) is type(a) for a in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_fits_one(typing.get_args(kind)[0], v) for v in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w.:+/-]+", value) and value != "none" else json.dumps(value)
    return str(value)
