"""Modules from and to files, with `-` for stdin and stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ir.diagnostics import error
from ..ir.graph import Module
from .loading import load_module

__all__ = ["read_module", "write_module"]


def read_module(name: str) -> Module:
    """The module in a file, or on stdin; the weights file that a text on stdin names is looked for in this folder."""
    if name != "-":
        return load_module(name)
    from ..ir.text import parse

    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as e:
        raise error(
            "IG0010", f"stdin is not text in UTF-8: {e}", hint="only the text form (.ig) can be piped"
        ) from None
    return parse(text, _weights(text), "<stdin>")


def _weights(text: str) -> Mapping[str, Any] | None:
    """The weights that a module names, if it names a file that is here; else the parser says what is missing."""
    from ..ir.weights import Weights

    found = re.search(r'^\s*module\s[^{]*\bweights\("([^"\\\n]*)"\)', text, re.MULTILINE)
    return Weights(found[1]) if found is not None and Path(found[1]).is_file() else None


def write_module(module: Module, name: str) -> None:
    """Write a module to a file, its weights beside it; on stdout it goes without them."""
    from ..ir.text import print_module, write_file

    if name != "-":
        if not name.endswith(".ig"):
            raise error("IG0010", f"`{name}` is no module by its name", hint="name it .ig, or - for stdout")
        write_file(module, Path(name))
        return
    sys.stdout.write(print_module(module))
    left = [c for c in module.constants() if not c.inline]
    if left:
        print(
            f"intaglio: the data of {len(left)} constants are not in this text; -o FILE.ig writes them beside it",
            file=sys.stderr,
        )
