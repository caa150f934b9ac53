"""Levels: how deep every value lies above the output, and where bootstraps go when the chain is too short.

Values are computed as late as possible, so everything runs on as few primes as it can. A bootstrap restores the levels
of all values that are alive at some point of the computation; between two such cuts no path may be longer than the
levels there are. The cheapest cuts are a shortest path over the points of the computation, where a cut costs as many
bootstraps as values cross it: inside a residual block two, between blocks one.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.diagnostics import error
from .network import Network

__all__ = ["Levels", "absorbed", "alive", "place", "rise"]


@dataclass(frozen=True)
class Levels:
    """`level` of every value when it is made; before each layer of `cuts` everything alive is bootstrapped to `top`."""

    level: tuple[int, ...]
    top: int
    cuts: tuple[int, ...] = ()

    @property
    def needed(self) -> int:
        """Levels of the parameters."""
        return max(self.top, self.level[0])


def rise(network: Network, operand: int, user: int) -> int:
    """Levels between an operand and the result of `user`. A sum takes results of its linear layers as they are."""
    one = network.layers[user]
    if one.kind != "sum":
        return one.depth
    return 0 if absorbed(network, operand, user) or len(one.inputs) == 1 else 1


def absorbed(network: Network, operand: int, user: int) -> bool:
    """Whether the factor of a sum can be in the weights of its operand."""
    return network.layers[operand].kind == "linear" and network.users(operand) == [user] and operand != network.output


def place(network: Network, top: int | None = None) -> Levels:
    """Levels without bootstraps (`top` None), or with as few as do for a chain of `top` levels; IG0544 if none do."""
    if top is None:
        needed = _late(network, len(network.layers), {network.output})
        return Levels(tuple(needed), max(needed))
    cuts = _cuts(network, top)
    n = len(network.layers)
    level = [0] * n
    start = 0
    for end in (*cuts, n):
        needed = _late(network, end, {network.output} if end == n else alive(network, end))
        level[start:end] = needed[start:end]
        start = end
    return Levels(tuple(level), top, tuple(cuts))


def _late(network: Network, end: int, goals: set[int]) -> list[int]:
    """The level at which each value before `end` is needed so that all of `goals` are there at level 0."""
    needed = [0] * len(network.layers)
    for i in reversed(range(end)):
        for j in network.layers[i].inputs:
            if i in goals or needed[i] or any(u < end for u in network.users(i)) or i == network.output:
                needed[j] = max(needed[j], needed[i] + rise(network, j, i))
    return needed


def alive(network: Network, end: int) -> set[int]:
    """Values before `end` that are read from there on."""
    return {j for j in range(end) if any(u >= end for u in network.users(j))}


def _cuts(network: Network, top: int) -> list[int]:
    """Before which layers everything alive is bootstrapped."""
    n = len(network.layers)
    points = [0, *[p for p in range(2, n) if network.layers[p].kind != "sum"], n]
    depth = {p: _span(network, p, points) for p in points[:-1]}
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for q in points[1:]:
        for p in points:
            if p >= q or p not in best or depth[p][q] > top:
                continue
            cost = best[p][0] + (len(alive(network, q)) if q < n else 0)
            if q not in best or cost < best[q][0]:
                best[q] = (cost, [*best[p][1], q] if q < n else best[p][1])
    if n not in best:
        raise error("IG0544", f"{top} levels are too few for one layer of the model", hint="use a larger ring")
    return best[n][1]


def _span(network: Network, start: int, points: list[int]) -> dict[int, int]:
    """The longest path that begins at the values alive at `start` and ends before each point."""
    length = [0] * len(network.layers)
    for i in range(max(start, 1), len(network.layers)):
        one = network.layers[i]
        length[i] = max((length[j] * (j >= start) + rise(network, j, i) for j in one.inputs), default=0)
    return {q: max(length[start:q], default=0) for q in points if q > start}
