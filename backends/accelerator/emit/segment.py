"""A segment of fused layers in local memory: where rings, weights and tiles lie, and what runs when.

    for a band of rows:  for a layer:  its rows of the band, from ring to ring; what leaves goes to DRAM besides

Rings and weights that stay have addresses of their own as long as they are needed; tiles of the layer at work take what
is left (interval packing, allocate.py). Layers meet at a `sync`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..allocate import Buffer, place
from ..fusion.bands import Band, Rows, bands_of, rings_of
from ..fusion.candidate import Candidate
from ..fusion.steps import Step
from ..hierarchy import Hierarchy, Store
from ..isa.instructions import LINE
from ..layer import Layer
from ..mapping import Mapping as LayerMapping
from .contraction import Buffers, Kept
from .tiles import Span

__all__ = ["Together", "laid_out", "rows_layer"]

Tiles = Mapping[tuple[Span, ...], tuple[int, int, int]]


@dataclass(frozen=True)
class Together:
    """A segment that fits. Addresses count from the start of the memory of their store, `homes` by operand.

    `kept`: rings by tensor; `weights`: tiles that stay, by step; `buffers`: of each step, by operand.
    """

    steps: range
    mappings: tuple[LayerMapping, ...]
    bands: tuple[Band, ...]
    cached: bool
    loaded: tuple[int, ...]
    kept: dict[int, Kept]
    weights: dict[int, dict[tuple[Span, ...], int]]
    buffers: tuple[dict[str, Buffers], ...]
    homes: dict[str, str]
    peak: dict[str, int]
    kind: object = None


def rows_layer(layer: Layer, rows: Rows) -> Layer:
    """A layer on some rows of its output: pads say where they begin in the input, which keeps its coordinates."""
    sizes = list(layer.sizes)
    sizes[4] = rows[1] - rows[0]
    pads = (layer.pads[0] - rows[0] * layer.strides[0], layer.pads[1])
    made: tuple[int, int, int, int, int, int, int, int] = tuple(sizes)  # type: ignore[assignment]
    return replace(layer, sizes=made, pads=pads)


def laid_out(
    steps: Sequence[Step],
    candidate: Candidate,
    mappings: Sequence[LayerMapping],
    layers: Sequence[Layer],
    machine: Hierarchy,
    leaving: set[int],
    sizes: Callable[[int], dict[str, int]],
    places: Callable[[int], Tiles],
    shape: Callable[[int], tuple[int, int, int]],
) -> Together | str:
    """Addresses for a segment, or why it has none.

    `layers`, `mappings`: of its steps in order. `sizes`: bytes of a step's tiles by operand; `places`: its weights'
    tiles as stored; `shape`: [channels, rows, columns] of a tensor.
    """
    a, cut = candidate.steps.start, candidate.stripes
    if cut.chunks > 1 or cut.images < cut.of[0]:
        return "it takes groups or images apart"
    part = [steps[i] for i in candidate.steps]
    bands = bands_of(part, a, cut, leaving)
    readers: dict[int, list[int]] = {}
    for i in candidate.steps:
        for r in steps[i].reads:
            if r.tensor in candidate.steps or r.tensor in candidate.loaded:
                readers.setdefault(r.tensor, []).append(i)
    rings = rings_of(bands, set(readers), cached=cut.cached)
    homes = {x: s.name for x in "WIO" for s in reversed(machine.tiers[0]) if x in s.holds}
    if set(homes) != set("WIO"):
        return "a memory of the first tier lacks an operand"
    always = (a, candidate.steps.stop - 1)
    buffers: dict[str, list[Buffer]] = {s.name: [] for s in machine.tiers[0]}
    kept: dict[int, Kept] = {}
    for t, by in readers.items():
        c, h, w = shape(t)
        rows = min(rings[t], h)
        kept[t] = Kept(0, rows, w * c, c)
        span = always if cut.cached else (t if t >= a else by[0], by[-1])
        buffers[homes["I"]].append(Buffer(f"t{t}", _lines(rows * w * c), *span))
    for i in candidate.resident:
        total = sum(_lines(count) for _, _, count in places(i).values())
        buffers[homes["W"]].append(Buffer(f"w{i}", total, *always))
    copies: dict[tuple[int, str], int] = {}
    for i in candidate.steps:
        near = {"W"} if i in candidate.resident else set()
        near |= {"I"} if any(r.role == "I" and r.tensor in kept for r in steps[i].reads) else set()
        if "I" in near and _split(layers[i - a], mappings[i - a]):
            return "a tile has parts of several groups"
        for x, size in sizes(i).items():
            if x not in near:
                store = next(s for s in machine.tiers[0] if s.name == homes[x])
                copies[i, x] = 1 if x == "O" and i in kept and homes["I"] == homes["O"] else store.copies
                buffers[store.name].append(Buffer(f"{x}{i}", copies[i, x] * size, i, i))
    at: dict[str, dict[str, int]] = {}
    peak: dict[str, int] = {}
    for store in machine.tiers[0]:
        room = _room(store, len(buffers[store.name]))
        at[store.name], peak[store.name] = _packed(buffers[store.name], room)
        if peak[store.name] > room:
            return f"`{store.name}` is too small for {peak[store.name]} bytes"
    weights: dict[int, dict[tuple[Span, ...], int]] = {}
    for i in candidate.resident:
        local, weights[i] = at[homes["W"]][f"w{i}"], {}
        for tile, (_, _, count) in places(i).items():
            weights[i][tile] = local
            local += _lines(count)
    own = tuple(
        {x: Buffers(at[homes[x]][f"{x}{i}"], copies[i, x], n) for x, n in sizes(i).items() if (i, x) in copies}
        for i in candidate.steps
    )
    return Together(
        candidate.steps,
        tuple(mappings),
        tuple(bands),
        cut.cached,
        candidate.loaded,
        {t: replace(k, base=at[homes["I"]][f"t{t}"]) for t, k in kept.items()},
        weights,
        own,
        homes,
        peak,
    )


def _split(layer: Layer, mapping: LayerMapping) -> bool:
    """Whether a tile of the input is no run of channels."""
    e, tiles = layer.extent, {d: t[0] for d, t in mapping.tiles.items()}
    return min(tiles["G"], e["G"]) > 1 and tiles["C"] < e["C"]


def _packed(buffers: Sequence[Buffer], room: float) -> tuple[dict[str, int], int]:
    """Addresses, and where the last buffer ends: by size, or with what stays at both ends and tiles between.

    In a chain every tensor lives while the next is made, so tensors that lie at either end by turns leave one piece of
    memory to the tiles of each step; all such ways are tried.
    """
    found = place(buffers)
    if found.peak <= room or room == float("inf"):
        return found.addresses, found.peak
    end = int(room) // LINE * LINE
    stays = sorted((b for b in buffers if b.name[0] in "tw"), key=lambda b: (b.first - b.last, b.first, b.name))
    tiles = sorted((b for b in buffers if b.name[0] not in "tw"), key=lambda b: (-b.size, b.name))
    for sides in itertools.product((False, True), repeat=len(stays)):
        taken: list[tuple[int, Buffer]] = []
        for one, high in [*zip(stays, sides, strict=True), *((t, False) for t in tiles)]:
            at = _gap(one, taken, end, high=high)
            if at is None:
                break
            taken.append((at, one))
        else:
            return {b.name: at for at, b in taken}, max(at + b.size for at, b in taken)
    return found.addresses, found.peak


def _gap(one: Buffer, taken: Sequence[tuple[int, Buffer]], end: int, *, high: bool) -> int | None:
    """The lowest (highest) place for a buffer among those of its time."""
    others = sorted((at, at + b.size) for at, b in taken if b.first <= one.last and one.first <= b.last)
    gaps, low = [], 0
    for start, stop in [*others, (end, end)]:
        if start - low >= one.size:
            gaps.append((low, start))
        low = max(low, stop)
    if not gaps:
        return None
    return gaps[-1][1] - one.size if high else gaps[0][0]


def _room(store: Store, buffers: int) -> float:
    """Bytes of a store, and what is lost at the ends of lines."""
    return store.capacity / 8 + LINE * (buffers + 4)


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE
