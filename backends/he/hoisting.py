"""Layers whose rotations are made in one call, hoisted (Halevi and Shoup 2018).

The digits of a ciphertext are computed once for all baby steps, not once for each. That takes a key for every step,
where plans take one for a progression: less time for more keys. It is asked for by `he:hoist=true`.

Steps are those of Lattigo's `EvaluateLinearTransform`, which does not let us choose: offset d is giant
step d - d mod n and baby step d mod n, n a power of two such that there are up to 2^RATIO times as many babies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.diagonals import Diagonals, Plan

__all__ = ["RATIO", "Hoisted", "hoisted"]

RATIO = 2


@dataclass(frozen=True, eq=False)
class Hoisted(Mapping[int, Any]):
    """A layer's diagonals by their offsets, f64[slots] each; `steps` are the baby steps below each giant step."""

    found: Diagonals
    weights: Any
    steps: dict[int, tuple[int, ...]]
    entries: dict[int, list[tuple[int, int]]] = field(repr=False)

    __eq__, __hash__ = object.__eq__, object.__hash__

    def __getitem__(self, offset: int) -> Any:
        """y[t] = sum of self[d][t] * x[t + d]: a diagonal of a plan is meant for before its giant step."""
        return sum(np.roll(self.found.vector(g, b, self.weights), -g) for g, b in self.entries[offset])

    def __iter__(self) -> Iterator[int]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def babies(self) -> set[int]:
        return {b for babies in self.steps.values() for b in babies if b}

    @property
    def giants(self) -> set[int]:
        return {g for g in self.steps if g}


def hoisted(plan: Plan, found: Diagonals, weights: Any) -> Hoisted:
    """A layer's diagonals, without the folds of its plan."""
    entries: dict[int, list[tuple[int, int]]] = {}
    for g, b in found.entries:
        entries.setdefault((g + b) % found.slots, []).append((g, b))
    return Hoisted(found, weights, split(entries, _below(entries, found.slots)), dict(sorted(entries.items())))


def split(offsets: Iterable[int], n: int) -> dict[int, tuple[int, ...]]:
    """Giant steps, and the baby steps below each."""
    made: dict[int, list[int]] = {}
    for d in sorted(offsets):
        made.setdefault(d - d % n, []).append(d % n)
    return {g: tuple(babies) for g, babies in made.items()}


def _below(offsets: Iterable[int], slots: int) -> int:
    """What Lattigo takes for n (`FindBestBSGSRatio`): the last before there are too many babies."""
    offsets, n = list(offsets), 1
    while n < slots:
        steps = split(offsets, n)
        babies, giants = len({b for s in steps.values() for b in s}) - 1, len(steps) - 1
        if babies == giants << RATIO:
            return n
        if babies > giants << RATIO:
            return n // 2
        n *= 2
    return 1
