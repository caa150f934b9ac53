"""Choosing packings: dynamic programming over the layers, with a beam of partial circuits.

A partial circuit is the packings of what was computed, and the rotation keys that it uses; a plan that gets along
with keys that are there already is cheaper than one that needs others. Where two values are summed, their packings
must agree but for a turn, which one rotation makes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ...ir.packing import Packing
from .network import Network
from .plans import KEY, Candidate, Geometry, candidates

__all__ = ["Chosen", "Client", "choose"]

BEAM = 12
PLANS = 6  # candidates of a layer that are followed


@dataclass(frozen=True)
class Client:
    """What the client packs: the input itself, or the pixels under each tap of the first convolution (im2col)."""

    packing: Packing
    geometry: Geometry | None = None  # of the first convolution; the packed tensor is [C * kh * kw, P, Q]


@dataclass(frozen=True)
class Chosen:
    """A packing for every value, a plan for every linear layer, a turn for every operand of a sum that needs one."""

    client: Client
    packings: tuple[Packing, ...]
    plans: dict[int, Candidate] = field(default_factory=dict)
    turns: dict[tuple[int, int], int] = field(default_factory=dict)
    keys: frozenset[int] = frozenset()
    cost: float = 0.0


def choose(network: Network, slots: int) -> Chosen | None:
    """The cheapest circuit found for that number of slots; None where the model does not fit."""
    memo: dict[tuple[Packing, Geometry], tuple[list[Candidate], Iterator[Candidate]]] = {}

    def plans(source: Packing, of: Geometry) -> Iterator[Candidate]:
        neutral = replace(source, base=0)
        found, more = memo.setdefault((neutral, of), ([], candidates(neutral, of)))
        for i in itertools.count():
            if i == len(found):
                one = next(more, None)
                if one is None:
                    return
                found.append(one)
            yield replace(found[i], target=_turned(found[i].target, source.base))

    first = network.layers[0]
    beam = [Chosen(c, (c.packing,)) for c in client_packings(network, slots)]
    if not beam or first.kind != "input":
        return None
    for i in range(1, len(network.layers)):
        grown = [after for one in beam for after in _extended(one, i, network, plans)]
        best: dict[tuple[str, ...], Chosen] = {}
        live = _live(network, i)
        for one in sorted(grown, key=lambda c: c.cost):
            best.setdefault(tuple(str(one.packings[j]) for j in live), one)
        beam = list(best.values())[:BEAM]
    return min(beam, key=lambda c: c.cost) if beam else None


def _turned(p: Packing, by: int) -> Packing:
    return replace(p, base=(p.base + by) % p.slots)


def _live(network: Network, done: int) -> list[int]:
    """Values that are still read after layer `done`."""
    return [j for j in range(done + 1) if j == network.output or any(u > done for u in network.users(j))]


def _partner(one: Chosen, i: int, network: Network) -> Packing | None:
    """The packing, without base and copies, of what the result of layer i will be summed with, if that is known."""
    for u in network.users(i):
        if network.layers[u].kind == "sum":
            for j in network.layers[u].inputs:
                if j < i:
                    return _shape_of(one.packings[j])
    return None


def _shape_of(p: Packing) -> Packing:
    return replace(p, base=0, copies=(1, 0, 0))


def _extended(
    one: Chosen, i: int, network: Network, plans: Callable[[Packing, Geometry], Iterator[Candidate]]
) -> list[Chosen]:
    layer = network.layers[i]
    source = one.packings[layer.inputs[0]]
    if layer.kind == "linear":
        assert layer.geometry is not None
        geometry = layer.geometry
        if one.client.geometry is not None and layer.inputs == (0,):
            geometry = Geometry(source.shape, geometry.target, (1, 1))
        made, partner = [], _partner(one, i, network)
        fitting = (c for c in plans(source, geometry) if partner is None or _shape_of(c.target) == partner)
        for plan in itertools.islice(fitting, PLANS if partner is None else 2):
            steps = frozenset(plan.plan.steps | set(plan.plan.folds))
            cost = one.cost + plan.cost + KEY * len(steps - one.keys)
            made.append(
                replace(
                    one,
                    packings=(*one.packings, plan.target),
                    plans={**one.plans, i: plan},
                    keys=one.keys | steps,
                    cost=cost,
                )
            )
        return made
    if layer.kind != "sum":
        return [replace(one, packings=(*one.packings, source))]
    target, turns, keys, cost = source, dict(one.turns), one.keys, one.cost
    for n, j in enumerate(layer.inputs[1:], 1):
        other = one.packings[j]
        if _shape_of(other) != _shape_of(target):
            return []
        turn = (other.base - target.base) % target.slots
        if turn:
            turns[i, n] = turn
            cost += 1 + KEY * (turn not in keys)
            keys = keys | {turn}
    copies = [one.packings[j].copies for j in layer.inputs]
    if any(c != copies[0] for c in copies):
        target = replace(target, copies=(1, 0, 0))
    return [replace(one, packings=(*one.packings, target), turns=turns, keys=keys, cost=cost)]


# --- the client -----------------------------------------------------------------------------------------------------


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()


def client_packings(network: Network, slots: int) -> list[Client]:
    """Packings of the input that fit, with copies in slots that would lie idle."""
    shape, users = network.layers[0].shape, network.users(0)
    found = []
    if len(shape) == 3:
        c, h, w = shape
        block, row = _power(h) * _power(w), _power(w)
        found.append(_filled((c, h, w), (((c, block),), ((h, row),), ((w, 1),)), _power(c) * block, slots))
    size = _power(math.prod(shape))
    flat = Packing.dense(shape, slots)
    if size <= slots:
        found.append(replace(flat, copies=(slots // size, size, 0)) if size < slots else flat)
        rows = [math.prod(network.layers[u].shape) for u in users]
        if len(rows) == 1 and slots > size and (turn := _power(rows[0]) * size // slots) and size >= _power(rows[0]):
            found.append(replace(flat, copies=(slots // size, size, turn)))
    clients = [Client(p) for p in found if p is not None]
    first = network.layers[users[0]].geometry if len(users) == 1 else None
    if first is not None and first.window and first.groups == 1:
        taps, (p, q) = shape[0] * math.prod(first.window), first.target[1:]
        block, row = _power(p) * _power(q), _power(q)
        im2col = _filled((taps, p, q), (((taps, block),), ((p, row),), ((q, 1),)), _power(taps) * block, slots)
        if im2col is not None:
            clients.append(Client(im2col, first))
    return clients


def _filled(
    shape: tuple[int, ...], axes: tuple[tuple[tuple[int, int], ...], ...], size: int, slots: int
) -> Packing | None:
    if size > slots:
        return None
    return Packing(shape, slots, axes, 0, (slots // size, size, 0) if size < slots else (1, 0, 0))
