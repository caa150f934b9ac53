"""Candidates for one linear layer: packings of its result, each with a plan of rotations that gets there.

Slot addresses are read as bits. A result may take some bits, folds others (their partial sums are added up), and
diagonals the rest: so a plan is a choice of bits, and the number of products is two to the number of diagonal bits.

* A dense layer whose input fills addresses of k bits above bit a: result r at r * 2^f, folds over the bits [a, f) and
  [g, k), diagonals 0 .. 2^(g-f) in steps of 2^f. (f, g) = (0, rows) is the hybrid diagonal method of GAZELLE, (f, k)
  has rows interleaved; input copies make room for either. Rows whose number is no power of two have as many diagonals
  as there are rows when the folds are that number times powers of two, instead of bits.
* A convolution keeps the pixels where they are: a stride leaves gaps, into which channels go that do not fit into the
  blocks ("multiplexed packing", Lee et al. 2022), or partial sums of taps, which a fold then adds up.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...ir.diagonals import LinearMap, Plan, conv_map, dense_map
from ...ir.packing import Digits, Packing

__all__ = ["Candidate", "Geometry", "candidates", "split"]

PRODUCT = 0.06  # what a product costs beside a rotation
KEY = 0.4  # what a key is worth in rotations: memory, and time to make and send it
SAMPLES = 37  # results that are checked before a plan is believed
MOST_BABIES = 64  # ciphertexts held at once


@dataclass(frozen=True)
class Geometry:
    """What a linear layer looks like. `window` is empty for a dense one; shapes are [C, H, W] or [n]."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    window: tuple[int, int] = ()  # type: ignore[assignment]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    groups: int = 1


@dataclass(frozen=True)
class Candidate:
    """A packing of the result and the plan that computes it; `products` counts diagonals before zero ones go."""

    target: Packing
    plan: Plan
    products: int

    @property
    def cost(self) -> float:
        """In rotations, without keys."""
        return self.plan.rotations + PRODUCT * self.products


@functools.lru_cache(4096)
def split(progressions: tuple[tuple[int, int], ...], folds: tuple[int, ...]) -> Plan:
    """Baby and giant steps for diagonals at all sums of the progressions, with the fewest rotations, then keys."""
    choices = []
    for n, step in progressions:
        sizes = sorted({b for b in range(1, n + 1) if n % b == 0 or b & (b - 1) == 0})
        choices.append([(b, -(-n // b), step) for b in sizes])
    best: tuple[tuple[float, int], Plan] | None = None
    for chosen in itertools.product(*choices):
        babies = math.prod(b for b, _, _ in chosen)
        giants = math.prod(g for _, g, _ in chosen)
        if babies > MOST_BABIES:
            continue
        keys = sum((b > 1) + (g > 1) for b, g, _ in chosen)
        rank = (babies + giants + KEY * keys, babies)
        if best is None or rank < best[0]:
            b = tuple((b, s) for b, _, s in chosen if b > 1)
            g = tuple((g, s * b) for b, g, s in chosen if g > 1)
            best = rank, Plan(b, g, folds)
    assert best is not None
    return best[1]


def candidates(source: Packing, of: Geometry) -> Iterator[Candidate]:
    """Plans for a layer on a packed input, the cheapest first, one for each packing of the result."""
    found, linear = _image(source, of) if of.window else _dense(source, of), _map(of)
    best: set[Packing] = set()
    for one in sorted(found, key=lambda c: c.cost):
        if one.target not in best and _works(source, one, linear):
            best.add(one.target)
            yield one


# --- dense layers ---------------------------------------------------------------------------------------------------


def _bits(n: int) -> int:
    return max(0, (n - 1).bit_length())


def _range_bits(low: int, high: int) -> tuple[int, ...]:
    return tuple(1 << i for i in range(low, high))


def _dense(source: Packing, of: Geometry) -> list[Candidate]:
    rows, slots = math.prod(of.target), source.slots
    top, rho = _bits(slots), _bits(rows)
    count, apart, skew = source.copies
    relative = (source.positions.reshape(-1) - source.base) % slots
    period = _bits(apart) if count > 1 else top
    low = min((int(p) & -int(p)).bit_length() - 1 for p in relative if p) if relative.any() else 0
    high = _bits(int(relative.max()) + 1)
    k = period if count > 1 else high
    made = []
    for f in range(low, k + 1):
        for g in range(f, k + 1):
            if skew or f + rho > (g if g < k else top):
                continue
            folds = (*_range_bits(low, f), *_range_bits(g, k))
            step, n = 1 << f, 1 << (g - f)
            target = Packing(of.target, slots, _row_major(of.target, step), source.base)
            if f == low == 0 and rho <= g and (k == top or count << k == slots):
                target = replace(target, copies=(slots >> g, 1 << g, 0) if g < top else (1, 0, 0))
            made.append(_candidate(target, ((n, step),), folds))
    for g in range(low, k + 1):  # nothing wraps around: the diagonals span all shifts of results against elements
        if (low + rho <= g or g == k) and not skew:
            step, n = 1 << low, (1 << (g - low)) + rows - 1
            base = (source.base - (rows - 1) * step) % slots
            target = Packing(of.target, slots, _row_major(of.target, step), base)
            made.append(_candidate(target, ((n, step),), _range_bits(g, k)))
    if rows & (rows - 1) and not skew:
        for period in sorted({-(-rows // unit) * unit for unit in (1, 2, 4, 8)}):  # some have more even factors
            step = 1 << low
            times = (int(relative.max()) // step + period - 1) // period + 1
            folds = tuple(period * step << i for i in range(_bits(times)))
            base = (source.base - (period - 1) * step) % slots
            target = Packing(of.target, slots, _row_major(of.target, step), base)
            made.append(_candidate(target, ((period, step),), folds))
    if skew:  # copies turned against each other: each sees other diagonals
        folds = _range_bits(rho, top)
        target = Packing(of.target, slots, _row_major(of.target, 1), source.base, (slots >> rho, 1 << rho, 0))
        made.append(Candidate(target, split(((skew, 1),), folds), skew))
    return made


def _row_major(shape: tuple[int, ...], stride: int) -> tuple[Digits, ...]:
    return Packing.dense(shape, 1, stride).axes


def _candidate(target: Packing, steps: tuple[tuple[int, int], ...], folds: tuple[int, ...]) -> Candidate:
    return Candidate(target, split(steps, folds), math.prod(n for n, _ in steps))


def _map(of: Geometry) -> LinearMap:
    if not of.window:
        return dense_map(math.prod(of.target), math.prod(of.source))
    weights = (of.target[0], of.source[0] // of.groups, *of.window)
    return conv_map(of.source, weights, of.target[1:], of.strides, of.pads, of.groups)  # type: ignore[arg-type]


def _works(source: Packing, one: Candidate, of: LinearMap) -> bool:
    """Whether no partial sums of two results meet, and results all over the shape see all that they are made of."""
    n, out, plan = source.slots, one.target.everywhere, one.plan
    rows = np.arange(of.rows)
    owner = np.full(n, -1, np.int64)
    for phi in plan.fold_offsets:
        slots = (out + phi) % n
        held = owner[slots]
        if ((held >= 0) & (held != rows)).any():
            return False
        owner[slots] = rows
    offsets = np.add.outer(np.array(plan.giant_offsets), np.array(plan.baby_offsets))
    reached = np.zeros(n, bool)
    reached[np.add.outer(np.array(plan.fold_offsets), offsets) % n] = True
    reach = np.flatnonzero(reached)
    for r in np.unique(np.linspace(0, of.rows - 1, SAMPLES).astype(int)):
        met = np.zeros(source.size + 1, bool)
        met[source.content[(out[0, r] + reach) % n]] = True  # the last one: slots without an element
        if int(of.index(np.array(r), np.flatnonzero(met[:-1]))[1].sum()) != int(of.fan(r)):
            return False
    return True


# --- convolutions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """Blocks of pixels: strides of a pixel row and column, and of what the gaps between them leave free."""

    block: int
    row: int  # slots from one row of the finest grid to the next
    gap: tuple[int, int]  # pixels of the finest grid from one pixel to the next, downwards and to the right

    @classmethod
    def of(cls, p: Packing) -> _Grid:
        (_, sy), (_, sx) = p.axes[1][0], p.axes[2][0]
        fine = 1 << _bits(p.axes[2][0][0] * sx)
        row = min(fine, sy)
        rows = 1 << _bits(p.axes[1][0][0] * (sy // row))
        return cls(rows * row, row, (sy // row, sx))


def _image(source: Packing, of: Geometry) -> list[Candidate]:
    grid, slots = _Grid.of(source), source.slots
    blocks = slots // grid.block
    maps = of.target[0]
    gap = (grid.gap[0] * of.strides[0], grid.gap[1] * of.strides[1])
    gaps = [grid.row << i for i in range(_bits(gap[0]))] + [1 << i for i in range(_bits(gap[1]))]
    need = _bits(maps)
    made = []
    for inside in range(max(0, need - _bits(blocks)), min(need, len(gaps)) + 1):
        in_blocks = need - inside
        for places in itertools.combinations(gaps, inside):
            free = [s for s in gaps if s not in places]
            for count in range(len(free) + 1):
                for spatial in itertools.combinations(free, count):
                    for f, g in _block_bits(source, grid, blocks, in_blocks):
                        made.append(_conv(source, of, grid, gap, places, spatial, (in_blocks, f, g)))
    return [c for c in made if c is not None]


def _block_bits(source: Packing, grid: _Grid, blocks: int, need: int) -> list[tuple[int, int]]:
    """(f, g) as for dense layers, on the bits that count blocks."""
    top = _bits(blocks)
    used = [s // grid.block * e for e, s in source.axes[0] if s >= grid.block]
    k = top if source.copies[0] == 1 else _bits(source.copies[1] // grid.block)
    k = min(k, max(_bits(max(used, default=1)), 0)) if source.copies[0] > 1 else top
    return [(f, g) for f in range(k + 1) for g in range(f, k + 1) if f + need <= (g if g < k else top)]


def _conv(
    source: Packing,
    of: Geometry,
    grid: _Grid,
    gap: tuple[int, int],
    places: tuple[int, ...],
    spatial: tuple[int, ...],
    chosen: tuple[int, int, int],
) -> Candidate | None:
    in_blocks, f, g = chosen
    slots, block, row = source.slots, grid.block, grid.row
    blocks = slots // block
    (maps, p, q), channels = of.target, of.source[0]
    if max(p, q) > 1 and (((p - 1) * gap[0] + 1) * row > block or (q - 1) * gap[1] >= row):
        return None  # the result is larger than the block
    digits: Digits = ((1 << in_blocks, block << f),) if in_blocks else ()
    digits += tuple((2, s) for s in places)
    axes = (digits or ((1, 1),), ((p, gap[0] * row),), ((q, gap[1]),))
    into, out = _parts(source.axes[0], channels, block, row), _parts(axes[0], maps, block, row)
    if of.groups == 1:
        pairs = (into[None] - out[:, None]).reshape(-1, 3)
    else:
        owner = np.arange(maps) // (maps // of.groups) * (channels // of.groups)
        pairs = np.concatenate([into[owner + i] - out for i in range(channels // of.groups)])
    pairs[:, 0] %= blocks
    pairs = np.unique(pairs, axis=0)
    taps = [
        (0, (ky - of.pads[0]) * grid.gap[0], (kx - of.pads[1]) * grid.gap[1])
        for ky in range(of.window[0])
        for kx in range(of.window[1])
    ]
    delta = (pairs[:, None] + np.array(taps)[None]).reshape(-1, 3)
    y = delta[:, 1]
    x = delta[:, 2]
    for s in spatial:
        if s >= row:
            y = y - (y // (s // row) % 2) * (s // row) if s == row else y
        else:
            x = x - (x // s % 2) * s if s == 1 else x
    ys, xs = _progression(y, row), _progression(x, 1)
    k = _bits(blocks) if source.copies[0] == 1 else max(g, _bits(source.copies[1] // block))
    if k < _bits(blocks) and source.copies[0] << k != blocks:
        return None
    n_blocks = 1 << (g - f)
    if source.copies[0] == 1 and g - f and not np.any(delta[:, 0]):
        n_blocks = 1
    folds = (*[block << i for i in range(f)], *[block << i for i in range(g, k)], *spatial)
    shift = ys[0] * row + xs[0]
    target = Packing(of.target, slots, axes, (source.base + shift) % slots)
    if f == 0 and in_blocks <= g < _bits(blocks):
        target = replace(target, copies=(blocks >> g, block << g, 0))
    steps = ((n_blocks, block << f), (ys[2], ys[1] * row), (xs[2], xs[1]))
    return Candidate(target, split(tuple(s for s in steps if s[0] > 1), folds), n_blocks * ys[2] * xs[2])


def _parts(digits: Digits, count: int, block: int, row: int) -> np.ndarray:
    """How far a channel lies from the first: (blocks, rows, columns) of the finest grid."""
    found = np.zeros((count, 3), np.int64)
    index = np.arange(count)
    for extent, stride in digits:
        which, unit = (0, block) if stride >= block else (1, row) if stride >= row else (2, 1)
        found[:, which] += index % extent * (stride // unit)
        index = index // extent
    return found


def _progression(values: np.ndarray, unit: int) -> tuple[int, int, int]:
    """(first, step, count) of the progression that covers these offsets."""
    low, high = int(values.min()), int(values.max())
    step = int(np.gcd.reduce(values - low)) or 1
    return low, step, (high - low) // step + 1
