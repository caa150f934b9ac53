"""Extents of axes: integers, or integer polynomials over named symbols, or unknown.

A shape is a tuple of `Extent`: a plain `int` when the extent is known (the usual case, so arithmetic on static shapes
costs nothing), a `Dim` when it depends on a symbol such as the batch size `N`, and `UNKNOWN` (printed `?`) when only
running the model can tell. Polynomials rather than linear forms, because flattening `[N, S, 384]` for a matrix product
gives `N*S` rows, and splitting them again must give back `N` and `S`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from .diagnostics import error

__all__ = [
    "UNKNOWN",
    "Dim",
    "Extent",
    "Shape",
    "dim",
    "exact_div",
    "floor_div",
    "same",
    "size",
    "substitute",
    "symbols",
]

Monomial = tuple[str, ...]  # sorted symbol names, repeated for powers; () is the constant term


class Dim:
    """An integer polynomial such as `N`, `2*N + 1` or `N*S`; interned, so equal ones are the same object.

    Build symbols with `dim("N")`; arithmetic gives an `int` back whenever no symbol is left.
    """

    __slots__ = ("terms", "text")
    terms: tuple[tuple[Monomial, int], ...]
    text: str

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[object, ...]:
        return parse_dim, (self.text,)

    def __add__(self, other: Extent) -> Extent:
        if self is UNKNOWN or other is UNKNOWN:
            return UNKNOWN
        terms = dict(self.terms)
        for key, c in _terms(other):
            terms[key] = terms.get(key, 0) + c
        return _make(terms)

    __radd__ = __add__

    def __neg__(self) -> Extent:
        return self * -1

    def __sub__(self, other: Extent) -> Extent:
        return self + (-other)

    def __rsub__(self, other: Extent) -> Extent:
        return -self + other

    def __mul__(self, other: Extent) -> Extent:
        if other == 0 and isinstance(other, int):
            return 0
        if self is UNKNOWN or other is UNKNOWN:
            return UNKNOWN
        terms: dict[Monomial, int] = {}
        for a, x in self.terms:
            for b, y in _terms(other):
                key = tuple(sorted(a + b))
                terms[key] = terms.get(key, 0) + x * y
        return _make(terms)

    __rmul__ = __mul__


Extent = int | Dim
Shape = tuple[Extent, ...]

_INTERNED: dict[tuple[tuple[Monomial, int], ...], Dim] = {}


def _intern(terms: tuple[tuple[Monomial, int], ...], text: str) -> Dim:
    found = _INTERNED.get(terms)
    if found is None:
        found = Dim.__new__(Dim)
        found.terms, found.text = terms, text
        _INTERNED[terms] = found
    return found


UNKNOWN: Final[Dim] = _intern(((("?",), 1),), "?")


def _terms(x: Extent) -> tuple[tuple[Monomial, int], ...]:
    return x.terms if isinstance(x, Dim) else (((), int(x)),)


_MOST_TERMS, _MOST_FACTORS, _LARGEST = 128, 32, 1 << 63


def _make(terms: Mapping[Monomial, int]) -> Extent:
    """The extent of these terms; `?` for what no model means: polynomials of hundreds of terms, huge numbers."""
    kept = tuple(sorted(((k, c) for k, c in terms.items() if c), key=lambda t: (-len(t[0]), t[0])))
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    if len(kept) > _MOST_TERMS or len(kept[0][0]) > _MOST_FACTORS or any(abs(c) > _LARGEST for _, c in kept):
        return UNKNOWN
    text = ""
    for i, (key, c) in enumerate(kept):
        factors = ([] if abs(c) == 1 and key else [str(abs(c))]) + list(key)
        sign = "-" if c < 0 else "+"
        text += ("-" if c < 0 else "") if i == 0 else f" {sign} "
        text += "*".join(factors)
    return _intern(kept, text)


# Words that the text form reads as something else where an extent may stand.
RESERVED = frozenset(
    [
        "_",
        "ig",
        "module",
        "weights",
        "dim",
        "in",
        "graph",
        "return",
        "const",
        "loc",
        "via",
        "true",
        "false",
        "none",
        "inf",
        "nan",
        "bool",
        "bf16",
        "f64",
        "f32",
        "f16",
        "f8e4m3fn",
        "f8e4m3fnuz",
        "f8e5m2",
        "f8e5m2fnuz",
        "f8e8m0",
        "f4e2m1",
        "i2",
        "i4",
        "i8",
        "i16",
        "i32",
        "i64",
        "u2",
        "u4",
        "u8",
        "u16",
        "u32",
        "u64",
    ]
)


def dim(name: str) -> Dim:
    """The symbol `name`, for example `dim("N")`."""
    found = _INTERNED.get((((name,), 1),))
    if found is None or found is UNKNOWN:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise error("IG0201", f"`{name}` cannot name a dimension", hint="use letters, digits and underscores")
        if name in RESERVED:
            raise error(
                "IG0201", f"`{name}` cannot name a dimension: it is a word of the language", hint=f"for example {name}_"
            )
        found = _intern((((name,), 1),), name)
    return found


_PRODUCT = r"[A-Za-z0-9_]+(?:\s*\*\s*[A-Za-z0-9_]+)*"
_TERM = re.compile(rf"([+-]?)\s*({_PRODUCT})")
_EXTENT = re.compile(rf"[+-]?\s*{_PRODUCT}(?:\s*[+-]\s*{_PRODUCT})*")


def parse_dim(text: str) -> Extent:
    """Read what `str(extent)` printed: `7`, `N`, `2*N + 1`, `?`.

    >>> parse_dim("N*S - 2*N + 1")
    N*S - 2*N + 1
    """
    text = text.strip()
    if text == "?":
        return UNKNOWN
    if not _EXTENT.fullmatch(text):
        raise error("IG0201", f"`{text}` is not a dimension", hint="write an integer, a symbol, or for example 2*N + 1")
    total: Extent = 0
    for sign, product in _TERM.findall(text):
        term: Extent = -1 if sign == "-" else 1
        for factor in product.split("*"):
            factor = factor.strip()
            term = term * (int(factor) if factor.isdigit() else dim(factor))
        total = total + term
    return total


def same(a: Extent, b: Extent) -> bool:
    """Whether two extents can be equal: `?` is compatible with everything."""
    return a is UNKNOWN or b is UNKNOWN or a == b


def size(shape: Shape) -> Extent:
    """The number of elements of `shape`."""
    if all(type(d) is int for d in shape):
        return math.prod(shape)
    total: Extent = 1
    for d in shape:
        total = total * d
    return total


def exact_div(a: Extent, b: Extent) -> Extent | None:
    """`a / b` when it is a polynomial with integer coefficients, else None (`?` if either is unknown)."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    if a is UNKNOWN or b is UNKNOWN:
        return UNKNOWN
    if a == b:
        return 1
    divisor = _terms(b)
    if len(divisor) != 1 or divisor[0][1] == 0:
        return None
    key, c = divisor[0]
    terms: dict[Monomial, int] = {}
    for have, coefficient in _terms(a):
        rest = list(have)
        for name in key:
            if name not in rest:
                return None
            rest.remove(name)
        if coefficient % c:
            return None
        terms[tuple(rest)] = coefficient // c
    return _make(terms)


def floor_div(a: Extent, b: int) -> Extent:
    """`a // b`, exactly where the symbols allow, else `?`.

    >>> floor_div(2 * dim("N") + 5, 2)
    N + 2
    """
    if isinstance(a, int):
        return a // b
    if b == 1 or a is UNKNOWN:
        return a
    constant = dict(a.terms).get((), 0)
    rest = exact_div(a - constant, b)
    return UNKNOWN if rest is None else rest + constant // b


def symbols(shape: Shape) -> set[str]:
    """The symbol names in `shape`, without `?`."""
    return {name for d in shape if isinstance(d, Dim) for key, _ in d.terms for name in key} - {"?"}


def substitute(extent: Extent, values: Mapping[str, Extent]) -> Extent:
    """Replace symbols by values; symbols that are not in `values` stay."""
    if isinstance(extent, int) or extent is UNKNOWN:
        return extent
    total: Extent = 0
    for key, c in extent.terms:
        term: Extent = c
        for name in key:
            term = term * values.get(name, dim(name))
        total = total + term
    return total


def solve(extent: Extent, actual: int, values: Mapping[str, int]) -> dict[str, int] | None:
    """Bind the one symbol of a linear `extent` so that it equals `actual`; `{}` if it does, None if it cannot."""
    bound = substitute(extent, values)
    if bound is UNKNOWN:
        return {}
    if isinstance(bound, int):
        return {} if bound == actual else None
    free = symbols((bound,))
    terms = dict(bound.terms)
    if len(free) != 1 or any(len(k) > 1 for k in terms):
        return {}  # more than one unknown: another operand may settle it
    (name,) = free
    value, rest = divmod(actual - terms.get((), 0), terms[(name,)])
    return None if rest or value < 0 else {name: value}
