"""Rules as data: what reader.py makes of the rule language (rules.lark is its grammar).

A `Rule` has a name, a contract, a left side that is always data (`Apply`, `Variable`, ...), and a right side that is an
expression, or a Python function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..diagnostics import Position, error
from ..op import Op
from ..ops import OPS
from .contracts import Contract

__all__ = [
    "Absent",
    "Apply",
    "AttrName",
    "AttrValue",
    "Expr",
    "Literal",
    "Pattern",
    "Rule",
    "Variable",
    "bound_names",
    "find_op",
    "short_names",
    "walk",
]


@dataclass(frozen=True, slots=True)
class Variable:
    """Any value; the same name again must be the same value. `const`: a constant; `optional`: may be absent."""

    name: str
    position: Position
    const: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant all of whose elements are this number; zeros match by sign."""

    value: float
    position: Position


@dataclass(frozen=True, slots=True)
class Absent:
    """An optional operand that is not there."""

    position: Position


@dataclass(frozen=True, slots=True)
class AttrName:
    """An attribute's value gets this name; the same name again must be an equal value."""

    name: str


@dataclass(frozen=True, slots=True)
class AttrValue:
    """An attribute must have this value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Apply:
    """Result `result` of an op. Attributes that are not mentioned have their defaults, unless `rest` names them all."""

    op: Op
    args: tuple[Pattern, ...]
    attrs: tuple[tuple[str, AttrName | AttrValue], ...]
    position: Position
    label: str = ""  # the node's name in conditions
    rest: str = ""
    variadic: str = ""  # the remaining operands
    result: int = 0


Pattern = Variable | Literal | Absent | Apply


@dataclass(frozen=True, slots=True)
class Expr:
    """An expression of a right side or a condition: `kind` says how to read `args` (compile.py)."""

    kind: str
    args: tuple[Any, ...]
    position: Position


Builder = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Rule:
    """A rewrite: wherever `left` is found and `conditions` hold, `right` takes its place, under `contract`."""

    name: str
    contract: Contract
    left: Apply
    conditions: tuple[Expr, ...]
    right: tuple[Expr, ...] | Builder
    doc: str
    position: Position
    options: Mapping[str, Any] = field(default_factory=dict)  # of a Python right side

    def with_options(self, **options: Any) -> Rule:
        """The same rule with other options."""
        unknown = set(options) - set(self.options)
        if unknown:
            raise error(
                "IG0412",
                f"rule `{self.name}` has no option `{min(unknown)}`",
                hint=f"it has: {', '.join(self.options)}",
            )
        return replace(self, options={**self.options, **options})

    def bound(self) -> dict[str, str]:
        """The names of the left side: value, optional, values, attr, attrs, or node."""
        return bound_names(self.left)


def walk(pattern: Pattern) -> Iterator[Pattern]:
    """The pattern and its parts, outside in."""
    yield pattern
    if isinstance(pattern, Apply):
        for a in pattern.args:
            yield from walk(a)


def bound_names(left: Apply) -> dict[str, str]:
    """See `Rule.bound`. Ops that occur once are also bound to their nodes, by their short name."""
    names: dict[str, str] = {}
    ops: dict[str, int] = {}
    for p in walk(left):
        if isinstance(p, Variable) and p.name != "_":
            names[p.name] = "optional" if p.optional else "value"
        elif isinstance(p, Apply):
            short = p.op.name.rpartition(".")[2]
            ops[short] = ops.get(short, 0) + 1
            if p.label:
                names[p.label] = "node"
            if p.variadic:
                names[p.variadic] = "values"
            if p.rest:
                names[p.rest] = "attrs"
            for _, a in p.attrs:
                if isinstance(a, AttrName):
                    names[a.name] = "attr"
    for short, count in ops.items():
        if count == 1:
            names.setdefault(short, "node")
    names.setdefault("root", "node")
    return names


@functools.cache
def short_names() -> dict[str, list[Op]]:
    """The ops by their names without dialect."""
    found: dict[str, list[Op]] = {}
    for op in OPS.values():
        found.setdefault(op.name.rpartition(".")[2], []).append(op)
    return found


def find_op(name: str) -> Op | list[Op]:
    """The op of a full or short name, or the ops among which the short name leaves a choice (none: unknown).

    Where several dialects have an op of that name, it is the one of `PLAIN`: the others imitate them on other numbers.
    """
    if name in OPS:
        return OPS[name]
    found = short_names().get(name, [])
    if len(found) > 1:
        found = [op for op in found if op.dialect in PLAIN] or found
    return found[0] if len(found) == 1 else found


PLAIN = ("math", "nn", "shape")
"""Dialects whose ops have the first claim on short names."""
