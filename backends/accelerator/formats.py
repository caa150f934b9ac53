"""What zeros and narrow numbers cost: bits in memory, cycles and energy of the array. Shared by models and mapper.

Bits per element of the dense tensor, of b data bits each, at density d (the share of non-zeros):

    dense       b
    bitmask     b d + 1
    rlc:k       e (b + k)                 e = d / (1 - (1 - d)^(2^k)): entries, zeros that only carry a run on included
    csr         d (b + ceil(log2 n)) + pointers      n columns; a pointer for each row
    nm:N:M      N/M (b + ceil(log2 M))    N of every M are stored, whatever they are

`size_of` counts the same exactly on a mask that is known (weights); the formulas are its mean over random masks.
Sources: Sparseloop (MICRO 2022) for formats and actions; EIE (ISCA 2016) for the padding of runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "DENSE",
    "Format",
    "imbalance",
    "lane_cycles",
    "parse_format",
    "shares",
    "size_of",
]

Mask = npt.NDArray[Any]

KINDS = {"dense": 0, "bitmask": 0, "rlc": 1, "csr": 0, "nm": 2}
"""Formats and how many numbers follow after colons."""


@dataclass(frozen=True)
class Format:
    """A format of KINDS; `a` is k of rlc and N of nm, `m` is M."""

    kind: str = "dense"
    a: int = 0
    m: int = 0

    def __str__(self) -> str:
        return ":".join([self.kind, *(str(v) for v in (self.a, self.m)[: KINDS[self.kind]])])

    def stored(self, density: float) -> float:
        """Entries in memory per element of the dense tensor."""
        match self.kind:
            case "dense":
                return 1.0
            case "rlc":
                run = 2**self.a
                return 1 / run if density <= 1e-12 else density / (1 - (1 - density) ** run)
            case "nm":
                return self.a / self.m if self.fits(density) else 1.0
        return density

    def fits(self, density: float) -> bool:
        """Whether a tensor of that density can be N:M; a denser one stays dense in memory."""
        return self.kind != "nm" or density <= self.a / self.m + 1e-9

    def bits(self, width: float, density: float = 1.0, columns: int = 256, rows: int = 256) -> float:
        """Bits per element of the dense tensor [rows, columns] (csr alone depends on its shape)."""
        if not self.fits(density):
            return width
        entries = self.stored(density)
        match self.kind:
            case "bitmask":
                return entries * width + 1
            case "rlc":
                return entries * (width + self.a)
            case "csr":
                return entries * (width + _log2(columns)) + (rows + 1) * _log2(rows * columns + 1) / (rows * columns)
            case "nm":
                return entries * (width + _log2(self.m))
        return width


DENSE = Format()


def parse_format(text: str) -> Format:
    """ "bitmask", "rlc:4", "csr", "nm:2:4", "dense"; ValueError says what is wrong."""
    kind, *numbers = text.split(":")
    if kind not in KINDS:
        raise ValueError(f"there is no format `{kind}`")
    if len(numbers) != KINDS[kind] or not all(n.isdigit() for n in numbers):
        form = {0: kind, 1: f"{kind}:4", 2: f"{kind}:2:4"}[KINDS[kind]]
        raise ValueError(f"`{text}` is written like `{form}`")
    values = [int(n) for n in numbers]
    if kind == "nm" and not 0 < values[0] <= values[1]:
        raise ValueError(f"`{text}` keeps {values[0]} of every {values[1]}: N is between 1 and M")
    if kind == "rlc" and not 0 < values[0] <= 16:
        raise ValueError(f"`{text}`: a run is counted in 1 to 16 bits")
    return Format(kind, *values)


def size_of(form: Format, mask: Mask, width: int) -> int:
    """Bits of a tensor whose non-zeros `mask` marks, [rows, columns]; runs go on from one row to the next (rlc)."""
    mask = np.asarray(mask, bool)
    nonzero, total = int(mask.sum()), mask.size
    match form.kind:
        case "bitmask":
            return nonzero * width + total
        case "rlc":
            return rlc_entries(mask, form.a) * (width + form.a)
        case "csr":
            rows, columns = mask.shape
            return nonzero * (width + _log2(columns)) + (rows + 1) * _log2(total + 1)
        case "nm":
            groups = -(-mask.shape[-1] // form.m)
            padded = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, groups * form.m - mask.shape[-1])])
            if padded.reshape(-1, form.m).sum(1).max(initial=0) > form.a:
                return total * width
            return padded.size // form.m * form.a * (width + _log2(form.m))
    return total * width


def rlc_entries(mask: Mask, k: int) -> int:
    """Entries of a run-length code: each holds up to 2^k - 1 zeros and the value after them, which may be a zero."""
    flat = np.flatnonzero(np.asarray(mask, bool))
    gaps = np.diff(np.concatenate([[-1], flat])) - 1  # zeros before each value
    tail = mask.size - 1 - (flat[-1] if len(flat) else -1)
    return int(len(flat) + (gaps >> k).sum() + -(-tail // 2**k))


def lane_cycles(mask: Mask, lanes: int, depth: int | None = None) -> int:
    """Cycles of `lanes` multipliers, each of which skips the zeros of its row of weights [outputs, reduction].

    Rows go to the lanes in order, `lanes` at a time; all wait for the slowest after every `depth` columns (None: after
    the whole row). Exact for weights that are known.
    """
    mask = np.asarray(mask, bool).reshape(len(mask), -1)
    rows, columns = mask.shape
    depth = depth or max(1, columns)
    starts = np.arange(0, columns, depth)
    work = np.add.reduceat(mask.astype(np.int64), starts, axis=1) if columns else np.zeros((rows, 1), np.int64)
    return int(sum(work[i : i + lanes].max(0).sum() for i in range(0, rows, lanes)))


def imbalance(mask: Mask, lanes: int, depth: int | None = None) -> float:
    """The factor f of exact cycles = dense cycles x density x f; 1 when every lane has as many non-zeros."""
    mask = np.asarray(mask, bool).reshape(len(mask), -1)
    if not mask.any():
        return 1.0
    dense = -(-len(mask) // lanes) * mask.shape[1]
    return lane_cycles(mask, lanes, depth) / (dense * float(mask.mean()))


@dataclass(frozen=True)
class Shares:
    """What the array still does of a dense layer: the share of its cycles and of its multiplications."""

    cycles: float
    multiplications: float


def shares(
    formats: dict[str, Format], actions: dict[str, str], density: dict[str, float], uneven: float = 1.0
) -> Shares:
    """The effect of zeros of W and I. Actions: "none"; "gate" saves energy; "skip" saves both.

    Skipping follows the format: N:M leaves N/M of the cycles and needs no balancing; other formats leave the density
    times `uneven` (`imbalance` of the weights), never more than the dense layer took.
    """
    cycles = done = 1.0
    balanced = True
    for x, action in actions.items():
        d = density.get(x, 1.0)
        form = formats.get(x, DENSE)
        if action == "none":
            continue
        if action == "skip" and form.kind == "nm":
            left = form.stored(d)
            cycles *= left
            done *= left
        else:
            done *= d
            if action == "skip":
                cycles *= d
                balanced = False
    return Shares(cycles if balanced else min(cycles * uneven, 1.0), done)


def _log2(n: int) -> int:
    return max(0, math.ceil(math.log2(n))) if n > 0 else 0
