"""EIE (Han et al., ISCA 2016): products of a compressed matrix with a sparse vector.

Rows of the matrix are dealt to the elements in turn. Each non-zero of the input is broadcast with its index; an element
multiplies it with its own non-zeros of that column, one entry a cycle, and spends a cycle where it has none. An entry
holds a run of up to 2^k - 1 zeros and a value, so long runs take entries that only carry zeros. A queue of `depth`
inputs before every element evens out how many entries it has; a full queue holds up the broadcast.

    work[j, e]    entries of column j in element e, at least 1
    start[j]      one cycle after start[j-1], or when every queue has room again
    done[j, e]    max(start[j], done[j-1, e]) + work[j, e]

Exact for weights and inputs that are known; `random_problem` draws them at the densities that were published.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..formats import parse_format
from ..machine import Machine

__all__ = ["column_entries", "random_problem", "run", "theoretical"]

Mask = npt.NDArray[Any]


def column_entries(mask: Mask, elements: int, k: int) -> npt.NDArray[np.int64]:
    """Entries of every column [columns, elements] of a matrix mask [rows, columns]; runs end with the column."""
    rows, columns = mask.shape
    deep = -(-rows // elements)
    own = np.zeros((deep * elements, columns), bool)
    own[:rows] = mask
    own = own.reshape(deep, elements, columns)
    entries = np.zeros((elements, columns), np.int64)
    last = np.full((elements, columns), -1, np.int64)
    for row in range(deep):
        here = own[row]
        entries += np.where(here, 1 + ((row - last - 1) >> k), 0)
        last = np.where(here, row, last)
    return np.ascontiguousarray(entries.T)


def run(machine: Machine, weights: Mask, inputs: Mask) -> float:
    """Cycles of weights [rows, columns] times inputs [columns]; only whether they are zero matters."""
    form = parse_format(machine.sparse("W").format)
    depth = int(machine.model["queue"]) if machine.model else 8
    work = column_entries(np.asarray(weights, bool), machine.array.elements, form.a or 4)
    work = work[np.flatnonzero(inputs)]
    done = np.zeros(work.shape[1], np.int64)
    taken = np.zeros(len(work) + 1, np.int64)  # when every element has begun input j
    start = 0
    for j, column in enumerate(work):
        start = max(start + 1, int(taken[j - depth]) if j >= depth else 0)
        begin = np.maximum(done, start)
        taken[j] = begin.max()
        done = begin + np.maximum(column, 1)
    return float(done.max(initial=0))


def theoretical(machine: Machine, rows: int, columns: int, weight_density: float, input_density: float) -> float:
    """Cycles if every element had the same work: entries of the code over the elements."""
    form = parse_format(machine.sparse("W").format)
    deep = -(-rows // machine.array.elements)
    d, run = weight_density, 2 ** (form.a or 4)
    entries = sum(d * (1 - d) ** (j * run) * (deep - j * run) for j in range(-(-deep // run)))
    return columns * input_density * entries


def random_problem(rows: int, columns: int, weight: float, inputs: float, seed: int = 0) -> tuple[Mask, Mask]:
    """Masks [rows, columns] and [columns] of these densities, zeros anywhere."""
    rng = np.random.default_rng(seed)
    return rng.random((rows, columns), np.float32) < weight, rng.random(columns) < inputs
