"""Unstructured sparse weights: rows of (column, value), fp32. Pays from about 60 % zeros.

The product takes x with its pixels (columns) contiguous, as a 1x1 convolution of a plain NCHW image has it: each weight
is broadcast and multiplied by a few vectors of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..emit import Emitter
from ..kernel import AVX512, Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, cover, identity, is_static
from ..matmul import row_space
from ..tile import RegisterTile

__all__ = ["csr_matmul"]

Array = npt.NDArray[Any]

CHAINS = 8
"""Independent sums that hide the latency of an FMA on two ports: vectors of pixels times weights at once."""

PANEL_BYTES = 32 * 1024
"""What a task reads of x should leave room in the first-level cache."""


def csr_matmul(
    weight_shape: Sequence[int],
    x_shape: Sequence[Dim],
    nonzeros: int,
    *,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """weight[N, K] @ x[.., K, M] in fp32 for a weight with that many non-zeros; leading dimensions may be symbolic.

    Inputs: x, and three times the dense weight, of which the packers make row pointers, columns and values. None for
    symbolic or mismatching K, M, N.
    """
    weight_shape, x_shape = tuple(weight_shape), tuple(x_shape)
    if len(weight_shape) != 2 or len(x_shape) < 2 or not is_static((*weight_shape, *x_shape[-2:])):
        return None
    outputs, depth = weight_shape
    if x_shape[-2] != depth:
        return None
    leading, pixels = x_shape[:-2], x_shape[-1]
    matrices = row_space((*leading, 1))
    pieces = cover(pixels, unit.lanes)
    width = pieces[0][1]
    vectors = min(len(pieces), CHAINS)
    while vectors > 2 and 4 * depth * vectors * width > PANEL_BYTES:
        vectors //= 2
    unrolled = max(1, CHAINS // vectors)
    size = min(vectors * width, pixels)
    tiles = -(-pixels // size)
    starts = [min(v * width, size - width) for v in range(vectors)]
    count = max(1, nonzeros)  # an array without elements is not what compiled code takes
    out_shape = (*leading, outputs, pixels)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_shape)
        pointers = emit.arg("pointers", (outputs + 1,), "int32")
        columns = emit.arg("columns", (count,), "int32")
        values = emit.arg("values", (count,))
        extra = emit.extra_args(extras)
        out = emit.arg("out", out_shape)
        with emit.parallel(matrices.outer * matrices.rows * tiles) as task:
            matrix = task // tiles
            at = matrices.index((matrix // matrices.rows, matrix % matrices.rows))[:-1]
            left = emit.bind(emit.step_back(task % tiles, size, pixels))
            # A copy, for the rows of x are far apart: a page each, often in the same cache sets.
            panel = emit.scratch(depth, vectors * width)
            with emit.serial(depth) as k:
                for v, start in enumerate(starts):
                    source = x[(*at, k, emit.ramp(left + start, width))]
                    emit.store(panel, [k, emit.ramp(v * width, width)], source)
            with emit.serial(outputs) as o:
                sums = RegisterTile(emit, unrolled, vectors, width)
                sums.fill()
                first = emit.bind(pointers[o])
                length = emit.bind(pointers[o + 1] - first)

                def add(row: int, i: Expr) -> None:
                    k, value = emit.bind(columns[i]), emit.splat(values[i], width)
                    for v in range(vectors):
                        vector = panel[k, emit.ramp(v * width, width)]
                        sums.update_one(row, v, lambda acc, vector=vector: acc + value * vector)  # type: ignore[misc]

                with emit.serial(length // unrolled) as step:
                    for row in range(unrolled):
                        add(row, first + step * unrolled + row)
                if unrolled > 1:
                    with emit.serial(length % unrolled) as rest:
                        add(0, first + length // unrolled * unrolled + rest)
                for row in range(1, unrolled):
                    for v in range(vectors):
                        sums.update_one(0, v, lambda acc, row=row, v=v: acc + sums[row, v])  # type: ignore[misc]
                total = RegisterTile(emit, 1, vectors, width)
                total.update(lambda _, r, v: sums[r, v])
                total.store(starts, size, lambda _, j, o=o: (*at, o, left + j), out, epilogue, extra)  # type: ignore[misc]
    shapes = (x_shape, (outputs + 1,), (count,), (count,))
    return Kernel(emit.func, (None, _pointers, _columns, _values), shapes, out_shape)


def _pointers(weight: Array) -> Array:
    return np.concatenate([[0], np.cumsum((weight != 0).sum(1))]).astype(np.int32)


def _columns(weight: Array) -> Array:
    found = weight.nonzero()[1].astype(np.int32)
    return found if found.size else np.zeros(1, np.int32)


def _values(weight: Array) -> Array:
    found = weight[weight.nonzero()].astype(np.float32)
    return found if found.size else np.zeros(1, np.float32)
