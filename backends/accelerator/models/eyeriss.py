"""Eyeriss v1 (Chen et al., JSSC 2017), row stationary, a batch at a time, in 16 bits.

An element slides one row of a window over one row of inputs. R x e elements, a set, make e rows of outputs; the array
holds several sets: t of other filters, r of other channels whose sums are added up on the way. One pass of an element

    n images x q channels x p filters x S taps x F outputs

with q S words of inputs, p q S of weights and p sums in its registers. m filters of n images have their partial sums in
the global buffer, written and read once for every q r channels; inputs come from it once for every p t filters.
From DRAM inputs come once for every m filters, weights for every n images and every strip of e rows. Features are
run-length coded in DRAM: three 5-bit runs and three 16-bit words in 64 bits, where that is smaller.

n, m, e, r and t are those of the least time. [model] has three fitted constants:

    turn   cycles from one pass to the next, beside the loading of weights
    link   bytes per cycle of DRAM traffic, as far as it is waited for
    unit   pJ of a multiplication; a register access costs 1, an element's neighbour 2, the buffer 6 of them
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ....ir.diagnostics import error
from ..layer import Layer
from ..machine import Machine

__all__ = ["Mapping", "Result", "run"]

CODED = 64 / 3 / 16  # bits in memory per bit of a non-zero: three words and their runs in 64 bits
SUMMED = 2  # sets at most whose sums are added up in the array
SPARE = 1  # words of the input register that are being refilled
PORT = 4  # words of 16 bits a cycle from the buffer into the array
FILTERS = 16  # filters an element interleaves, where registers allow


@dataclass(frozen=True)
class Mapping:
    """The parameters of the paper's table IV: e rows, n images, m filters; p, q per element; r, t sets."""

    e: int
    n: int
    m: int
    p: int
    q: int
    r: int
    t: int


@dataclass(frozen=True)
class Result:
    """One layer of a batch: cycles with everything in the buffer, cycles with DRAM, bytes moved, pJ, busy elements."""

    mapping: Mapping
    processing: float
    cycles: float
    dram: float
    buffer: float
    energy: float
    elements: int


def run(machine: Machine, layer: Layer, output_density: float = 1.0) -> Result:
    """One layer; `output_density` is the share of outputs that are not zero after the activation."""
    found = [(r.cycles, r.buffer, i, r) for i, m in enumerate(mappings(machine, layer))
             if (r := cost(machine, layer, m, output_density))]  # fmt: skip
    if not found:
        raise error("IG0525", f"{layer.name}: its window or its partial sums do not fit",
                    hint="a window has at most as many rows as the array")  # fmt: skip
    return min(found)[-1]


def mappings(machine: Machine, layer: Layer) -> Iterator[Mapping]:
    """Every mapping that the registers, the array and the global buffer have room for."""
    x, array = layer.extent, machine.array
    bands = array.rows // x["R"]
    word = layer.bits[0] // 8
    inputs, weights, sums = (int(machine.level(n).size) // word for n in ("ifmap", "filter", "psum"))
    q = min(x["C"], (inputs - SPARE) // x["S"])
    p = min(x["K"], sums, weights // max(1, q * x["S"]))
    if not bands or not q or not p:
        return
    p = min(p, FILTERS)
    for e in range(1, min(x["P"], array.cols * bands) + 1):
        if e > array.cols:
            sets = bands // -(-e // array.cols)
        else:
            sets = bands * (array.cols // e)
        for r in range(1, min(SUMMED, sets) + 1):
            t = min(sets // r, -(-x["K"] // p))
            rows = (e - 1) * layer.strides[0] + x["R"]
            for n in range(1, x["N"] + 1):
                if x["N"] % n:
                    continue
                held = n * q * r * rows * (layer.image[1] + 2 * layer.pads[1]) * word
                m = int((machine.level("glb").size - held) // (n * e * x["Q"] * word)) // (p * t) * (p * t)
                if m > 0:
                    yield Mapping(e, n, min(m, -(-x["K"] // (p * t)) * p * t), p, q, r, t)


def cost(machine: Machine, layer: Layer, m: Mapping, output_density: float = 1.0) -> Result:
    """What a mapping costs."""
    x = layer.extent
    word = layer.bits[0] / 8
    strips = -(-x["P"] // m.e)
    rows = strips * ((m.e - 1) * layer.strides[0] + x["R"])
    image = x["N"] * x["G"] * x["C"] * rows * layer.image[1] * word
    outputs = x["N"] * x["G"] * x["K"] * x["P"] * x["Q"]
    weights = x["G"] * x["K"] * x["C"] * x["R"] * x["S"] * word
    fills = -(-x["K"] // m.m)
    dram = (
        image * fills * min(1.0, CODED * layer.density[1])
        + weights * (x["N"] // m.n) * strips
        + outputs * word * min(1.0, CODED * output_density)
    )
    deep, wide = -(-x["C"] // (m.q * m.r)), -(-x["K"] // (m.p * m.t))
    buffer = image * wide + outputs * (2 * deep - 1) * word
    passes = x["G"] * (x["N"] // m.n) * strips * deep * wide
    taps = m.q * x["S"]
    k = machine.model
    turn, link, unit = (k["turn"], k["link"], k["unit"]) if k else (0.0, 4.0, 1.0)
    loading = m.p * taps * x["R"] * m.r * m.t / PORT
    processing = passes * (m.n * m.p * x["Q"] * taps + loading + turn)
    processing = max(processing, buffer / machine.level("glb").bandwidth)
    cycles = processing + dram / link
    done = layer.macs * layer.density[1]  # products with a zero input are gated, and the reading of their weights
    relative = done * (1 + 3) + (layer.macs - done) + layer.macs / x["S"] / m.q * 2 + buffer / word * 6
    energy = unit * relative + machine.static * cycles
    return Result(m, processing, cycles, dram, buffer, energy, x["R"] * m.e * m.r * m.t)
