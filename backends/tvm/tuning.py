"""Which plan of each kernel was the fastest on this machine: a JSON file, `tuning-ISA.json` in the cache folder.

    {"format": 1, "machines": {"AMD EPYC, 1 thread, intaglio 0.1.0": {"nn.conv(...)": {"plan": 1, "seconds": [...]}}}}

A kernel is known by what it computes and how its operands lie in memory, a plan by its rank among those that the cost
model holds for the best. The file is written in one step; one that is damaged is ignored, with a warning.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.constants import Constant
from ...ir.graph import Node, Value
from ...ir.host import cache_folder, cpu_name
from .kernels.layout import PLAIN, Layout
from .lowering.group import group_of

__all__ = ["Choice", "Store", "machine_key", "signature", "store_path"]

FORMAT = 1


@dataclass(frozen=True)
class Choice:
    """The rank of the plan to take, and the seconds that each of them took."""

    rank: int
    seconds: tuple[float, ...]


def store_path(isa: str) -> Path:
    return cache_folder() / f"tuning-{isa}.json"


def machine_key(threads: int) -> str:
    """What measurements hold for."""
    from ... import __version__

    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}, intaglio {__version__}"


def signature(node: Node, constants: Mapping[Value, Constant], layouts: Mapping[Value, Layout], wanted: Layout) -> str:
    """A kernel in words: its ops with types and attributes, and the layouts around it."""
    group = group_of(node, constants)
    outside = dict(group.operands)

    def operand(v: Value | None) -> str:
        if v is None:
            return "-"
        layout = layouts.get(outside.get(v, v), PLAIN)
        return f"{v.type}{' known' if v in group.known else ''}{'' if layout == PLAIN else f' in {layout}'}"

    def op(n: Node) -> str:
        attributes = ", ".join(f"{k}={n.attrs[k]}" for k in sorted(n.attrs))
        return f"{n.op.name}({'; '.join(map(operand, n.inputs))}){{{attributes}}}"

    return f"{' | '.join(map(op, group.nodes))}{'' if wanted == PLAIN else f' -> {wanted}'}"


class Store:
    """The choices that are known for one machine; `save` adds the new ones to the file."""

    def __init__(self, path: Path, machine: str) -> None:
        self.path, self.machine = path, machine
        self._known = dict(_read(path).get(machine, {}))
        self._new: dict[str, Choice] = {}

    def get(self, key: str) -> Choice | None:
        return self._known.get(key)

    def put(self, key: str, choice: Choice) -> None:
        self._known[key] = self._new[key] = choice

    def save(self) -> None:
        """Write the file anew, with what others have written meanwhile; a warning where that cannot be done."""
        if not self._new:
            return
        machines = _read(self.path)
        machines[self.machine] = {**machines.get(self.machine, {}), **self._new}
        data = {
            m: {k: {"plan": c.rank, "seconds": c.seconds} for k, c in found.items()} for m, found in machines.items()
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump({"format": FORMAT, "machines": data}, file, indent=1, ensure_ascii=False)
                os.replace(name, self.path)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as e:
            warnings.warn(f"what was measured is not kept: {e}", stacklevel=2)
        else:
            self._new.clear()


def _read(path: Path) -> dict[str, dict[str, Choice]]:
    """All that a file holds; nothing, and a warning, if it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"it has format version {data['format']!r}, not {FORMAT}")
        return {str(m): {str(k): _choice(c) for k, c in found.items()} for m, found in data["machines"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        warnings.warn(f"`{path}` is ignored, and kernels are measured anew: {type(e).__name__}: {e}", stacklevel=2)
        return {}


def _choice(data: Mapping[str, Any]) -> Choice:
    rank, seconds = data["plan"], data["seconds"]
    if type(rank) is not int or not isinstance(seconds, Sequence) or not 0 <= rank < len(seconds):
        raise ValueError(f"{data!r} is no choice")
    return Choice(rank, tuple(map(float, seconds)))
