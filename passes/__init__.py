"""Passes: pure functions Graph -> Graph. The table below is the list; third parties use `intaglio.passes`.

An entry names the module that holds the `Pass` of that name (see definition.py); it is imported when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from typing import TYPE_CHECKING

from ..ir.diagnostics import Position, error

if TYPE_CHECKING:
    from .definition import Pass

__all__ = ["PASSES", "find", "names"]

PASSES: dict[str, str] = {
    "freeze": ".freeze",
    "fold": ".fold",
    "cse": ".cleanup",
    "dce": ".cleanup",
    "cleanup": ".cleanup",
    "canonicalize": ".canonicalize",
    "layout": ".layout",
    "legalize": ".legalize",
    "subpixel": ".subpixel",
    "integer": ".integer",
    "bitplanes": ".bitplanes",
    "bf16": ".bf16",
    "fuse": ".fuse",
    "polynomial": ".polynomial",
    "shrink": ".shrink",
    "finetune": ".finetune",
    "quantize": ".quantize.quantize",
    "equalize": ".quantize.equalize",
    "smooth": ".quantize.smooth",
    "rotate": ".quantize.rotate",
    "qat": ".quantize.qat",
    "kv_cache": ".quantize.kv_cache",
}


def names() -> list[str]:
    """Every pass, those of installed packages included."""
    return [*PASSES, *(e.name for e in importlib.metadata.entry_points(group="intaglio.passes"))]


def find(name: str, position: Position | None = None) -> Pass:
    """The pass of that name; IG0403 with the nearest names."""
    from .definition import Pass

    if name in PASSES:
        module = importlib.import_module(PASSES[name], __name__)
        return next(p for p in vars(module).values() if isinstance(p, Pass) and p.name == name)
    for entry in importlib.metadata.entry_points(group="intaglio.passes"):
        if entry.name == name:
            return _third_party(entry)
    close = difflib.get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "see `intaglio passes`"
    raise error("IG0403", f"there is no pass `{name}`", position=position, hint=hint)


def _third_party(entry: importlib.metadata.EntryPoint) -> Pass:
    """The pass of another package; whatever is wrong with it is not the user's fault, but theirs to know."""
    from .definition import Pass

    hint = "its entry point names an object that `intaglio.passes.definition.define_pass` has made"
    try:
        found = entry.load()
    except Exception as e:
        what = f"pass `{entry.name}` of another package cannot be loaded: {type(e).__name__}: {e}"
        raise error("IG0403", what, hint=hint) from e
    if not isinstance(found, Pass):
        raise error("IG0403", f"`{entry.value}`, installed as pass `{entry.name}`, is no pass", hint=hint)
    return found
