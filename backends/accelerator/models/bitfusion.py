"""Bit Fusion (Sharma et al., ISCA 2018) as its authors' simulator counts: a systolic array of composable units.

Levels `wbuf`, `ibuf`, `obuf` hold weights, inputs, outputs and are double-buffered; `dram` has one bandwidth for
reads and writes. A unit makes f = (8/max(a, 2)) (8/max(w, 2)) products a cycle; rows share the reduction, columns the
outputs:

    tile cycles    n p q ceil(k/cols) r s ceil(c / (rows f)); unrolled, the last is ceil(c r s / (rows f))
    latency        tiles x tile cycles + max(0, traffic/bandwidth - that) + first loads + last store

Tiles are powers of two (outputs in multiples of the columns), whole windows, square pieces of the image; an operand
stays in its buffer over as many of the innermost tile loops as half of it has room for. Every tile and loop order is
tried, as arrays; the fastest counts.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....ir.diagnostics import error
from ..layer import Layer
from ..machine import Machine

__all__ = ["Result", "run"]

Ints = npt.NDArray[np.int64]

LOOPS = ("N", "P", "Q", "C", "K")
CHANGES = {"I": "NPQC", "W": "CK", "O": "NPQK"}
"""Tile loops under which the tile of an operand changes."""
BUFFERS = {"I": "ibuf", "W": "wbuf", "O": "obuf"}
PARTIAL = 32  # bits of a partial sum


@dataclass(frozen=True)
class Result:
    """Cycles, those of them that wait for memory, and DRAM traffic in bits."""

    cycles: int
    stalls: int
    read: int
    written: int


def run(machine: Machine, layer: Layer, unrolled: bool = False) -> Result:
    """One layer; `unrolled`: its windows are laid out as rows before (the first layer of a network)."""
    e = layer.extent
    if e["G"] != 1 or e["P"] != e["Q"] or e["R"] != e["S"] or layer.strides[0] != layer.strides[1]:
        raise error("IG0526", f"{layer.name}: this model takes square layers without groups",
                    hint="split the groups, or use the general cost model")  # fmt: skip
    w_bits, i_bits = layer.bits[0], layer.bits[1]
    rows, cols, window = machine.array.rows, machine.array.cols, e["R"]
    deep = rows * (8 // max(i_bits, 2)) * (8 // max(w_bits, 2))
    k_tiles = _tiles(e["K"]) if unrolled else [min(t * cols, e["K"]) for t in _tiles(-(-e["K"] // cols))]
    grid = itertools.product(_tiles(e["N"]), _tiles(e["P"]), _tiles(e["C"]), k_tiles)
    n, p, c, k = np.array(list(grid), np.int64).T
    weights = _up(window**2 * c, deep) * k * w_bits
    side = window + (p - 1) * layer.strides[0]
    inputs = (p**2 * window**2 if unrolled else side**2) * c * n * i_bits
    outputs = p**2 * _up(k, cols) * n * PARTIAL
    room = {x: machine.level(b).size * 8 / 2 for x, b in BUFFERS.items()}
    fits = (weights <= room["W"]) & (inputs <= room["I"]) & (outputs <= room["O"])
    if not fits.any():
        raise error("IG0525", f"{layer.name}: not even the smallest tile fits the buffers", hint="enlarge them")
    n, p, c, k = n[fits], p[fits], c[fits], k[fits]
    tile = {"W": weights[fits], "I": inputs[fits], "O": outputs[fits]}
    trips = {"N": -(-e["N"] // n), "P": -(-e["P"] // p), "Q": -(-e["Q"] // p), "C": -(-e["C"] // c),
             "K": -(-e["K"] // k)}  # fmt: skip
    products = -(-(window**2 * c) // deep) if unrolled else window**2 * -(-c // deep)
    compute = n * p**2 * -(-k // cols) * products * math.prod(trips.values())
    speed = round(machine.level("dram").bandwidth * 8)
    best: Result | None = None
    for order in itertools.permutations(LOOPS):
        moved, stays = zip(*(_traffic(x, tile[x], room[x], trips, order) for x in "IWO"), strict=True)
        read, written = moved[0] + moved[1] + moved[2], moved[2]
        first, last = stays[0] + stays[1] + stays[2], stays[2]
        middle = read + written - first - last
        stalls = np.maximum(0, -(-middle // speed) - compute) + -(-first // speed) + -(-last // speed)
        i = int(np.argmin(compute + stalls))
        found = Result(int(compute[i] + stalls[i]), int(stalls[i]), int(read[i]), int(written[i]))
        if best is None or found.cycles < best.cycles:
            best = found
    assert best is not None
    return best


def _traffic(x: str, tile: Ints, room: float, trips: dict[str, Ints], order: tuple[str, ...]) -> tuple[Ints, Ints]:
    """Bits moved for an operand, and bits of it that stay in its buffer; `order` from the outermost loop."""
    moved, stays, resident = tile, tile, np.ones(tile.shape, bool)
    for loop in reversed(order):
        if loop in CHANGES[x]:
            moved = moved * trips[loop]
            resident = resident & (moved <= room)
            stays = np.where(resident, moved, stays)
        else:
            moved = np.where(resident, moved, moved * trips[loop])
    return moved, stays


def _tiles(n: int) -> list[int]:
    """1, 2, 4, ... n"""
    return [min(1 << i, n) for i in range((n - 1).bit_length() + 1)]


def _up(a: Ints, b: int) -> Ints:
    return -(-a // b) * b
