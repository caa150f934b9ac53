"""Targets as a user names them: `cpu`, `cpu:threads=2`, or a name and keywords."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from ..backends import BACKENDS, backend, names
from ..backends.backend import Backend
from ..ir.diagnostics import error
from ..passes.options import Source, fill, keywords
from ..passes.syntax import parse_options

__all__ = ["options_from_json", "options_to_json", "parse_target"]

CODE = "IG0512"


def parse_target(text: str, given: Mapping[str, Any] | None = None) -> tuple[Backend, Any]:
    """The backend and its options; IG0501 for an unknown target, IG0512 for options it does not have."""
    name, colon, rest = text.partition(":")
    found = _backend(name.strip())
    owner = f"target `{found.name}`"
    if not colon:
        return found, keywords(found.options, given or {}, owner=owner, code=CODE)
    source = Source("target", text)
    written = parse_options(source, len(name) + 1, CODE)
    made = fill(found.options, written, owner=owner, source=source, code=CODE)
    if given:
        fields = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
        made = keywords(found.options, {**fields, **given}, owner=owner, code=CODE)
    if not rest.strip():
        raise error(
            "IG0512", f"`{text}` names no options after the colon", hint=f"write {name}, or {name}:option=value"
        )
    return found, made


def _backend(name: str) -> Backend:
    if name not in BACKENDS and (close := difflib.get_close_matches(name, names(), n=2)):
        raise error(
            "IG0501", f"there is no target `{name}`", hint=f"did you mean {' or '.join(close)}? see `intaglio targets`"
        )
    return backend(name)


def options_to_json(options: Any) -> dict[str, Any]:
    """For a manifest."""
    return {
        f.name: list(v) if isinstance(v := getattr(options, f.name), tuple) else v for f in dataclasses.fields(options)
    }


def options_from_json(found: Backend, data: Mapping[str, Any]) -> Any:
    """What `options_to_json` gave; IG0512 when the backend has changed since."""
    return keywords(found.options, data, owner=f"target `{found.name}`", code=CODE)
