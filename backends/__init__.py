"""Backends: Graph -> something that runs. The table below is the list; third parties use `intaglio.backends`.

Each entry names a module with an object `BACKEND` (backend.py); it is imported when the target is asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import cast

from ..ir.diagnostics import error
from .backend import Backend

__all__ = ["BACKENDS", "backend"]

BACKENDS: dict[str, str] = {
    "reference": ".reference",
    "cpu": ".tvm",
    "accelerator": ".accelerator",
    "cuda": ".cuda",
    "he": ".he",
}


def names() -> list[str]:
    """Every target name, those of installed packages included."""
    return [*BACKENDS, *(e.name for e in importlib.metadata.entry_points(group="intaglio.backends"))]


def backend(name: str) -> Backend:
    """The backend of that target name; IG0501 lists what there is."""
    if name in BACKENDS:
        return cast(Backend, importlib.import_module(BACKENDS[name], __name__).BACKEND)
    for entry in importlib.metadata.entry_points(group="intaglio.backends"):
        if entry.name == name:
            return cast(Backend, entry.load())
    raise error("IG0501", f"there is no target `{name}`", hint=f"one of {', '.join(names())}; see `intaglio targets`")
