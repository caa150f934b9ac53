"""A program for the server tests, behind the executor's interface: y = 3 x rotated by one, plus x squared."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from intaglio.backends.he.engine import Engine, Meta
from intaglio.backends.he.interface import Interface, Tensor, save_interface
from intaglio.backends.he.parameters import KeyManifest, Parameters

PARAMETERS = Parameters(1 << 12, (36, 28), (37,), 28)
MANIFEST = KeyManifest.of({1: 1}, relin=1)
FACTOR = 3.0


def interface() -> Interface:
    fresh = Meta(1, PARAMETERS.scale)
    result = Meta(0, PARAMETERS.scale**2 / PARAMETERS.primes[1])
    return Interface(
        "seal",
        PARAMETERS,
        MANIFEST,
        (Tensor("x", (2048,), {"kind": "flat"}, (fresh,)),),
        (Tensor("y", (2048,), {"kind": "flat"}, (result,)),),
    )


def write(folder: Path) -> Path:
    save_interface(folder, interface())
    return folder


def meaning(x: Any) -> Any:
    import numpy as np

    return FACTOR * np.roll(x, -1) + x * x


def load(folder: Path) -> dict[str, Any]:
    """What the folder says the program should do beside its work: `slow` sleeps, `greedy` allocates, `crash` dies."""
    return {name: True for name in ("slow", "greedy", "crash") if (folder / name).exists()}


def execute(program: dict[str, Any], engine: Engine, inputs: list[Any]) -> list[Any]:
    if "slow" in program:
        time.sleep(60)
    if "greedy" in program:
        bytearray(64 << 30)
    if "crash" in program:
        import ctypes

        ctypes.string_at(0)
    (x,) = inputs
    turned = engine.mul_plain(engine.rotate(x, 1), engine.encode([FACTOR] * 2048, 1, PARAMETERS.scale))
    return [engine.rescale(engine.add(turned, engine.relin(engine.square(x))))]
