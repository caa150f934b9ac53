"""Loop orders of a nest, as far as they matter: which operand's loops are innermost.

An operand is brought in again in every iteration of the loops around the innermost one that changes it. So what counts
of an order is its innermost group of loops with more than one iteration: the operand that does not depend on them
stays, the other two come again for every iteration of theirs. G changes all operands and is outermost. Where halos are
kept it also matters whether P or Q moves first. Five orders are left of 8!; the tests try permutations against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .layer import OWN

__all__ = ["GROUPS", "INNER_ORDERS", "ORDERS", "Order"]

GROUPS = {"W": OWN["W"], "I": OWN["I"], "O": OWN["O"]}
"""Groups of loops by the operand they reuse."""


@dataclass(frozen=True)
class Order:
    """A nest's loops: the groups (named by the operand they reuse) from the outside in; `last`: P or Q is inner."""

    groups: tuple[str, str, str]
    last: str = "Q"

    @cached_property
    def loops(self) -> tuple[str, ...]:
        """All eight from the outside in."""
        w = ("N", "Q", "P") if self.last == "P" else ("N", "P", "Q")
        return ("G", *(d for g in self.groups for d in (w if g == "W" else GROUPS[g])))

    @property
    def stationary(self) -> str:
        return self.groups[2]


ORDERS = (
    Order(("I", "O", "W"), "Q"),
    Order(("I", "O", "W"), "P"),
    Order(("O", "W", "I"), "Q"),
    Order(("O", "W", "I"), "P"),
    Order(("W", "I", "O"), "Q"),
)
INNER_ORDERS = (ORDERS[0], ORDERS[2], ORDERS[4])  # below the first tier no halo is kept: P or Q makes no difference
