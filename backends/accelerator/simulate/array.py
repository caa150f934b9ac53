"""The array cycle by cycle, for small tiles: what each register holds after every clock edge.

Operands enter skewed, a row (column) a cycle later than the one before it, and move on by one element a cycle; sums
stay (output-stationary) or move down (weight-stationary). A tile of `steps` multiplications an element takes
steps + rows + columns - 2 cycles: that is where `pipeline_fill = "row + col - 2"` of the presets comes from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["output_stationary", "weight_stationary"]


def output_stationary(a: Any, b: Any) -> tuple[Any, int]:
    """The product of integers a [rows, depth] and b [depth, columns], and the cycles until the last sum is complete."""
    rows, depth = a.shape
    columns = b.shape[1]
    sums = np.zeros((rows, columns), np.int64)
    across, down = np.zeros_like(sums), np.zeros_like(sums)  # the operand registers of the elements
    cycles = depth + rows + columns - 2 if depth else 0
    for t in range(cycles):
        across[:, 1:] = across[:, :-1].copy()
        down[1:] = down[:-1].copy()
        across[:, 0] = [_entering(a[i], t - i) for i in range(rows)]
        down[0] = [_entering(b[:, j], t - j) for j in range(columns)]
        sums += across * down
    return sums, cycles


def weight_stationary(x: Any, w: Any) -> tuple[Any, int]:
    """The product of x [steps, rows] and w [rows, columns], whose elements stay, and the cycles until it has left."""
    steps, rows = x.shape
    columns = w.shape[1]
    found = np.zeros((steps, columns), np.int64)
    across, sums = np.zeros((rows, columns), np.int64), np.zeros((rows, columns), np.int64)
    cycles = steps + rows + columns - 2 if steps else 0
    for t in range(cycles):
        across[:, 1:] = across[:, :-1].copy()
        across[:, 0] = [_entering(x[:, i], t - i) for i in range(rows)]
        above = np.vstack([np.zeros((1, columns), np.int64), sums[:-1]])
        sums = above + across * w
        for j in range(columns):  # the sum of step m leaves column j in cycle m + rows - 1 + j
            if 0 <= (m := t - (rows - 1) - j) < steps:
                found[m, j] = sums[-1, j]
    return found, cycles


def _entering(stream: Any, t: int) -> int:
    return int(stream[t]) if 0 <= t < len(stream) else 0
