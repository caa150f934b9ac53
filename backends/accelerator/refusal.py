"""Why a layer has no mapping: which memory is too small for the smallest tile, and by how much."""

from __future__ import annotations

import numpy as np

from ...ir.diagnostics import IntaglioError, error
from .cost import needed
from .counting import Block
from .hierarchy import Hierarchy, Rates, Store
from .layer import DIMS, Layer
from .space import Space, unrollings

__all__ = ["refusal"]


def refusal(layer: Layer, machine: Hierarchy, rates: Rates, parts: int = 1) -> IntaglioError:
    """The memory that is too small for the smallest tile on 1/`parts` of the array, and by how much."""
    tried = []
    for flow in machine.dataflows:
        for unrolling in unrollings(layer, flow, machine, 1 if flow.pinned else parts):
            space = Space(layer, machine, flow, unrolling)
            index = {d: np.zeros(1, np.int64) for d in DIMS}
            block = Block(machine, rates, flow.held, space.chains, index)
            lacks, worst = [], 0.0
            for level, stores in enumerate((*machine.tiers, machine.element)):
                shared = level < len(machine.tiers)
                at = level if shared else block.chains.levels - 1
                for store in stores:
                    holds = store.holds if shared else store.holds & flow.held
                    want = float(np.max(needed(block, store, at, holds))) if holds else 0.0
                    if want > store.capacity:
                        lacks.append(_lack(block, store, at, holds))
                        worst = max(worst, want / store.capacity)
            if lacks:
                tried.append((worst, "; ".join(lacks), flow.name, unrolling))
    if not tried:
        return error("IG0531", f"`{layer.name}` has no mapping on {machine.name}: no dataflow unrolls any of its loops")
    _, text, flow_name, unrolling = min(tried, key=lambda t: t[0])
    return error(
        "IG0530",
        f"`{layer.name}` does not fit on {machine.name}: {text}",
        label=f"smallest tile of dataflow {flow_name}, {unrolling}",
        hint="enlarge that memory, drop its double_buffer, or take fewer bits",
    )


def _lack(block: Block, store: Store, level: int, holds: frozenset[str]) -> str:
    """ "O needs 4096 B, acc holds 2048 B"."""
    parts = [f"{x} needs {_bytes(float(np.max(needed(block, store, level, frozenset(x)))))}" for x in sorted(holds)]
    copies = " (two tiles of each)" if store.copies > 1 else ""
    return f"{' and '.join(parts)}{copies}, {store.name} holds {_bytes(store.capacity)}"


def _bytes(bits: float) -> str:
    return f"{bits / 8:,.0f} B".replace(",", "") if bits % 8 == 0 else f"{bits:.0f} bit"
