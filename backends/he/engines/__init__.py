"""The engines: libraries that compute on CKKS ciphertexts, behind one protocol (engine.py). The table is the list.

An entry names the module of the evaluating side and that of the secret key's (owner.py). They are apart so that a
server never loads a line that knows a secret key.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, cast

from ....ir.diagnostics import error
from .. import security
from ..engine import Engine, Parameters

__all__ = ["ENGINES", "engine", "module"]

ENGINES: dict[str, tuple[str, str]] = {
    "sim": (".sim", ".sim"),
    "seal": (".seal", ".seal_keys"),
    "lattigo": (".lattigo", ".lattigo"),
}


def engine(name: str, parameters: Parameters) -> Engine:
    """The evaluating side. IG0561: insecure parameters; IG0562: not installed; IG0563: more than the engine can."""
    security.check(parameters)
    return cast(Engine, module(name, 0).make_engine(parameters))


def module(name: str, side: int) -> Any:
    """The module of an engine's evaluating side (0) or of its secret key's (1). IG0563: there is no such engine."""
    if name not in ENGINES:
        close = difflib.get_close_matches(name, ENGINES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(ENGINES)}"
        raise error("IG0563", f"there is no engine `{name}`", hint=hint)
    return importlib.import_module(ENGINES[name][side], __name__)
