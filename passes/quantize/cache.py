"""Results kept by what they were made of: the graph, the options, the calibration data, and the code itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.diagnostics import IntaglioError
from ...ir.graph import Graph, Module
from ...ir.host import cache_folder
from ..definition import Context
from ..options import render

__all__ = ["key_of", "recall", "remember"]


def key_of(graph: Graph, options: Any, batches: Sequence[Mapping[str, Any]]) -> str:
    h = hashlib.blake2b(digest_size=16)
    h.update(f"{_code()} {graph.digest} {render(options)}".encode())
    for batch in batches:
        for name in sorted(batch):
            array = np.asarray(batch[name])
            h.update(f"{name} {array.dtype} {array.shape}".encode())
            h.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return h.hexdigest()


def recall(key: str, context: Context) -> Graph | None:
    """The graph of that key, its notes told to `context`; None when there is none, or it is damaged."""
    from ...ir.text import parse_file

    try:
        told = json.loads((_folder() / f"{key}.json").read_text(encoding="utf-8"))
        graph = parse_file(_folder() / f"{key}.ig").main
    except (OSError, ValueError, IntaglioError):
        return None
    if graph.digest != told["digest"]:
        return None
    context.notes += [*told["notes"], "decided before, for the same data"]
    return graph


def remember(key: str, graph: Graph, context: Context, notes: Sequence[str]) -> None:
    """Keep a graph; where the folder cannot be written, nothing is kept."""
    from ...ir.text import write_file

    try:
        _folder().mkdir(parents=True, exist_ok=True)
        write_file(Module("quantized", {"main": graph}, dict(context.dims)), _folder() / f"{key}.ig")
        told = json.dumps({"digest": graph.digest, "notes": list(notes)})
        (_folder() / f"{key}.json").write_text(told, encoding="utf-8")
    except OSError:
        pass


def _folder() -> Path:
    return cache_folder() / "quantize"


@cache
def _code() -> str:
    """A digest of this package: other code may decide otherwise."""
    h = hashlib.blake2b(digest_size=16)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        h.update(file.read_bytes())
    return h.hexdigest()
