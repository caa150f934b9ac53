"""Tables of integers that fit in vector registers: looked up by permutations of words, not by loads lane by lane.

vpermi2d picks 16 words out of 32. Tables of up to 128 words are four of these and selections between them. Two numbers
of 16 bits share a word, or four of 8 bits, so that every function of a byte fits. Exponentials in steps of an octave
need one octave only: table[i] = table[i mod 64] >> i / 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..emit import Emitter
from ..kernel import Expr, VectorUnit

__all__ = ["Lookup"]

WORDS = 16  # of a vector
OCTAVE = 64
MOST = 128  # words


@dataclass(frozen=True, eq=False)
class Lookup:
    """table[i] for 0 <= i < len(table). `words` is what the kernel has to be given, an operand of int32."""

    words: npt.NDArray[np.int32]
    length: int
    form: str  # octaves, bytes, halves, words; memory: lane by lane

    @classmethod
    def of(cls, table: npt.NDArray[Any], unit: VectorUnit) -> Lookup:
        """The cheapest form that has all numbers of an integer table."""
        wide = np.asarray(table, np.int64)
        steps = np.arange(len(wide))
        if unit.lanes == WORDS and len(wide):
            least, most = int(wide.min()), int(wide.max())
            octaves = len(wide) % OCTAVE == 0 and least >= 0 and len(wide) <= 31 * OCTAVE
            if octaves and np.array_equal(wide, wide[steps % OCTAVE] >> steps // OCTAVE):
                return cls(_padded(wide[:OCTAVE]), len(wide), "octaves")
            for form, dtype in (("bytes", np.uint8), ("halves", np.uint16)):
                size = 4 * MOST // np.dtype(dtype).itemsize
                if 2 * WORDS < len(wide) <= size and least >= 0 and most <= np.iinfo(dtype).max:
                    return cls(_padded(_packed(wide, dtype)), len(wide), form)
            if len(wide) <= MOST:
                return cls(_padded(wide), len(wide), "words")
        return cls(wide.astype(np.int32), len(wide), "memory")

    def vector(self, emit: Emitter, words: Any, index: Any) -> Expr:
        """The numbers at index[0:lanes], a buffer of int32 numbers that are in range."""
        if self.form == "memory":
            lanes = int(index.shape[0])
            found = emit.registers(lanes, dtype="int32")
            with emit.lanes(lanes) as lane:
                emit.store(found, [lane], words[index[lane]])
            return found[emit.ramp(0, lanes)]
        at = index[emit.ramp(0, WORDS)]
        if self.form == "words":
            return self._permuted(emit, words, at)
        if self.form == "octaves":
            return self._permuted(emit, words, at) >> (at >> _all(emit, OCTAVE.bit_length() - 1))
        two = 1 if self.form == "halves" else 2  # logarithm of the numbers in a word
        word = self._permuted(emit, words, at >> _all(emit, two))
        bits = 32 >> two
        within = (at & _all(emit, (1 << two) - 1)) << _all(emit, bits.bit_length() - 1)
        return (word >> within) & _all(emit, (1 << bits) - 1)

    def _permuted(self, emit: Emitter, words: Any, at: Expr) -> Expr:
        """Words at an index, of which bits beyond the table's size do not count."""

        def part(i: int) -> Expr:
            return words[emit.ramp(i * WORDS, WORDS)]

        parts = len(self.words) // WORDS
        if parts == 1:
            return emit.intrinsic("int32x16", "llvm.x86.avx512.permvar.si.512", part(0), at)
        found = [
            emit.intrinsic("int32x16", "llvm.x86.avx512.vpermi2var.d.512", part(i), at, part(i + 1))
            for i in range(0, parts, 2)
        ]
        bit = 2 * WORDS
        while len(found) > 1:
            above = (at & _all(emit, bit)) != _all(emit, 0)
            found = [emit.select(above, b, a) for a, b in zip(found[::2], found[1::2], strict=True)]
            bit *= 2
        return found[0]


def _packed(values: Any, dtype: Any) -> npt.NDArray[np.int32]:
    """Several numbers to a word, the first in its lowest bits."""
    several = 4 // np.dtype(dtype).itemsize
    made = np.zeros(-(-len(values) // several) * several, dtype)
    made[: len(values)] = values
    return made.view(np.int32)


def _padded(values: Any) -> npt.NDArray[np.int32]:
    """A whole number of vectors, a power of two."""
    size = WORDS
    while size < len(values):
        size *= 2
    made = np.zeros(size, np.int32)
    made[: len(values)] = values
    return made


def _all(emit: Emitter, value: int) -> Expr:
    return emit.splat_of(value, "int32", WORDS)
