"""Where the decisions of a drawn example come from, written down so that they can be taken back one by one.

A `Tape` answers `below(n)` from a list of earlier decisions, then from a random generator, then with 0, the simplest.
Simplifying a counterexample is simplifying its list: leave decisions out, make them 0, make them smaller. This is
Hypothesis's idea (MacIver & Donaldson 2020) in the few lines that rules need, at a tenth of its time per example.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

__all__ = ["Reject", "Tape", "mutated", "simplify"]

LONGEST = 1000  # decisions of one example


class Reject(Exception):
    """These decisions lead to no example."""


class Tape:
    """Decisions: `prefix` first, then from `rng`, or 0 without one. `values` and `sizes` record them."""

    __slots__ = ("prefix", "rng", "sizes", "values")

    def __init__(self, prefix: Sequence[int] = (), rng: random.Random | None = None) -> None:
        self.prefix, self.rng = prefix, rng
        self.values: list[int] = []
        self.sizes: list[int] = []

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        at = len(self.values)
        if at < len(self.prefix):
            value = min(self.prefix[at], n - 1)
        elif self.rng is None:
            value = 0
        else:
            value = int(self.rng.random() * n)
        if at > LONGEST:
            raise Reject("too many decisions")
        self.values.append(value)
        self.sizes.append(n)
        return value


def mutated(tape: Tape, rng: random.Random) -> list[int]:
    """One or two decisions of a tape taken anew, and half of the seeds: near an example that fits the conditions there
    are more of them."""
    rate = min(0.15, 1.5 / max(1, len(tape.values)))
    return [
        int(rng.random() * n) if rng.random() < (0.5 if n > 1000 else rate) else v
        for v, n in zip(tape.values, tape.sizes, strict=True)
    ]


def simplify(found: Sequence[int], fails: Callable[[Sequence[int]], list[int] | None], budget: int = 500) -> list[int]:
    """The shortest, then smallest decisions that still fail.

    `fails` runs an example from a prefix and returns the decisions that it read, or None when it does not fail.
    """
    best = _stripped(found)

    def attempt(candidate: Sequence[int]) -> bool:
        nonlocal best, budget
        if budget <= 0:
            return False
        budget -= 1
        read = fails(candidate)
        if read is None:
            return False
        read = _stripped(read)
        if (len(read), read) >= (len(best), best):
            return False
        best = read
        return True

    before = None
    while before != best and budget > 0:
        before = best
        for size in (16, 8, 4, 2, 1):  # leave decisions out; one fewer before them for counts
            at = len(best) - size
            while at >= 0:
                shorter = best[:at] + best[at + size :]
                fewer = [*best[: at - 1], best[at - 1] - 1, *best[at + size :]] if at and best[at - 1] else None
                if not attempt(shorter) and (fewer is None or not attempt(fewer)):
                    at -= 1
                at = min(at, len(best) - size)
        for size in (8, 4, 2, 1):
            for at in range(0, len(best) - size + 1):
                if at + size <= len(best) and any(best[at : at + size]):
                    attempt([*best[:at], *[0] * size, *best[at + size :]])
        for value in sorted({v for v in best if v and best.count(v) > 1}):  # equal ones together: equal extents
            for less in range(value):
                if attempt([less if v == value else v for v in best]):
                    break
        at = 0
        while at < len(best):
            low, high = 0, best[at]
            while low < high and budget > 0:  # the smallest value, as if failing were monotone in it
                middle = (low + high) // 2
                if attempt([*best[:at], middle, *best[at + 1 :]]) and at < len(best) and best[at] <= middle:
                    high = best[at]
                else:
                    low = middle + 1
            at += 1
    return best


def _stripped(values: Sequence[int]) -> list[int]:
    out = list(values)
    while out and out[-1] == 0:
        out.pop()
    return out
