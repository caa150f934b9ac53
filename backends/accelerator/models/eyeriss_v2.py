"""The processing element of Eyeriss v2 (Chen et al., JETCAS 2019): both operands compressed, zeros of both skipped.

An element takes the non-zero inputs one by one and multiplies each with the non-zero weights of its channel; one
product a cycle, so for weights W [M, C] and inputs I [pixels, C]

    cycles = sum over c of nnz(W[:, c]) nnz(I[:, c])

Exact for masks that are known. With densities alone the sum is that of their product: the error of a uniform model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["expected_cycles", "pe_cycles"]

Mask = npt.NDArray[Any]


def pe_cycles(weights: Mask, inputs: Mask, macs: int = 1) -> int:
    """Cycles of one element with `macs` multipliers (2 in the chip, which share an input and take two weights)."""
    w = np.count_nonzero(weights, axis=0)
    i = np.count_nonzero(inputs, axis=0)
    if w.shape != i.shape:
        raise ValueError(f"weights have {w.shape[0]} channels, inputs {i.shape[0]}")
    return int((-(-w.astype(np.int64) // macs) * i).sum())


def expected_cycles(m: int, c: int, pixels: int, weight_density: float, input_density: float) -> float:
    """The mean over masks whose zeros lie anywhere: no channel is denser than another."""
    return m * c * pixels * weight_density * input_density
