"""A systolic array as SCALE-Sim counts its cycles (Samajdar et al., ISPASS 2020): stall-free, one tile at a time.

Loading the stationary operand, the skew of the moving one and the drain are all paid for every tile:

    ws   ceil(K/R) ceil(N/C) (2R + C + T - 2) - 1      weights [K, N] stay, T rows of inputs pass
    os   ceil(T/R) ceil(N/C) (R + C + K - 2) - 1       outputs [T, N] stay, K products are added up
    is   ceil(K/R) ceil(T/C) (2R + C + N - 2) - 1      inputs [K, T] stay, N filters pass

T output pixels, K products per output, N filters, R rows, C columns.
"""

from __future__ import annotations

from ....ir.diagnostics import error
from ..layer import Layer
from ..machine import Machine

__all__ = ["cycles", "layer_cycles", "matrix"]


def cycles(dataflow: str, rows: int, cols: int, t: int, k: int, n: int) -> int:
    """Cycles of [t, k] x [k, n]."""
    match dataflow:
        case "ws":
            return -(-k // rows) * -(-n // cols) * (2 * rows + cols + t - 2) - 1
        case "os":
            return -(-t // rows) * -(-n // cols) * (rows + cols + k - 2) - 1
        case "is":
            return -(-k // rows) * -(-t // cols) * (2 * rows + cols + n - 2) - 1
    raise error("IG0526", f"a systolic array does not run dataflow `{dataflow}`", hint="one of ws, os, is")


def matrix(layer: Layer) -> tuple[int, int, int]:
    """(T, K, N) of one group of a layer."""
    e = layer.extent
    return e["N"] * e["P"] * e["Q"], e["C"] * e["R"] * e["S"], e["K"]


def layer_cycles(machine: Machine, layer: Layer, dataflow: str | None = None) -> int:
    """Cycles of a layer, its groups one after the other; the first dataflow of the machine unless one is given."""
    t, k, n = matrix(layer)
    flow = dataflow or machine.array.dataflows[0]
    return layer.extent["G"] * cycles(flow, machine.array.rows, machine.array.cols, t, k, n)
