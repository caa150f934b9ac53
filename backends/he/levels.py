"""Levels: how deep every value lies above the output, and which values are bootstrapped when the chain is too short.

Values are computed as late as possible, so everything runs on as few primes as it can. A bootstrap brings one value
back to the top level, for all its readers. The fewest that do are a smallest cut: of every way that is longer than the
chain, some value is bootstrapped. Ways cross in residual blocks: a cut inside takes two bootstraps, one between blocks
takes one. A long skip connection is bootstrapped once at most.

The cut is found by dynamic programming over the layers. After each of them, what matters for the rest is the level of
every value that is still read; of two states with equal levels the one with fewer bootstraps goes on, and a state goes
when another has no lower level anywhere for no more bootstraps. That is exact while there are no more than STATES; in
wider graphs the cheapest are followed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.diagnostics import error
from .network import Network

__all__ = ["Levels", "absorbed", "place", "rise"]

STATES = 2048


@dataclass(frozen=True)
class Levels:
    """`level` of every value when it is made; those of `raised` are bootstrapped to `top` as soon as they are."""

    level: tuple[int, ...]
    top: int
    raised: frozenset[int] = frozenset()

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
    raised = frozenset[int]() if top is None else _cut(network, top)
    needed = [0] * len(network.layers)
    for i in reversed(range(len(network.layers))):
        for j in network.layers[i].inputs:
            if j not in raised:
                needed[j] = max(needed[j], needed[i] + rise(network, j, i))
    return Levels(tuple(needed), max(needed) if top is None else top, raised)


def _cut(network: Network, top: int) -> frozenset[int]:
    """The values that are bootstrapped."""
    layers = network.layers
    last = {j: i for i, one in enumerate(layers) for j in one.inputs}
    rises = [{j: rise(network, j, i) for j in one.inputs} for i, one in enumerate(layers)]
    alive = [0]
    states: dict[tuple[int, ...], tuple[int, ...]] = {(top,): ()}  # levels of what is alive -> what is bootstrapped
    for i in range(1, len(layers)):
        at = {j: n for n, j in enumerate(alive)}
        kept = [n for n, j in enumerate(alive) if last[j] > i]
        read = i in last
        grown: dict[tuple[int, ...], tuple[int, ...]] = {}
        for levels, cut in states.items():
            level = min(levels[at[j]] - down for j, down in rises[i].items())
            if level < 0:
                continue
            rest = tuple(levels[n] for n in kept)
            ways = (
                [((*rest, level), cut), ((*rest, top), (*cut, i))] if read and level < top else [((*rest, level), cut)]
            )
            for key, value in ways if read else [(rest, cut)]:
                if key not in grown or len(value) < len(grown[key]):
                    grown[key] = value
        if not grown:
            raise error("IG0544", f"{top} levels are too few for one layer of the model", hint="use a larger ring")
        alive = [*(alive[n] for n in kept), *([i] if read else [])]
        states = _best(grown)
    fewest = min(states.values(), key=len)
    return frozenset(fewest)


def _best(states: dict[tuple[int, ...], tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Those that no other state is at least as good as, cheapest first; and that of the highest levels in any case:
    from there on it can be done, if it can be done at all."""
    highest = max(states, key=sum)
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for levels, cut in sorted(states.items(), key=lambda s: (len(s[1]), [-x for x in s[0]])):
        if not any(all(a >= b for a, b in zip(other, levels, strict=True)) for other in found):
            found[levels] = cut
            if len(found) == STATES:
                found[highest] = states[highest]
                break
    return found
