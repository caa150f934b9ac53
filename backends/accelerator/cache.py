"""Mappings that were found before, by the digest of all that they depend on.

A search is a function of the layer, the resolved machine, the rates, the objective and the code of the model; its
result is a small JSON file in the user's cache folder (INTAGLIO_CACHE, else XDG_CACHE_HOME, else ~/.cache). A file that
cannot be read or is damaged is as good as none, and a folder that cannot be written is no reason not to compile.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...ir.host import cache_folder
from .cost import Cost, Entry
from .hierarchy import Hierarchy, Rates
from .layer import Layer
from .mapper import Result, search
from .mapping import Certificate, Mapping

__all__ = ["cached_search", "folder"]

SOURCES = ("bounds", "chains", "cost", "counting", "hierarchy", "layer", "mapper", "orders", "space", "tiling")


def folder() -> Path:
    """Where results are kept."""
    return cache_folder() / "mappings"


def cached_search(layer: Layer, machine: Hierarchy, rates: Rates, objective: str = "edp") -> Result:
    """`mapper.search`, its result kept from run to run."""
    path = folder() / f"{_digest(layer, machine, rates, objective)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return result_from_json(json.loads(path.read_text(encoding="utf-8")), layer)
    found = search(layer, machine, rates, objective)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        made.write_text(json.dumps(result_to_json(found)), encoding="utf-8")
        os.replace(made, path)
    return found


@functools.cache
def _code() -> str:
    """The digest of the model itself: a changed rule makes all that was found before another question's answer."""
    h = hashlib.blake2b(digest_size=16)
    for name in SOURCES:
        h.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return h.hexdigest()


def _digest(layer: Layer, machine: Hierarchy, rates: Rates, objective: str) -> str:
    asked = repr((layer.key(), _plain(asdict(machine)), _plain(asdict(rates)), objective, _code()))
    return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    """Sets sorted: their order changes from run to run."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def result_to_json(result: Result) -> dict[str, Any]:
    return {
        "mappings": [m.to_json() for m in result.mappings],
        "costs": [cost_to_json(c) for c in result.costs],
        "certificate": asdict(result.certificate),
    }


def result_from_json(data: Any, layer: Layer) -> Result:
    return Result(
        layer,
        tuple(Mapping.from_json(m) for m in data["mappings"]),
        tuple(cost_from_json(c) for c in data["costs"]),
        Certificate(**data["certificate"]),
    )


def cost_to_json(cost: Cost) -> dict[str, Any]:
    return asdict(cost)


def cost_from_json(data: Any) -> Cost:
    return Cost(**{**data, "entries": tuple(Entry(**e) for e in data["entries"])})
