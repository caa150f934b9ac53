"""What a rewrite promises of the numbers. No contract, no rule.

exact                          the same bits in the graph's own types
real                           equal over the reals; rounding may differ
bounded(abs, rel, on=[a, b])   the local error stays within a bound, for operands within an interval
lossy(metric <= budget)        the error is measured end to end and charged to the ledger
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bounded", "Contract", "Exact", "Lossy", "Real", "weakest"]


@dataclass(frozen=True, slots=True)
class Exact:
    """The same bits."""

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True, slots=True)
class Real:
    """Equal over the reals: reassociation, distribution, folding of constants."""

    def __str__(self) -> str:
        return "real"


@dataclass(frozen=True, slots=True)
class Bounded:
    """|new - old| <= abs + rel * |old| for operands in `on` (everywhere when None)."""

    abs: float = 0.0
    rel: float = 0.0
    on: tuple[float, float] | None = None

    def __str__(self) -> str:
        parts = [f"abs={self.abs:g}"] if self.abs else []
        parts += [f"rel={self.rel:g}"] if self.rel else []
        parts += [f"on=[{self.on[0]:g}, {self.on[1]:g}]"] if self.on else []
        return f"bounded({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Lossy:
    """Measured on calibration data as `metric`, at most `budget`."""

    metric: str
    budget: float

    def __str__(self) -> str:
        return f"lossy({self.metric} <= {self.budget:g})"


Contract = Exact | Real | Bounded | Lossy
_ORDER = (Exact, Real, Bounded, Lossy)


def weakest(contracts: list[Contract]) -> Contract:
    """The contract of several rewrites together, as far as its kind goes."""
    return max(contracts, key=lambda c: _ORDER.index(type(c)), default=Exact())
