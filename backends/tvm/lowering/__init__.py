"""Lowering: from graphs of the IR to TIR kernels of our own, and a Relax function that calls them.

`LOWERINGS` is the table of ops; it is built from the modules listed here.
"""

from __future__ import annotations

from types import MappingProxyType, ModuleType

from . import (
    binary,
    casts,
    contract,
    elementwise,
    images,
    index,
    norm,
    pool,
    quantized,
    quantized_dynamic,
    reduce,
    shape,
)
from .table import Lowering

__all__ = ["LOWERINGS"]

MODULES: tuple[ModuleType, ...] = (
    elementwise,
    binary,
    casts,
    reduce,
    shape,
    index,
    contract,
    pool,
    norm,
    images,
    quantized,
    quantized_dynamic,
)


def _table() -> dict[str, Lowering]:
    table: dict[str, Lowering] = {}
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, Lowering) and table.setdefault(value.op, value) is not value:
                raise ValueError(f"{value.op} has two lowerings")
    return table


LOWERINGS = MappingProxyType(_table())
