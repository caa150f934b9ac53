"""The manifest of an artifact: what was compiled, how, and the digest of every file beside it.

It is read with suspicion: whatever is wrong with it is a diagnostic that names the field, never a traceback.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..ir.diagnostics import IntaglioError, error
from ..ir.target import Cost
from .ledger import Ledger
from .pipeline import Timing

__all__ = ["FORMAT", "NAME", "FileRecord", "Manifest", "Origin", "Port"]

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Port:
    """An input or an output: its name, and its type in the text form."""

    name: str
    type: str


@dataclass(frozen=True)
class Origin:
    """The file that a module was read from: `bench --against` runs it again."""

    path: str
    sha256: str


@dataclass(frozen=True)
class FileRecord:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    name: str
    digest: str
    target: str
    options: Mapping[str, Any]
    pipeline: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dims: Mapping[str, tuple[int, int | None]]
    ledger: Ledger = field(default_factory=Ledger)
    cost: Cost = field(default_factory=Cost)
    timings: tuple[Timing, ...] = ()
    origin: Origin | None = None
    backend: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    def dumps(self) -> str:
        """The text of manifest.json. `seal` is the digest of everything else in it."""
        data: dict[str, Any] = {"format": FORMAT, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}
        return json.dumps({**data, "seal": _seal(data)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str, where: str) -> Manifest:
        """Read what `dumps` wrote. IG0509: no manifest of ours, or of another version; IG0507: changed since."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise error("IG0509", f"`{where}` is not JSON", hint="compile the model again") from None
        if not isinstance(data, dict) or "format" not in data:
            raise error("IG0509", f"`{where}` is no manifest of an artifact")
        if data["format"] != FORMAT:
            what = f"`{where}` has format version {data['format']!r}, this version of intaglio reads {FORMAT}"
            raise error("IG0509", what, hint="compile the model again")
        rest = {k: v for k, v in data.items() if k != "seal"}
        if data.get("seal") != _seal(rest):
            raise error(
                "IG0507", f"`{where}` was changed after the artifact was written", hint="compile the model again"
            )
        try:
            return _read(rest)
        except (KeyError, TypeError, ValueError, AttributeError, IntaglioError) as e:
            raise error("IG0509", f"`{where}` does not say what a manifest says ({type(e).__name__}: {e})") from None


def _seal(data: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(data, sort_keys=True, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value as JSON."""
    if isinstance(value, Ledger):
        return value.to_json()
    if isinstance(value, (Port, FileRecord, Origin, Timing, Cost)):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _read(data: dict[str, Any]) -> Manifest:
    origin = data["origin"]
    cost = data["cost"]
    return Manifest(
        name=_text(data["name"]),
        digest=_text(data["digest"]),
        target=_text(data["target"]),
        options=dict(data["options"]),
        pipeline=_text(data["pipeline"]),
        inputs=_ports(data["inputs"]),
        outputs=_ports(data["outputs"]),
        dims={_text(k): (int(v[0]), None if v[1] is None else int(v[1])) for k, v in data["dims"].items()},
        ledger=Ledger.from_json(data["ledger"]),
        cost=Cost(**{**cost, "notes": tuple(cost["notes"])}),
        timings=tuple(Timing(**t) for t in data["timings"]),
        origin=None if origin is None else Origin(_text(origin["path"]), _text(origin["sha256"])),
        backend=dict(data["backend"]),
        versions={_text(k): _text(v) for k, v in data["versions"].items()},
        files={_file(k): FileRecord(_text(v["sha256"]), int(v["bytes"])) for k, v in data["files"].items()},
    )


def _ports(found: Any) -> tuple[Port, ...]:
    return tuple(Port(_text(p["name"]), _text(p["type"])) for p in found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _file(name: Any) -> str:
    """A path inside the artifact, and nowhere else."""
    parts = _text(name).split("/")
    if any(p in ("", ".", "..") for p in parts) or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no file of an artifact")
    return str(name)
