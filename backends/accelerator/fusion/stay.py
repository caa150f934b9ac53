"""A machine on which some operands of a layer stay on the chip: the same hierarchy with other paths.

    W or I stays     its path begins at the first shared memory that holds it: the link from outside is not there
    O stays          if sums complete in the memory where they stay, the same; else (an accumulator beside a scratchpad)
                     the home of results takes the place of the outermost memory: every sum goes there once, complete
    nothing stays    the machine as it is

All other counts are those of `counting.py`. What stays takes the room of `reserved` bits, and no tile besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from ..hierarchy import Hierarchy, Store

__all__ = ["NEVER", "Staying", "home_of", "staying"]

NEVER = 1e15
"""pJ a bit to take incomplete sums back from the home of results: no mapping that does so is worth having."""
LEAST = 0.5
"""Bits of a memory that is full: no tile is as small."""


@dataclass(frozen=True)
class Staying(Hierarchy):
    """`stay`: (operand, memory of the first tier where it stays); `results`: where complete sums go, if elsewhere."""

    stay: tuple[tuple[str, str], ...] = ()
    results: Store | None = None

    def path(self, operand: str, held: frozenset[str]) -> list[tuple[int, Store]]:
        inside = super().path(operand, held)[1:]
        if operand == "O" and self.results is not None:
            return [(0, self.results), *inside]
        home = dict(self.stay).get(operand)
        if home is None:
            return [(0, self.outer), *inside]
        return [(1, next(s for s in self.tiers[0] if s.name == home)), *inside]


def home_of(machine: Hierarchy, operand: str) -> Store | None:
    """The memory in which an operand can stay: that of the first tier which holds it."""
    return next((s for s in machine.tiers[0] if operand in s.holds), None)


def staying(machine: Hierarchy, operands: frozenset[str], reserved: Mapping[str, float]) -> Hierarchy:
    """`machine` with these operands on the chip and `reserved` bits of its memories taken."""
    homes = {x: home_of(machine, x) for x in operands}
    place = home_of(machine, "I")
    results = None
    if "O" in operands and homes["O"] is not place:
        assert place is not None
        results = replace(place, read=NEVER)
        homes.pop("O")
    kept = tuple(sorted((x, s.name) for x, s in homes.items() if s is not None))
    if not operands and not any(reserved.values()):
        return machine

    def left(store: Store) -> Store:
        gone = frozenset(x for x, name in kept if name == store.name)
        return replace(
            store, holds=store.holds - gone, capacity=max(store.capacity - reserved.get(store.name, 0.0), LEAST)
        )

    first = tuple(left(s) for s in machine.tiers[0])
    same = {f.name: getattr(machine, f.name) for f in fields(Hierarchy)}
    return Staying(**{**same, "tiers": (first, *machine.tiers[1:])}, stay=kept, results=results)
