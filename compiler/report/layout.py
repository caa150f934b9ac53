"""Where the nodes of a drawing go: a layered layout (Sugiyama, Tagawa and Toda 1981), from the inputs down.

Every node sits on the layer after its last operand; an edge across several layers gets a waypoint on each of them, so
that it keeps clear of the boxes between. Order within layers comes from barycentre sweeps; positions from least
squares: each node wants to be above the middle of its neighbours, and isotonic regression finds the closest positions
that keep the order and the gaps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Layout", "layout"]

SWEEPS = 12
WAYPOINT = 18.0  # width that a passing edge takes


@dataclass(frozen=True)
class Layout:
    """Centres of the nodes, waypoints of the edges (reader, operand index) from the top, and the extent of it all."""

    x: tuple[float, ...]
    layer: tuple[int, ...]
    routes: dict[tuple[int, int], tuple[tuple[float, int], ...]]
    width: float
    layers: int


def layout(reads: Sequence[Sequence[int]], widths: Sequence[float], gap: float) -> Layout:
    """Place nodes given by their operands (`reads[i]` are positions before i) and their widths."""
    layer = _layers(reads)
    count = max(layer, default=-1) + 1
    size = list(widths)
    above: list[list[int]] = [[] for _ in reads]
    level = list(layer)
    chains: dict[tuple[int, int], list[int]] = {}
    shared: dict[tuple[int, int], int] = {}  # an operand's edges run together while they can
    for i, operands in enumerate(reads):
        for k, operand in enumerate(operands):
            last, chain = operand, []
            for at in range(layer[operand] + 1, layer[i]):
                made = shared.get((operand, at))
                if made is None:
                    made = shared[operand, at] = len(size)
                    size.append(WAYPOINT)
                    level.append(at)
                    above.append([last])
                chain.append(made)
                last = made
            above[i].append(last)
            chains[i, k] = chain
    rows = [[v for v in range(len(size)) if level[v] == r] for r in range(count)]
    below: list[list[int]] = [[] for _ in size]
    for v, operands in enumerate(above):
        for operand in operands:
            below[operand].append(v)
    _order(rows, above, below)
    x = _positions(rows, above, below, size, gap)
    left = min((x[v] - size[v] / 2 for v in range(len(size))), default=0.0)
    x = [value - left for value in x]
    width = max((x[v] + size[v] / 2 for v in range(len(size))), default=0.0)
    routes = {edge: tuple((x[v], level[v]) for v in chain) for edge, chain in chains.items()}
    return Layout(tuple(x[: len(reads)]), tuple(layer), routes, width, count)


def _layers(reads: Sequence[Sequence[int]]) -> list[int]:
    """The longest path from a source; sources without operands sit right above their first reader."""
    layer = [0] * len(reads)
    for i, operands in enumerate(reads):
        layer[i] = max((layer[o] + 1 for o in operands), default=0)
    first: dict[int, int] = {}
    for i, operands in enumerate(reads):
        for o in operands:
            first[o] = min(first.get(o, layer[i]), layer[i])
    return [first[i] - 1 if not operands and i in first else layer[i] for i, operands in enumerate(reads)]


def _order(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """Sort each layer by the middle of its neighbours, down and up in turn; the order with fewest crossings stays."""
    place = {v: i for row in rows for i, v in enumerate(row)}
    best, kept = _crossings(rows, above, place), [list(row) for row in rows]
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for row in rows if down else reversed(rows):
            middle = {v: sum(place[n] for n in near[v]) / len(near[v]) if near[v] else float(place[v]) for v in row}
            row.sort(key=middle.__getitem__)
            place.update({v: i for i, v in enumerate(row)})
        found = _crossings(rows, above, place)
        if found < best:
            best, kept = found, [list(row) for row in rows]
        if not best:
            break
    for row, good in zip(rows, kept, strict=True):
        row[:] = good


def _crossings(rows: list[list[int]], above: list[list[int]], place: dict[int, int]) -> int:
    """How often edges between neighbouring layers cross: inversions of their upper ends in the order of the lower."""
    total = 0
    for row in rows:
        ends = [end for v in row for end in sorted(place[o] for o in above[v])]
        seen: list[int] = []
        for end in ends:
            at = bisect_right(seen, end)
            total += len(seen) - at
            seen.insert(at, end)
    return total


def _positions(
    rows: list[list[int]], above: list[list[int]], below: list[list[int]], size: list[float], gap: float
) -> list[float]:
    x = [0.0] * len(size)
    for row in rows:
        at = 0.0
        for v in row:
            x[v] = at + size[v] / 2
            at += size[v] + gap
        for v in row:
            x[v] -= at / 2
    for sweep in range(2 * SWEEPS + 1):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            _settle(row, near, x, size, gap)
    return x


def _settle(row: list[int], near: list[list[int]], x: list[float], size: list[float], gap: float) -> None:
    """Move nodes as close to the middle of their neighbours as order and gaps allow (pool adjacent violators)."""
    offset, at = [], 0.0
    for i, v in enumerate(row):
        at += size[v] / 2 + (gap + size[row[i - 1]] / 2 if i else 0.0)
        offset.append(at)
    # A block is its position and its members. All weigh the same: what stands beside a long edge is then centred,
    # together with it, below what both came from, and a backbone with shortcuts runs straight down.
    blocks: list[tuple[float, int]] = []
    for v, o in zip(row, offset, strict=True):
        block = ((sum(x[n] for n in near[v]) / len(near[v]) if near[v] else x[v]) - o, 1)
        while blocks and blocks[-1][0] > block[0]:
            position, members = blocks.pop()
            count = members + block[1]
            block = ((position * members + block[0] * block[1]) / count, count)
        blocks.append(block)
    i = 0
    for position, members in blocks:
        for _ in range(members):
            x[row[i]] = position + offset[i]
            i += 1
