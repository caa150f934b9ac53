"""The ops of the language: importing this module builds the table from the modules listed; nothing registers itself.

Third parties add modules of ops through the entry-point group `intaglio.ops`.
"""

from __future__ import annotations

import importlib.metadata
from types import MappingProxyType, ModuleType

from ..diagnostics import error
from ..op import Op
from . import approx, dyn, he, math, nn, quant, quant_dynamic, quant_integer, shape, tile

__all__ = ["OPS", "get"]

DIALECTS: tuple[ModuleType, ...] = (math, nn, shape, quant, quant_integer, quant_dynamic, approx, dyn, tile, he)


def _table() -> dict[str, Op]:
    modules: list[object] = [*DIALECTS, *(e.load() for e in importlib.metadata.entry_points(group="intaglio.ops"))]
    table: dict[str, Op] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Op):
                if table.get(value.name, value) is not value:
                    raise ValueError(f"op {value.name} is declared twice")
                table[value.name] = value
    return table


OPS = MappingProxyType(_table())


def get(name: str) -> Op:
    """The op called `name`, or IG0208 with the nearest names."""
    found = OPS.get(name)
    if found is None:
        import difflib

        close = difflib.get_close_matches(name, OPS, n=3)
        raise error(
            "IG0208",
            f"there is no op `{name}`",
            hint=f"did you mean {', '.join(close)}?" if close else "see `intaglio ops`",
        )
    return found
