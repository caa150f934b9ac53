"""Packings: which slot of a ciphertext holds which element of a tensor.

Every axis is written as digits `extent*stride`, the lowest first; an element lies at the sum of its digits times their
strides. A packing of 32 channels of 14x14 pixels, 16 to a row, two channels in one block where the pixels leave gaps:

    32x14x14/8192: 16*512,2*1 14*32 14*2

`base` is added to every slot. `copies 8*1024` says that the tensor is there 8 times, 1024 slots apart; `copies
8*1024~16` that each copy is turned left by 16 slots against the one before (what a client can do for free). Slots
that hold no element may hold anything: whoever reads them multiplies by zero.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .diagnostics import error

__all__ = ["Digits", "Packing"]

Digits = tuple[tuple[int, int], ...]
Array = npt.NDArray[Any]

_TEXT = re.compile(
    r"(?P<shape>\d+(?:x\d+)*)/(?P<slots>\d+):(?P<axes>(?: \d+\*\d+(?:,\d+\*\d+)*)+)"
    r"(?: base (?P<base>\d+))?(?: copies (?P<count>\d+)\*(?P<apart>\d+)(?:~(?P<skew>\d+))?)?"
)


@dataclass(frozen=True)
class Packing:
    """See the module. `copies` is (count, distance, skew)."""

    shape: tuple[int, ...]
    slots: int
    axes: tuple[Digits, ...]
    base: int = 0
    copies: tuple[int, int, int] = (1, 0, 0)

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.shape) or any(
            math.prod(e for e, _ in digits) < n for digits, n in zip(self.axes, self.shape, strict=True)
        ):
            raise error("IG0540", f"the digits of packing `{self}` do not span its shape")
        if self.slots < 1 or self.slots & (self.slots - 1):
            raise error("IG0540", f"a ciphertext has a power of two of slots, not {self.slots}")

    @classmethod
    def dense(cls, shape: tuple[int, ...], slots: int, stride: int = 1) -> Packing:
        """Row-major, `stride` slots from one element to the next."""
        axes: list[Digits] = []
        for n in reversed(shape):
            axes.append(((n, stride),))
            stride *= n
        return cls(shape, slots, tuple(reversed(axes)))

    @classmethod
    def parse(cls, text: str) -> Packing:
        """What `str` gave; IG0540 otherwise."""
        return _parse(text)

    def __str__(self) -> str:
        axes = " ".join(",".join(f"{e}*{s}" for e, s in digits) for digits in self.axes)
        text = f"{'x'.join(map(str, self.shape))}/{self.slots}: {axes}"
        text += f" base {self.base}" if self.base else ""
        count, apart, skew = self.copies
        return text + (f" copies {count}*{apart}" + (f"~{skew}" if skew else "") if count > 1 else "")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @functools.cached_property
    def positions(self) -> Array:
        """The slot of every element in the first copy: int64[*shape]."""
        total = np.full((1,) * len(self.shape), self.base, np.int64)
        for i, (digits, n) in enumerate(zip(self.axes, self.shape, strict=True)):
            index, place = np.arange(n), np.zeros(n, np.int64)
            for extent, stride in digits:
                place += index % extent * stride
                index = index // extent
            total = total + place.reshape([n if j == i else 1 for j in range(len(self.shape))])
        return total % self.slots

    @functools.cached_property
    def everywhere(self) -> Array:
        """The slots of every element in every copy: int64[copies, elements]."""
        count, apart, skew = self.copies
        first = self.positions.reshape(-1)
        turn = np.arange(count)[:, None]
        if not skew:
            return (first + turn * apart) % self.slots
        inside = (first - self.base - turn * skew) % apart
        return (self.base + turn * apart + inside) % self.slots

    @functools.cached_property
    def content(self) -> Array:
        """The element in every slot, -1 where there is none: int64[slots]; elements count in row-major order."""
        found = np.full(self.slots, -1, np.int64)
        for row in self.everywhere:
            if (found[row] >= 0).any() or len(np.unique(row)) != len(row):
                raise error("IG0540", f"packing `{self}` puts two elements into one slot")
            found[row] = np.arange(self.size)
        return found

    def pack(self, tensor: Array) -> Array:
        """f64[slots] with the elements of `tensor` in their slots, zero elsewhere."""
        flat = np.append(np.asarray(tensor, np.float64).reshape(-1), 0.0)
        return flat[self.content]

    def unpack(self, slots: Array) -> Array:
        """The tensor from the slots of its first copy."""
        return slots[self.positions]


@functools.lru_cache(4096)
def _parse(text: str) -> Packing:
    m = _TEXT.fullmatch(text)
    if m is None or any(len(n) > 9 for n in re.findall(r"\d+", text)):
        raise error("IG0540", f"`{text}` is no packing", hint="such as 32x14x14/8192: 32*256 14*16 14*1")
    axes = tuple(tuple(_pair(d) for d in axis.split(",")) for axis in m["axes"].split())
    copies = (int(m["count"] or 1), int(m["apart"] or 0), int(m["skew"] or 0))
    shape = tuple(map(int, m["shape"].split("x")))
    return Packing(shape, int(m["slots"]), axes, int(m["base"] or 0), copies)


def _pair(digit: str) -> tuple[int, int]:
    extent, _, stride = digit.partition("*")
    return int(extent), int(stride)
