"""The gate: is a circuit accurate on real samples, and does everything fit below the modulus? Asked of `sim`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from . import layouts, noise
from .circuit import Circuit
from .execute import execute
from .interface import Interface
from .owner import Local, local

__all__ = ["Accuracy", "accuracy", "bootstrapped", "check"]


@dataclass(frozen=True)
class Accuracy:
    """`bits` of the largest output that are right (six standard deviations and MARGIN bits kept), and `room`: bits
    between the largest message and what its modulus holds, over all ciphertexts."""

    bits: float
    room: float


def bootstrapped(circuit: Circuit, interface: Interface, sample: Any) -> list[float]:
    """The largest number in any slot of each bootstrap, in their order: in slots that nothing reads, too."""
    sides = local("sim", interface.parameters, interface.manifest)
    sides.engine.replicas = 1  # type: ignore[attr-defined]
    _run(sides, circuit, interface, sample)
    return sides.engine.bootstrapped  # type: ignore[attr-defined]


def _run(sides: Local, circuit: Circuit, interface: Interface, sample: Any) -> Any:
    """The output's ciphertext."""
    given = interface.inputs[0]
    (values,) = layouts.pack(given.layout, sample, interface.parameters.slots)
    meta = given.ciphertexts[0]
    return execute(circuit, sides.engine, [sides.encrypt(values, meta.level, meta.scale)])[0]


def accuracy(circuit: Circuit, interface: Interface, samples: Iterable[Any]) -> Accuracy:
    """The worst over samples, each an array of the input's shape."""
    bits = room = math.inf
    sides, out = local("sim", interface.parameters, interface.manifest), interface.outputs[0]
    for sample in samples:
        y = _run(sides, circuit, interface, sample)
        largest = float(np.abs(layouts.unpack(out.layout, out.shape, [sides.decrypt(y)])).max())
        bits = min(bits, math.log2(max(largest, 1e-300) / noise.bound(y.variance)))
        room = min(room, sides.engine.room)  # type: ignore[attr-defined]
    return Accuracy(bits, room)


def check(circuit: Circuit, interface: Interface, samples: Iterable[Any], bits: float = 8.0) -> Accuracy:
    """The accuracy; IG0551 when fewer than `bits` are right, or when less than MARGIN bits of room are left."""
    found = accuracy(circuit, interface, samples)
    if found.room < noise.MARGIN:
        what = f"values come within {found.room:.1f} bits of what a ciphertext holds"
        hint = "scale the model's values down: fine-tune with the range penalty, or normalise before activations"
        raise error("IG0551", what, hint=hint)
    if found.bits < bits:
        hint = "a larger scale (he:scale=...), or a larger ring"
        raise error("IG0551", f"{found.bits:.1f} bits of the output are right, {bits:g} are needed", hint=hint)
    return found
