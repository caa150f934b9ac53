"""Functions of a byte, element by element: a table that stays in registers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..emit import Emitter
from ..kernel import VECTOR_UNITS, Expr, Kernel, VectorUnit, ceil_div
from .lookup import Lookup

__all__ = ["table_bytes"]

CHUNK = 1 << 14
"""Elements of a task."""


def table_bytes(
    shape: tuple[int, ...],
    table: npt.NDArray[Any],
    *,
    x_dtype: str = "uint8",
    unit: VectorUnit = VECTOR_UNITS["avx512"],
) -> tuple[Kernel, npt.NDArray[np.int32]] | None:
    """table[x - the smallest of x's type], of 256 bytes, and the operand after x that holds it.

    None where vectors have no such permutation, and for less than a vector of elements.
    """
    count, lanes = int(np.prod(shape)), unit.lanes
    lookup = Lookup.of(table.view(np.uint8), unit)
    if lookup.form == "memory" or count < lanes or len(table) != 256:
        return None
    emit = Emitter()
    with emit.function():
        source = emit.arg("x", shape, x_dtype)
        words = emit.arg("words", lookup.words.shape, "int32")
        target = emit.arg("out", shape, str(table.dtype))
        x, out = emit.flat(source, count), emit.flat(target, count)
        whole = count // lanes
        vectors = max(1, min(CHUNK // lanes, whole))

        def vector(start: Expr) -> None:
            index = emit.registers(lanes, dtype="int32")
            value = emit.cast(x[emit.ramp(start, lanes)], "int32")
            if x_dtype == "int8":
                value = value + emit.splat_of(128, "int32", lanes)
            emit.store(index, [emit.ramp(0, lanes)], value)
            found = lookup.vector(emit, words, index)
            emit.store(out, [emit.ramp(start, lanes)], emit.cast(found, str(table.dtype)))

        with emit.parallel(ceil_div(whole, vectors)) as task:
            left = emit.min(vectors, whole - task * vectors) if whole % vectors else vectors
            with emit.serial(left) as i:
                vector((task * vectors + i) * lanes)
        if count % lanes:
            vector(count - lanes)
    return Kernel(emit.func, (None, None), (shape, lookup.words.shape), shape), lookup.words
