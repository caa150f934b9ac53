"""Addresses by interval packing: buffers that live at the same time do not overlap.

Dynamic storage allocation is NP-hard; placing the largest first, each in the lowest gap among those that share its
time, is the usual answer ("greedy by size", Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net
Inference, 2020). What lives at the worst moment is a lower bound on any answer, and is reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Buffer", "Placement", "place"]


@dataclass(frozen=True)
class Buffer:
    """`size` units needed from step `first` to step `last`, both included."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Placement:
    """Where each buffer starts, the space that all of them take, and the least that they could take."""

    addresses: dict[str, int]
    peak: int
    lower_bound: int


def place(buffers: Sequence[Buffer]) -> Placement:
    """Pack the buffers; ties go by time, then by name, so that the result does not depend on the order given."""
    placed: list[tuple[int, Buffer]] = []
    for one in sorted(buffers, key=lambda b: (-b.size, b.first, b.name)):
        address = 0
        for start, other in sorted(
            ((s, o) for s, o in placed if o.first <= one.last and one.first <= o.last), key=lambda p: p[0]
        ):
            if address + one.size <= start:
                break
            address = max(address, start + other.size)
        placed.append((address, one))
    addresses = {b.name: start for start, b in placed}
    return Placement(addresses, max((s + b.size for s, b in placed), default=0), lower_bound(buffers))


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The size of what lives at the worst moment."""
    change: dict[int, int] = {}
    for b in buffers:
        change[b.first] = change.get(b.first, 0) + b.size
        change[b.last + 1] = change.get(b.last + 1, 0) - b.size
    now = peak = 0
    for step in sorted(change):
        now += change[step]
        peak = max(peak, now)
    return peak
