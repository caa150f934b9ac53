"""What client and server agree on, and the two parts of an artifact that hold it.

    DIR/client/interface.json    engine, parameters, key manifest, layouts of inputs and outputs: no program, no weights
    DIR/server/interface.json    the same, beside the program, which is the artifact's model.ig and its weights

The client's part is all that is given away: `intaglio he keygen DIR/client -o keys`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...ir.diagnostics import IntaglioError, error
from . import security
from .engine import Meta
from .parameters import KeyManifest, Parameters

__all__ = ["CLIENT", "SERVER", "Interface", "Tensor", "read_interface", "save_interface"]

FORMAT = 1
NAME, CLIENT, SERVER = "interface.json", "client", "server"
LARGEST = 1 << 26  # bytes
HINT = "`intaglio compile MODEL --target he -o DIR` makes one"


@dataclass(frozen=True)
class Tensor:
    """One input or output: its name, shape and layout (JSON, `{"kind": ...}`: see layouts), and its ciphertexts."""

    name: str
    shape: tuple[int, ...]
    layout: Mapping[str, Any]
    ciphertexts: tuple[Meta, ...]

    def to_json(self) -> dict[str, Any]:
        ciphertexts = [[m.level, m.scale.numerator, m.scale.denominator] for m in self.ciphertexts]
        return {"name": self.name, "shape": list(self.shape), "layout": dict(self.layout), "ciphertexts": ciphertexts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tensor:
        made = tuple(Meta(int(level), Fraction(int(n), int(d))) for level, n, d in data["ciphertexts"])
        shape = tuple(int(n) for n in data["shape"])
        sound = made and all(m.scale > 0 for m in made) and min(shape, default=1) >= 1
        if not isinstance(data["name"], str) or not sound:
            raise ValueError(f"tensor {data['name']!r} of shape {shape}")
        return cls(data["name"], shape, dict(data["layout"]), made)


@dataclass(frozen=True)
class Interface:
    """How to talk to a program on encrypted data."""

    engine: str
    parameters: Parameters
    manifest: KeyManifest
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def input_metas(self) -> tuple[Meta, ...]:
        """Every input ciphertext, in the order in which they are sent."""
        return tuple(m for tensor in self.inputs for m in tensor.ciphertexts)

    @property
    def output_metas(self) -> tuple[Meta, ...]:
        return tuple(m for tensor in self.outputs for m in tensor.ciphertexts)

    def dumps(self) -> str:
        data = {
            "format": FORMAT,
            "engine": self.engine,
            "parameters": self.parameters.to_json(),
            "manifest": self.manifest.to_json(),
            "inputs": [t.to_json() for t in self.inputs],
            "outputs": [t.to_json() for t in self.outputs],
            "security": security.statement(self.parameters),
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str, name: str) -> Interface:
        """What `dumps` gave; IG0572 for anything else, IG0560 or IG0561 for parameters that are none or insecure."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"format version {data['format']!r}; this version of intaglio reads {FORMAT}")
            parameters, manifest = Parameters.from_json(data["parameters"]), KeyManifest.from_json(data["manifest"])
            inputs, outputs = (tuple(Tensor.from_json(t) for t in data[k]) for k in ("inputs", "outputs"))
            made = cls(str(data["engine"]), parameters, manifest, inputs, outputs)
            levels = [m.level for m in (*made.input_metas, *made.output_metas)]
            if not inputs or not outputs or not all(0 <= level <= parameters.max_level for level in levels):
                raise ValueError("no inputs, no outputs, or levels beyond the parameters")
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, RecursionError) as e:
            raise _damaged(name, f"{type(e).__name__}: {e}") from None
        manifest.check(parameters)
        security.check(parameters)
        return made


def _damaged(name: str, why: str) -> IntaglioError:
    return error("IG0572", f"`{name}` is no part of an artifact for encrypted data ({why})", hint=HINT)


def save_interface(folder: Path, interface: Interface) -> None:
    """Both parts' files, into the folder of an artifact."""
    for part in (CLIENT, SERVER):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / NAME).write_text(interface.dumps(), encoding="utf-8")


def read_interface(folder: Path, part: str) -> Interface:
    """The interface from an artifact's folder, or from the folder of the part itself. IG0572: there is none."""
    for place in (folder / part / NAME, folder / NAME):
        if place.is_file():
            try:
                if place.stat().st_size > LARGEST:
                    raise ValueError("it is too large")
                return Interface.loads(place.read_text(encoding="utf-8"), str(place))
            except (OSError, ValueError) as e:
                raise _damaged(str(place), str(e)) from None
    raise error("IG0572", f"`{folder}` has no {part}'s part of an artifact for encrypted data", hint=HINT)
