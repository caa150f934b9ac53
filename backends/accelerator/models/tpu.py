"""TPU v1 (Jouppi et al., ISCA 2017): a weight-stationary array of rows x cols that waits for its weights.

A layer is tiles of rows x cols weights, each fetched from DRAM, shifted in (256 cycles for 256 rows), and passed by B
rows of activations, one a cycle; twice that with one operand of 16 bits, four times with both. Fetching goes on beside
the work, so a tile takes

    max(fetch, B + vector)           fetch = tile bytes / (bandwidth x efficiency)

    active   B                       what is useful of it: products that are no padding
    stall    fetch - B - shift - vector, shift being hidden where B is longer than the fetch
    vector   cycles per tile in which the array does nothing else: activation, synchronisation, waiting for inputs

[model] has the two constants, fitted on MLP0 and CNN0. The paper gives each twice, in its counters and in its TOPS, and
they differ (CNN0: 78 % active, 86 of 92 TOPS): `efficiency` of DRAM is MLP0's between the two; `vector`, cycles per
tile, makes the largest error of the two splits least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..layer import Layer
from ..machine import Machine
from .systolic import matrix

__all__ = ["Split", "of_layers", "of_sums"]


@dataclass(frozen=True)
class Split:
    """Where the time goes, as shares that add up to 1; `tops` counts two operations per useful product."""

    tops: float
    active: float
    useful: float
    stall: float
    shift: float
    vector: float


def of_layers(machine: Machine, layers: Sequence[Layer]) -> Split:
    """A network of known layers; the bits of a layer choose the speed."""
    rows, cols = machine.array.rows, machine.array.cols
    parts = []
    for layer in layers:
        t, k, n = matrix(layer)
        tiles = layer.extent["G"] * -(-k // rows) * -(-n // cols)
        useful = k * n / (-(-k // rows) * rows * -(-n // cols) * cols)
        parts.append(_cycles(machine, tiles, t, useful, layer.bits))
    return _split(machine, [sum(column) for column in zip(*parts, strict=True)])


def of_sums(
    machine: Machine, weights: float, batch: float, useful: float = 1.0, bits: tuple[int, int] = (8, 8)
) -> Split:
    """A network of which only sums are known: its weights, rows per tile, the share of a tile that is no padding."""
    tiles = weights / useful / (machine.array.rows * machine.array.cols)
    return _split(machine, _cycles(machine, tiles, batch, useful, bits))


def _cycles(machine: Machine, tiles: float, batch: float, useful: float, bits: Sequence[int]) -> list[float]:
    """[products, all, active, useful, stall, shift, vector]: the first counts, the others are cycles."""
    rows, cols = machine.array.rows, machine.array.cols
    model = machine.model
    efficiency, vector = (model["efficiency"], model["vector"]) if model else (1.0, 0.0)
    fetch = rows * cols / (machine.level("dram").bandwidth * efficiency)
    active = batch * (2 if bits[0] > 8 else 1) * (2 if bits[1] > 8 else 1)
    whole = max(fetch, active + vector)
    shift = min(float(rows), whole - active - vector)
    cycles = (whole, active, active * useful, whole - active - vector - shift, shift, vector)
    return [tiles * rows * cols * useful * batch, *(tiles * c for c in cycles)]


def _split(machine: Machine, sums: Sequence[float]) -> Split:
    products, whole, *parts = sums
    active, useful, stall, shift, vector = (p / whole for p in parts)
    return Split(2 * products / whole * machine.clock / 1e12, active, useful, stall, shift, vector)
