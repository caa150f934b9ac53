"""Linear maps on packed slots: the plan of rotations, and the plaintexts ("diagonals") that it multiplies by.

A plan computes, with rot(v, k)[t] = v[t + k] and sums over the grid of its steps,

    y = sum over folds of rot( sum over giants of rot( sum over babies of d[g, b] * rot(x, b), g ), fold )

(Halevi and Shoup's diagonals, 2014, with baby and giant steps; the folds add up partial sums that lie in several
slots). Steps come as progressions `count*step`: babies `8*1 3*32` are all a + 32 b with a < 8, b < 3, made one from the
other, so that a progression takes one rotation key, however long it is. Giants go by Horner's rule, likewise.

The diagonals are not stored: they follow from the packings and the weights.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .diagnostics import error
from .packing import Packing

__all__ = [
    "Algebra",
    "Counter",
    "Diagonals",
    "LinearMap",
    "Plan",
    "Slots",
    "conv_map",
    "dense_map",
    "diagonals",
    "run_plan",
]

Array = npt.NDArray[Any]
Progression = tuple[int, int]  # (count, step): 0, step, ... (count - 1) * step


def _offsets(progressions: tuple[Progression, ...]) -> list[int]:
    return [sum(c) for c in itertools.product(*[[i * s for i in range(n)] for n, s in progressions])]


@dataclass(frozen=True)
class Plan:
    """See the module. Babies and giants are progressions, the outermost first; folds are rotations that are added."""

    babies: tuple[Progression, ...] = ()
    giants: tuple[Progression, ...] = ()
    folds: tuple[int, ...] = ()

    @functools.cached_property
    def baby_offsets(self) -> list[int]:
        return _offsets(self.babies)

    @functools.cached_property
    def giant_offsets(self) -> list[int]:
        return _offsets(self.giants)

    @functools.cached_property
    def fold_offsets(self) -> list[int]:
        """Every sum of some of the folds: where the partial sums of a result come from."""
        return [sum(c) for c in itertools.product(*[(0, f) for f in self.folds])]

    @property
    def rotations(self) -> int:
        """At most: babies that no diagonal reads are left out when the plan runs."""
        return len(self.baby_offsets) + len(self.giant_offsets) - 2 + len(self.folds)

    @property
    def steps(self) -> set[int]:
        """The rotations that need a key before and in the giant steps, then those of the folds (`folds`)."""
        return {s for n, s in (*self.babies, *self.giants) if n > 1}

    def numbers(self) -> dict[str, tuple[int, ...]]:
        """As attributes of `he.linear`."""
        babies, giants = (tuple(itertools.chain.from_iterable(p)) for p in (self.babies, self.giants))
        return {"babies": babies, "giants": giants, "folds": self.folds}

    @classmethod
    def of(cls, babies: tuple[int, ...], giants: tuple[int, ...], folds: tuple[int, ...]) -> Plan:
        """The plan of those attributes."""
        first, second = (tuple(zip(v[::2], v[1::2], strict=True)) for v in (babies, giants))
        return cls(first, second, folds)


@dataclass(frozen=True)
class LinearMap:
    """Which weight stands between an element of the input and one of the result; elements are flat numbers.

    `index(rows, columns)` gives the index of the weight in w.flat, and whether there is one. Weights of one result are
    `fan_in` in number and follow each other.
    """

    rows: int
    columns: int
    fan_in: int
    index: Callable[[Array, Array], tuple[Array, Array]]
    uses: Array  # how many pairs (row, column) each weight stands between: int64[weights]
    fan: Callable[[int], int]  # of how many elements a result is made


def dense_map(rows: int, columns: int) -> LinearMap:
    """y = w x with w[rows, columns]."""

    def index(r: Array, c: Array) -> tuple[Array, Array]:
        found = r * columns + c
        return found, np.ones(found.shape, bool)

    return LinearMap(rows, columns, columns, index, np.ones(rows * columns, np.int64), lambda r: columns)


def conv_map(
    image: tuple[int, int, int],
    weights: tuple[int, int, int, int],
    result: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int] = (0, 0),
    groups: int = 1,
    rows: tuple[int, ...] = (),
    columns: tuple[int, ...] = (),
) -> LinearMap:
    """A convolution of [C, H, W] with w[M, C / groups, kh, kw] into [M, *result]; pads are at the top and left.

    With `rows` and `columns` there is one kernel for each kind of row and column of the result, and w is
    [kinds of rows, kinds of columns, M, C / groups, kh, kw] (ir/convolutions.py); `weights` are the last four extents.
    """
    (channels, h, w), (maps, each, kh, kw), (p, q) = image, weights, result
    row, column = np.array(rows or (0,) * p), np.array(columns or (0,) * q)
    kinds = int(column.max()) + 1

    def index(r: Array, c: Array) -> tuple[Array, Array]:
        m, py, px = r // (p * q), r // q % p, r % q
        ch, y, x = c // (h * w), c // w % h, c % w
        ky, kx = y - py * strides[0] + pads[0], x - px * strides[1] + pads[1]
        inside = (ky >= 0) & (ky < kh) & (kx >= 0) & (kx < kw) & (ch // each == m // (maps // groups))
        kernel = (row[py] * kinds + column[px]) * maps + m
        return ((kernel * each + ch % each) * kh + ky) * kw + kx, inside

    def fits(k: int, n: int, of: Array, stride: int, pad: int) -> Array:
        """[kinds, k]: how many results of each kind see something under each tap."""
        at = np.arange(k) + np.arange(len(of))[:, None] * stride - pad
        made = np.zeros((int(of.max()) + 1, k), np.int64)
        np.add.at(made, of, (at >= 0) & (at < n))
        return made

    def taps(k: int, n: int, at: int) -> int:
        return max(0, min(k, n - at) - max(0, -at))

    def fan(r: int) -> int:
        py, px = r // q % p, r % q
        return each * taps(kh, h, py * strides[0] - pads[0]) * taps(kw, w, px * strides[1] - pads[1])

    tall, wide = fits(kh, h, row, strides[0], pads[0]), fits(kw, w, column, strides[1], pads[1])
    window = tall[:, None, None, None, :, None] * wide[None, :, None, None, None, :]
    uses = np.broadcast_to(window, (len(tall), len(wide), maps, each, kh, kw)).reshape(-1)
    return LinearMap(maps * p * q, channels * h * w, each * kh * kw, index, uses, fan)


@dataclass(frozen=True)
class Diagonals:
    """For every (giant, baby) that matters: the slots that are not zero, and the weight that goes there.

    `entries[g, b]` is (slots, weight indices); the plaintext is `share * w.flat[index]` at those slots. The share is
    that of one among several equal partial sums (the same input element seen twice).
    """

    slots: int
    entries: dict[tuple[int, int], tuple[Array, Array, Array | None]]

    def __len__(self) -> int:
        return len(self.entries)

    def vector(self, giant: int, baby: int, weights: Array) -> Array:
        """The plaintext f64[slots] of one product."""
        at, index, share = self.entries[giant, baby]
        made = np.zeros(self.slots)
        values = weights.reshape(-1)[index].astype(np.float64)
        made[at] = values if share is None else values * share
        return made


def diagonals(plan: Plan, source: Packing, target: Packing, of: LinearMap, nonzero: Array | None = None) -> Diagonals:
    """The diagonals of a linear map from one packing to another; IG0541 when the plan cannot compute it.

    `nonzero` (bool, by weight) leaves out weights that are zero anyway. Each weight reaches each copy of its result
    exactly once: by its first diagonal, or, where the result has copies, by all that see its input in equal shares.
    """
    n, content, out = source.slots, source.content, target.everywhere
    owner = np.full(n, -1, np.int64)  # the result whose partial sum is in a slot
    for phi in plan.fold_offsets:
        slots = (out + phi) % n
        if ((owner[slots] >= 0) & (owner[slots] != np.arange(of.rows))).any():
            raise error("IG0541", "partial sums of two results would meet in one slot")
        owner[slots] = np.arange(of.rows)
    used = np.flatnonzero(owner >= 0)
    shared = out.shape[0] > 1
    seen = np.zeros(of.rows * of.fan_in, np.int32)
    entries: dict[tuple[int, int], tuple[Array, Array, Array | None]] = {}
    keys: dict[tuple[int, int], Array] = {}
    for g, b in itertools.product(dict.fromkeys(plan.giant_offsets), dict.fromkeys(plan.baby_offsets)):
        element = content[(used + (g + b)) % n]
        at = used[element >= 0]
        index, inside = of.index(owner[at], element[element >= 0])
        if nonzero is not None:
            inside[inside] = nonzero[index[inside]]
        at, index = at[inside], index[inside]
        key = owner[at] * of.fan_in + index % of.fan_in
        if shared:
            np.add.at(seen, key, 1)
        else:
            fresh = seen[key] == 0
            at, index, key = at[fresh], index[fresh], key[fresh]
            if source.copies[0] > 1:
                key, first = np.unique(key, return_index=True)
                at, index = at[first], index[first]
            seen[key] = 1
        if len(at):
            # a diagonal is multiplied before the giant rotation: rot(d * v, g) at slot t is d[t + g] * v[t + g]
            entries[g, b] = (((at + g) % n).astype(np.int32), index.astype(np.int32), None)
            keys[g, b] = key
    wanted = of.uses if nonzero is None else of.uses[nonzero]
    if int((seen > 0).sum()) != int(wanted.sum()):
        raise error("IG0541", f"the plan reaches {int((seen > 0).sum())} of {int(wanted.sum())} products")
    if shared:
        # the slots of one result, and how many of them each copy adds up
        holders = np.bincount(owner[used], minlength=of.rows) / len(plan.fold_offsets)
        for k, (at, index, _) in entries.items():
            share = holders[keys[k] // of.fan_in] / seen[keys[k]]
            entries[k] = (at, index, None if (share == 1.0).all() else share)
    return Diagonals(n, entries)


class Algebra(Protocol):
    """What a plan needs of whatever it runs on: slots, ciphertexts, IR nodes under construction, counters."""

    def rotate(self, x: Any, step: int) -> Any: ...

    def multiply(self, x: Any, key: tuple[int, int]) -> Any:
        """x times the diagonal (giant, baby)."""

    def add(self, x: Any, y: Any) -> Any: ...

    def rescale(self, x: Any) -> Any: ...


def run_plan(
    algebra: Algebra,
    x: Any,
    plan: Plan,
    keys: Collection[tuple[int, int]],
    rotated: dict[int, Any] | None = None,
    keep: Collection[int] = (),
) -> Any:
    """The plan with the diagonals `keys`; rescaled once, after the giant steps and before the folds.

    `rotated` holds x rotated by some offsets already; afterwards, x rotated by the offsets `keep`, as far as they are.
    """
    wanted: dict[int, list[int]] = {}
    for g, b in keys:
        wanted.setdefault(g, []).append(b)
    rotated = {} if rotated is None else rotated
    rotated[0] = x
    index = dict(zip(plan.baby_offsets, itertools.product(*[range(n) for n, _ in plan.babies]), strict=True))

    def baby(at: tuple[int, ...]) -> Any:
        """Made from its neighbour, one step back in the innermost progression that is not at its start."""
        offset = sum(digit * step for digit, (_, step) in zip(at, plan.babies, strict=True))
        if offset not in rotated:
            i = max(i for i, digit in enumerate(at) if digit)
            before = baby((*at[:i], at[i] - 1, *at[i + 1 :]))
            rotated[offset] = algebra.rotate(before, plan.babies[i][1])
        return rotated[offset]

    def giant(depth: int, offset: int) -> Any:
        if depth == len(plan.giants):
            total = None
            for b in wanted.pop(offset, ()):  # two sums of steps may be one offset
                term = algebra.multiply(baby(index[b]), (offset, b))
                total = term if total is None else algebra.add(total, term)
            return total
        count, step = plan.giants[depth]
        total = None
        for i in reversed(range(count)):  # Horner: one key for all of them
            total = None if total is None else algebra.rotate(total, step)
            inner = giant(depth + 1, offset + i * step)
            if inner is not None:
                total = inner if total is None else algebra.add(total, inner)
        return total

    total = giant(0, 0)
    for offset in rotated.keys() - set(keep):
        del rotated[offset]
    total = algebra.rescale(total)
    for fold in plan.folds:
        total = algebra.add(total, algebra.rotate(total, fold))
    return total


@dataclass
class Slots:
    """Slots in the clear: f64[slots]."""

    found: Diagonals
    weights: Array

    def rotate(self, x: Array, step: int) -> Array:
        return np.roll(x, -step)

    def multiply(self, x: Array, key: tuple[int, int]) -> Array:
        return x * self.found.vector(*key, self.weights)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def rescale(self, x: Array) -> Array:
        return x


@dataclass
class Counter:
    """Counts instead of computing; what it counts in place of a ciphertext is whether the rescaling was done."""

    rotations: int = 0
    products: int = 0
    additions: int = 0
    before: dict[int, int] = field(default_factory=dict)  # step -> how often, before the rescaling
    after: dict[int, int] = field(default_factory=dict)

    def rotate(self, x: bool, step: int) -> bool:
        where = self.after if x else self.before
        where[step] = where.get(step, 0) + 1
        self.rotations += 1
        return x

    def multiply(self, x: bool, key: tuple[int, int]) -> bool:
        self.products += 1
        return x

    def add(self, x: bool, y: bool) -> bool:
        self.additions += 1
        return x

    def rescale(self, x: bool) -> bool:
        return True
