"""A mapping executed loop by loop, element by element: what the closed forms of `counting.py` must agree with.

Written from the rules in the docstring of `counting.py`, with nothing of its code: tiles are ranges, tensors are sets
of coordinates, and every load is an event. Slow; for layers of a few thousand multiplications.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

DIMS = "NGKCPQRS"
CHANGES = {"W": "GKCRS", "I": "NGCPQRS", "O": "NGKPQ"}
Ranges = dict[str, tuple[int, int]]


class Machine:
    """Memories by tier: [{operand: (name, ...)}]; `held` operands stay in the elements."""

    def __init__(self, tiers: Sequence[dict[str, str]], held: str, halo: bool) -> None:
        self.tiers, self.held, self.halo = list(tiers), held, halo


def extent_of(tile: tuple[int, int]) -> int:
    return tile[1] - tile[0]


def split(tile: tuple[int, int], size: int) -> Iterator[tuple[int, int]]:
    for a in range(tile[0], tile[1], size):
        yield a, min(a + size, tile[1])


def elements(x: str, tile: Ranges, layer: Any, *, clip: bool) -> set[tuple[int, ...]]:
    """The coordinates of an operand that a tile uses."""
    if x != "I":
        return set(itertools.product(*(range(*tile[d]) for d in CHANGES[x])))
    lines = []
    for p, r, axis in (("P", "R", 0), ("Q", "S", 1)):
        stride, dilation, pad, image = layer.strides[axis], layer.dilations[axis], layer.pads[axis], layer.image[axis]
        at = {i * stride + j * dilation - pad for i in range(*tile[p]) for j in range(*tile[r])}
        lines.append({a for a in at if 0 <= a < image} if clip else at)
    return set(itertools.product(*(range(*tile[d]) for d in "NGC"), *lines))


def execute(layer: Any, tiles: dict[str, Sequence[int]], loops: Sequence[Sequence[str]], machine: Machine) -> Any:
    """Counter of (memory, operand, "read" | "write"), steps, and of each outermost step what tier 1 took in for it."""
    nests = len(loops)  # nest t iterates over tiles[d][t]
    sizes = dict(zip(DIMS, layer.sizes, strict=True))
    full = [dict(sizes), *({d: tiles[d][t] for d in DIMS} for t in range(nests))]
    every = [(t, d) for t in range(nests) for d in loops[t]]
    trips = {(t, d): -(-full[t][d] // full[t + 1][d]) for t, d in every}
    flat = [at for at in every if trips[at] > 1]  # the others iterate once
    outermost = sum(t == 0 for t, _ in flat)
    counts: Counter[tuple[str, str, str]] = Counter()
    log: list[set[str]] = []
    step: tuple[int, ...] | None = None
    steps = 0

    def depth(x: str, tier: int) -> int:
        """How many of the loops above a tier decide what x is there."""
        deep = 0
        for i, (t, d) in enumerate(flat):
            if t < tier and d in CHANGES[x]:
                deep = i + 1
        return deep

    paths: dict[str, list[tuple[int, str]]] = {}
    for x in "WIO":
        paths[x] = [(t, m[x]) for t, m in enumerate(machine.tiers) if x in m]
    array = nests  # the tier of array tiles
    last: dict[tuple[str, int], Any] = {}
    kept: dict[tuple[str, int], Any] = {}
    seen: dict[tuple[str, int], set[Any]] = {}

    def bring(x: str, tier: int, outer: tuple[int, str], inner: str, tile: Ranges, counter: tuple[int, ...]) -> None:
        at = depth(x, tier)
        key = counter[:at]
        if last.get((x, tier)) == key:
            return
        wanted = elements(x, tile, layer, clip=outer[0] == 0 and tier == 1)
        moved = wanted
        if x == "I" and tier == 1 and outer[0] == 0 and machine.halo and at:
            changer = flat[at - 1][1]
            sweeps = changer in "PQ" and layer.dilations["PQ".index(changer)] == 1
            # a sweep: nothing outside of the innermost changing loop has moved, and that loop is P or Q
            if sweeps and (x, tier) in kept and last[x, tier][:-1] == key[:-1]:
                moved = wanted - kept[x, tier]
            kept[x, tier] = wanted  # what is kept is the tile before, no more
        last[x, tier] = key
        if tier == 1:
            log[-1].add(x)
        if x != "O":
            counts[outer[1], x, "read"] += len(moved)
            if tier == array:
                counts[inner, x, "write"] += spread(x, tile, wanted)
            else:
                counts[inner, x, "write"] += len(moved)
            return
        copies = spread(x, tile, wanted) if tier == array else len(wanted)
        back = wanted & seen.setdefault((x, tier), set())
        counts[outer[1], x, "write"] += len(wanted)
        counts[outer[1], x, "read"] += len(back)
        counts[inner, x, "read"] += copies
        counts[inner, x, "write"] += len(back)
        seen[x, tier] |= wanted

    def spread(x: str, tile: Ranges, wanted: set[Any]) -> int:
        """Writes of all elements of the array, each its own tile."""
        total = 0
        own = [d for d in DIMS if d not in CHANGES[x]]
        part = {d: list(split(tile[d], tiles[d][-1])) for d in DIMS}
        for combo in itertools.product(*(part[d] for d in CHANGES[x])):
            piece = {**tile, **dict(zip(CHANGES[x], combo, strict=True))}
            total += len(elements(x, piece, layer, clip=False))
        return total * math.prod(len(part[d]) for d in own)

    ranges: list[Ranges] = [{d: (0, n) for d, n in sizes.items()} for _ in range(nests + 1)]

    def walk(i: int, counter: tuple[int, ...]) -> None:
        if i == len(flat):
            finish(ranges, counter)
            return
        t, d = flat[i]
        around = ranges[t][d]
        for n, piece in enumerate(split(around, full[t + 1][d])):
            for inner in ranges[t + 1 :]:
                inner[d] = piece
            walk(i + 1, (*counter, n))
        for inner in ranges[t + 1 :]:
            inner[d] = around

    def finish(ranges: list[Ranges], counter: tuple[int, ...]) -> None:
        nonlocal steps, step
        if counter[:outermost] != step:
            step = counter[:outermost]
            log.append(set())
        for x in "WIO":
            for outer, inner in itertools.pairwise(paths[x]):
                bring(x, inner[0], outer, inner[1], ranges[inner[0]], counter)
            if x in machine.held:
                bring(x, array, paths[x][-1], "element", ranges[array], counter)
        tile = ranges[array]
        steps += math.prod(min(tiles[d][-1], extent_of(tile[d])) for d in DIMS)
        multiply(tile)

    def multiply(tile: Ranges) -> None:
        """Every step of the array: step i of an element is its i-th entry along each loop."""
        parts = {d: [list(range(*p)) for p in split(tile[d], tiles[d][-1])] for d in DIMS}
        longest = {d: max(map(len, parts[d])) for d in DIMS}
        for step in itertools.product(*(range(longest[d]) for d in DIMS)):
            now = {d: [p[s] for p in parts[d] if s < len(p)] for d, s in zip(DIMS, step, strict=True)}
            macs = math.prod(len(v) for v in now.values())
            for x in "WIO":
                if x in machine.held:
                    counts["element", x, "read" if x != "O" else "write"] += macs
                    continue
                used = set(itertools.product(*(now[d] for d in CHANGES[x] if x != "I" or d in "NGC")))
                if x == "I":
                    lines = []
                    for p, r, axis in (("P", "R", 0), ("Q", "S", 1)):
                        a, b = layer.strides[axis], layer.dilations[axis]
                        lines.append({i * a + j * b for i in now[p] for j in now[r]})
                    used = set(itertools.product(used, *lines))
                where = paths[x][-1][1]
                if x != "O":
                    counts[where, x, "read"] += len(used)
                    continue
                known = seen.setdefault((x, -1), set())
                counts[where, x, "write"] += len(used)
                counts[where, x, "read"] += len(used & known)
                known |= used

    walk(0, ())
    return counts, steps, log
