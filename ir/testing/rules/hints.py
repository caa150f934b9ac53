"""What can be said of a rule before anything is drawn: element types, wished ranks, the numbers that stand in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...dims import Extent
from ...rewrite.contracts import Bounded
from ...rewrite.language import Apply, AttrValue, Expr, Literal, Pattern, Rule, Variable, walk
from ...types import Elem, Float
from .elements import Elements
from .numbers import Domain

__all__ = ["Hints"]


@dataclass
class Hints:
    """See the module. `extents` and `integers` are pools to draw from."""

    elements: Elements
    extents: tuple[Extent, ...] = (1, 2, 3, 2, 3, 4)
    integers: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()
    ranks: dict[str, int] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    empty: bool = False  # conditions ask for an extent of 0
    interval: Domain | None = None
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)  # see `names_in`

    @classmethod
    def of(cls, rule: Rule) -> Hints:
        made = cls(Elements(rule.left, rule.conditions))
        integers: set[int] = set()
        numbers: set[float] = set()
        for p in walk(rule.left):
            if isinstance(p, Literal):
                numbers.add(p.value)
            if isinstance(p, Apply):
                for _, a in p.attrs:
                    integers |= set(_whole(a.value)) if isinstance(a, AttrValue) else set()
        for c in rule.conditions:
            for e in _parts(c):
                if e.kind == "int":
                    integers.add(int(e.args[0]))
                    numbers.add(float(e.args[0]))
                elif e.kind == "float":
                    numbers.add(float(e.args[0]))
            made._ranks(c)
        wished = tuple(sorted(n for n in integers if 1 <= n <= 8))
        made.extents += wished + ((0, 0) if made.empty else ())
        made.integers = tuple(sorted(n for n in integers if abs(n) < 1 << 20))
        made.numbers = tuple(sorted(numbers))
        if isinstance(rule.contract, Bounded) and rule.contract.on is not None:
            made.interval = Domain(*rule.contract.on)
        return made

    def _ranks(self, c: Expr) -> None:
        """`rank(x) == 2`, `size(x) == 1`: draw nothing else."""
        if c.kind == "and_":
            for part in c.args:
                self._ranks(part)
        if c.kind != "compare" or len(c.args) != 3 or c.args[1] not in ("==", ">="):
            return
        call, _, number = c.args
        if call.kind != "call" or number.kind != "int" or not call.args[1] or call.args[1][0].kind != "name":
            return
        name, value = call.args[1][0].args[0], int(number.args[0])
        if call.args[0] == "rank":
            self.ranks[name] = value
        elif call.args[0] in ("size", "dim") and value == 0:
            self.empty = True
        elif call.args[0] == "size" and value == 1:
            self.single.add(name)

    def names_in(self, p: Apply) -> tuple[str, ...]:
        """The names of a pattern's operands that are variables, "" for the others."""
        found = self.names.get(id(p))
        if found is None:
            found = self.names[id(p)] = tuple(a.name if isinstance(a, Variable) else "" for a in p.args)
        return found

    def rank(self, p: Pattern) -> int | None:
        """The rank that conditions ask of a part of the pattern."""
        if isinstance(p, Variable):
            return self.ranks.get(p.name)
        if isinstance(p, Apply):
            return self.ranks.get(p.label or p.op.name.rpartition(".")[2])
        return None

    def domain(self, elem: Elem) -> Domain | None:
        """Where all floats are drawn: the interval of a bound."""
        return self.interval if isinstance(elem, Float) else None


def _parts(e: Any) -> Iterator[Expr]:
    if isinstance(e, Expr):
        yield e
        for a in e.args:
            yield from _parts(a)
    elif isinstance(e, tuple):
        for a in e:
            yield from _parts(a)


def _whole(value: Any) -> Iterator[int]:
    if type(value) is int:
        yield value
    elif isinstance(value, tuple):
        for v in value:
            yield from _whole(v)
