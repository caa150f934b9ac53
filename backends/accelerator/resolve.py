"""A described machine and a layer, resolved to what the cost model multiplies (`hierarchy.py`).

Memories of the chip go into tiers from the outside in: neighbours that hold different operands are one tier. Levels of
scope "pe" are the elements' files. A dataflow names what elements keep; each file may be used or passed by, and both
are tried.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

from .bits import mac_energy, macs_per_cycle
from .formats import parse_format, shares
from .hierarchy import Dataflow, Hierarchy, Rates, Store
from .layer import OPERANDS, Layer
from .machine import Level, Machine, Mode
from .plan import Units

__all__ = ["fitted", "hierarchy_of", "rates_of", "units_of"]

ALU = 0.1  # pJ of a sum or comparison where the machine says nothing: Horowitz (ISSCC 2014), 32-bit addition at 45 nm
SPECIAL = 4.0  # operations of the ALU that a function costs where the machine has no unit for it


def hierarchy_of(machine: Machine, *, ideal: bool = False) -> Hierarchy:
    """The memories and the array; `ideal`: no prologue, everything overlaps (the rule of Timeloop and AccelForge)."""
    outer, *inner = machine.levels
    shared = [level for level in inner if level.scope != "pe"]
    private = [level for level in inner if level.scope == "pe"]
    tiers: list[list[Level]] = []
    for level in shared:
        if tiers and not any(level.holds & other.holds for other in tiers[-1]):
            tiers[-1].append(level)
        else:
            tiers.append([level])
    stores = tuple(tuple(_store(level) for level in tier) for tier in tiers)
    if not stores:  # what the array takes in comes straight from outside: a buffer that costs nothing stands between
        stores = ((Store("stream", frozenset(OPERANDS)),),)
    double = all(s.double or math.isinf(s.capacity) for s in stores[0])
    return Hierarchy(
        name=machine.name,
        outer=_store(outer),
        tiers=stores,
        element=tuple(_store(level) for level in private),
        rows=machine.array.rows,
        cols=machine.array.cols,
        dataflows=tuple(_dataflows(machine, private)),
        overlap=ideal or double,
        prologue=not ideal,
        latency=0 if ideal else outer.latency,
        static=machine.static,
        clock=machine.clock,
    )


def _store(level: Level) -> Store:
    return Store(
        level.name,
        level.holds,
        level.size * 8,
        level.read_energy / 8,
        level.write_energy / 8,
        level.bandwidth * 8,
        level.double_buffer,
        level.read_bandwidth * 8,
        level.write_bandwidth * 8,
    )


def _dataflows(machine: Machine, private: list[Level]) -> list[Dataflow]:
    array = machine.array
    files = frozenset(x for level in private for x in level.holds)
    found = []
    for name in array.dataflows:
        unroll = array.unrolled(name)
        free = sorted(files - unroll.held)
        chosen = [
            unroll.held | frozenset(some) for n in range(len(free), -1, -1) for some in itertools.combinations(free, n)
        ]
        for held in chosen:
            kept = "" if held == unroll.held or len(chosen) == 1 else "+" + "".join(sorted(held - unroll.held))
            found.append(Dataflow(f"{name}{kept}", held, unroll.rows, unroll.cols, array.fill_cycles))
    return found


def fitted(layer: Layer, machine: Machine) -> tuple[Layer, str]:
    """The layer in types the machine multiplies, and a note where that is not what the model has.

    A machine without a mode as wide as the layer runs it as if it were quantised to its widest one.
    """
    w, i, o, acc = layer.bits
    if _mode(machine, w, i) is not None:
        return layer, ""
    widest = max(machine.modes, key=lambda m: (m.bits, m.macs_per_pe))
    low = min(w, widest.bits[0]), min(i, widest.bits[1])
    note = f"costed as if quantised to {widest.w} x {widest.a}: {machine.name} has no mode of {w} x {i} bits"
    return replace(layer, bits=(*low, min(o, low[1]), acc)), note


def _mode(machine: Machine, w: int, i: int) -> Mode | None:
    """The fastest mode at least as wide as both operands, then the one of least energy."""
    wide = [m for m in machine.modes if m.bits[0] >= w and m.bits[1] >= i]
    return min(wide, key=lambda m: (-_speed(machine, m, w, i), m.energy, m.bits), default=None)


def _speed(machine: Machine, mode: Mode, w: int, i: int) -> float:
    return mode.macs_per_pe * macs_per_cycle(machine.array.bits, w, i, mode.bits)


def rates_of(layer: Layer, machine: Machine) -> Rates:
    """Bits, energy and cycles of a layer that `fitted` has seen."""
    w, i, o, _ = layer.bits
    mode = _mode(machine, w, i)
    assert mode is not None, layer.bits
    formats = {x: parse_format(machine.sparse(x).format) for x in "WI"}
    density = dict(zip("WI", layer.density, strict=True))
    e = layer.extent
    shape: dict[str, Any] = {"columns": max(2, e["C"] * e["R"] * e["S"]), "rows": e["K"] * e["G"]}
    bits = {"W": formats["W"].bits(w, density["W"], **shape), "I": formats["I"].bits(i, density["I"]), "O": float(o)}
    words = [level.word for level in machine.levels if "O" in level.holds and level.word is not None]
    done = shares(formats, {x: machine.sparse(x).action for x in "WI"}, density, uneven(layer, machine.array.cols))
    price = mode.energy
    if mode.bits != (w, i):
        kind = machine.array.bits
        price *= mac_energy(kind, w, i, widest=mode.bits) / mac_energy(kind, *mode.bits, widest=mode.bits)
    return Rates(
        bits=bits,
        accumulator=float(max(words, default=o)),
        energy=price * done.multiplications,
        cycles=done.cycles / _speed(machine, mode, w, i),
    )


def uneven(layer: Layer, lanes: int) -> float:
    """Time of the slowest lane over the mean when each skips the zeros of its output channel, `lanes` at a time.

    The formula of `formats.imbalance`, from the counts alone.
    """
    counts = layer.nonzeros
    if not counts or not any(counts):
        return 1.0
    slowest = sum(max(counts[i : i + lanes]) for i in range(0, len(counts), lanes))
    return slowest / (-(-len(counts) // lanes) * sum(counts) / len(counts))


def units_of(machine: Machine) -> Units:
    """The vector units: what the machine lists, an ALU as wide as the array, and functions on the ALU for the rest."""
    lanes = float(max(machine.array.cols, 1))
    alu = machine.unit("alu")
    rate = (float(alu.lanes), alu.energy) if alu is not None else (lanes, ALU)
    special = {name: (rate[0] / SPECIAL, rate[1] * SPECIAL) for name in FUNCTIONS}
    for u in machine.units:
        special[u.op] = (float(u.lanes), u.energy)
    return Units(rate, tuple(sorted(special.items())))


FUNCTIONS = ("div", "erf", "exp", "gelu", "log", "lut", "poly", "sigmoid", "softplus", "sqrt")
