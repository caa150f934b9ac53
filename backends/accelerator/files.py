"""Programs as files: the instructions of the three queues, and the constants that they find in DRAM.

    program.bin           magic, format version, instructions of each queue, digest; then the queues one after the other
    program.safetensors   the constants, one tensor of bytes
    program.json          sizes of the memories, tensors at the border, layers

What is read is checked before it runs: a digest tells damage, and the simulators stop at whatever is wrong in spite of
it (IG0583, IG0584).
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.weights import Weights, save_weights
from .emit.network import Piece, Program
from .emit.tensors import Tensor
from .isa.instructions import BYTES, Queue, decode, encode

__all__ = ["load_program", "pack_program", "save_program", "unpack_program"]

MAGIC, VERSION = b"IGPROG\0\0", 2
_HEADER = struct.Struct("<8sIIII32s")


def pack_program(queues: dict[Queue, Any]) -> bytes:
    """The bytes of program.bin."""
    parts = [encode(queues[q]) for q in Queue]
    body = b"".join(parts)
    counts = [len(p) // BYTES for p in parts]
    return _HEADER.pack(MAGIC, VERSION, *counts, hashlib.sha256(body).digest()) + body


def unpack_program(data: bytes, name: str = "program.bin") -> dict[Queue, Any]:
    """The queues; IG0586 for bytes that are no program of this version, or were changed."""
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise error("IG0586", f"`{name}` is no program", hint="compile the model again")
    _, version, *counts, digest = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if version != VERSION:
        raise error("IG0586", f"`{name}` has format {version}, this is {VERSION}", hint="compile the model again")
    if len(body) != sum(counts) * BYTES or hashlib.sha256(body).digest() != digest:
        raise error("IG0586", f"`{name}` was changed after it was written", hint="compile the model again")
    queues, at = {}, 0
    for q, count in zip(Queue, counts, strict=True):
        queues[q] = decode(body[at : at + count * BYTES])
        at += count * BYTES
    return queues


def save_program(program: Program, folder: Path, name: str) -> None:
    """Write the three files; their names start with `name`."""
    (folder / f"{name}.bin").write_bytes(pack_program(program.queues))
    save_weights(folder / f"{name}.safetensors", {"constants": np.frombuffer(program.constants, np.uint8)})
    about = {
        "dram": program.dram,
        "local": program.local,
        "tensors": program.tensors,
        "least": program.least,
        "inputs": [asdict(t) for t in program.inputs],
        "outputs": [asdict(t) for t in program.outputs],
        "layers": [_piece(p) for p in program.pieces],
    }
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _piece(piece: Piece) -> dict[str, Any]:
    return {
        "name": piece.name,
        "op": piece.op,
        "start": [piece.start[q] for q in Queue],
        "stop": [piece.stop[q] for q in Queue],
    }


def load_program(folder: Path, name: str) -> Program:
    """A program that can run; its layers are known by name only."""
    queues = unpack_program((folder / f"{name}.bin").read_bytes(), f"{name}.bin")
    about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    constants = np.asarray(Weights(folder / f"{name}.safetensors")["constants"]).tobytes()
    return Program(
        queues,
        constants,
        about["dram"],
        about["local"],
        tuple(_tensor(t) for t in about["inputs"]),
        tuple(_tensor(t) for t in about["outputs"]),
        tuple(
            Piece(
                p["name"],
                p["op"],
                None,
                None,
                dict(zip(Queue, p["start"], strict=True)),
                dict(zip(Queue, p["stop"], strict=True)),
            )
            for p in about["layers"]
        ),
        about["tensors"],
        about["least"],
    )


def _tensor(data: dict[str, Any]) -> Tensor:
    strides = data["strides"]
    steps = None if strides is None else tuple(strides)
    return Tensor(data["name"], data["base"], tuple(data["shape"]), data["signed"], data["bits"], steps)
