"""`he`: CKKS circuits (Cheon et al. 2017) on packed ciphertexts. What an op means is given on slots: f64[slots].

Levels and scales are typing rules, so a graph that verifies is a well-levelled circuit. A scale is its exact log2,
where the prime of level l counts as `bits + (l + 1) / 2^24`: no prime is a power of two, and the second term stands for
what it differs by. Two scales are equal in the rules only if they are products of the same primes; then they are equal
whatever primes of that size an engine has.

Macros (`linear`, `polynomial`, `bootstrap`, `repack`) are made of the primitives; backends/he/execute.py is their
lowering. Which rotations have keys is said by the key manifest of a program (backends/he/check.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from ..diagnostics import error
from ..diagonals import LinearMap, Plan, Slots, conv_map, dense_map, diagonals, run_plan
from ..op import Floats, Ints, Op, op
from ..packing import Packing
from ..types import Cipher, Tensor, Type

PRIME = 1 << 24  # denominator of what tells primes of one size apart


def prime(level: int, bits: int) -> Fraction:
    """log2 of the prime that rescaling at `level` divides by, as scales count it."""
    return bits + Fraction(level + 1, PRIME)


# --- typing rules -----------------------------------------------------------------------------------------------------

Types = tuple[Type | None, ...]
Rule = Callable[[Types, Mapping[str, Any]], Cipher]


def _declared(rule: Rule) -> Callable[..., None]:
    def check(types: Types, attrs: Mapping[str, Any], results: tuple[Type, ...]) -> None:
        found = rule(types, attrs)
        if len(results) != 1 or results[0] is not found:
            written = ", ".join(map(str, results))
            raise error("IG0212", f"the result is {found}, not {written}", label=written)

    check.rule = rule  # type: ignore[attr-defined]
    return check


def result_type(of: Op, types: Types, attrs: Mapping[str, Any]) -> Cipher:
    """The type of an op of this dialect; raises IG0541..IG0544 for operands that do not fit."""
    return of.declared.rule(types, {**of.defaults, **attrs})  # type: ignore[union-attr]


def _cipher(types: Types, i: int = 0, size: int | None = 2) -> Cipher:
    t = types[i] if i < len(types) else None
    if not isinstance(t, Cipher):
        raise error("IG0543", f"operand {i} is a ciphertext, not {t}")
    if size is not None and t.size != size:
        hint = "insert `he.relin` after the product" if t.size == 3 else "only products are relinearised"
        raise error("IG0543", f"operand {i} has {t.size} polynomials where {size} are needed", label=str(t), hint=hint)
    return t


def _made(t: Cipher, **changes: Any) -> Cipher:
    fields = {name: getattr(t, name) for name in t._fields} | changes
    if fields["level"] < 0:
        raise error("IG0544", "no level is left to rescale by", label=str(t), hint="more levels, or a bootstrap before")
    return Cipher(**fields)


def _same(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a, b = _cipher(types, 0, None), _cipher(types, 1, None)
    one = [replace(Packing.parse(t.packing), copies=(1, 0, 0)) for t in (a, b)]
    if a.scale != b.scale or a.level != b.level or one[0] != one[1]:
        what = "scales" if a.scale != b.scale else "levels" if a.level != b.level else "packings"
        raise error("IG0542", f"a sum of unequal {what}", label=f"{a}, {b}", hint="drop, rescale or repack one of them")
    return _made(a, packing=a.packing if a.packing == b.packing else str(one[0]), size=max(a.size, b.size))


def _product(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a, b = _cipher(types, 0), _cipher(types, 1)
    if a.level != b.level or a.packing != b.packing:
        raise error("IG0542", "a product of unequal levels or packings", label=f"{a}, {b}", hint="drop one of them")
    return _made(a, scale=a.scale + b.scale, size=3)


def _square_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a = _cipher(types)
    return _made(a, scale=2 * a.scale, size=3)


def _unchanged(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    return _cipher(types, 0, None)


def _plain(types: Types, i: int = 1) -> None:
    if not isinstance(types[i] if i < len(types) else None, Tensor):
        raise error("IG0543", f"operand {i} is a tensor in the clear")


def _add_plain_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    _plain(types)
    return _cipher(types, 0, None)


def _mul_plain_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    _plain(types)
    a = _cipher(types, 0, None)
    return _made(a, scale=attrs["rescaled"] + prime(a.level, attrs["bits"]))


def _relin_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    return _made(_cipher(types, 0, 3), size=2)


def _rescale_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a = _cipher(types, 0, None)
    return _made(a, level=a.level - 1, scale=a.scale - prime(a.level, attrs["bits"]))


def _drop_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a = _cipher(types, 0, None)
    if attrs["level"] > a.level:
        raise error(
            "IG0544", f"a ciphertext of level {a.level} cannot be dropped to level {attrs['level']}", label=str(a)
        )
    return _made(a, level=attrs["level"])


def _rotate_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a = _cipher(types)
    packing = Packing.parse(a.packing)
    return _made(a, packing=str(replace(packing, base=(packing.base - attrs["step"]) % packing.slots)))


def _linear_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a = _cipher(types)
    _plain(types)
    target = Packing.parse(attrs["target"])
    if target.slots != Packing.parse(a.packing).slots:
        raise error("IG0540", "a packing of another number of slots", label=str(a))
    return _made(a, shape=target.shape, packing=str(target), level=a.level - 1, scale=Fraction(attrs["scale"]))


def _polynomial_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a = _cipher(types)
    return _made(a, level=a.level - len(attrs["bits"]), scale=Fraction(attrs["scale"]))


def _monic_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a = _cipher(types)
    if len(attrs["bits"]) not in (2, 3) or len(attrs["coeffs"]) != 1 << len(attrs["bits"]):
        raise error("IG0543", "a monic polynomial of degree 4 or 8 has 4 or 8 lower coefficients")
    level, scale = a.level, a.scale
    for bits in attrs["bits"]:  # squared once a level
        scale = 2 * scale - prime(level, bits)
        level -= 1
    return _made(a, level=level, scale=scale)


def _bootstrap_rule(types: Types, attrs: Mapping[str, Any]) -> Cipher:
    a = _cipher(types)
    if attrs["level"] < a.level:
        raise error("IG0544", f"a bootstrap from level {a.level} to level {attrs['level']} gains nothing", label=str(a))
    return _made(a, level=attrs["level"], scale=Fraction(attrs["scale"]))


# --- primitives -------------------------------------------------------------------------------------------------------


@op("he.add_ct", "x: T[*S], y: T[*S] -> any[?]", declared=_declared(_same))
def add_ct(x, y):
    """The sum of two ciphertexts of one level, scale and packing."""
    return x + y


@op("he.sub_ct", "x: T[*S], y: T[*S] -> any[?]", declared=_declared(_same))
def sub_ct(x, y):
    """The difference of two ciphertexts of one level, scale and packing."""
    return x - y


@op("he.negate", "x: T[*S] -> any[?]", declared=_declared(_unchanged))
def negate(x):
    """The ciphertext of -x."""
    return -x


@op("he.add_plain", "x: T[*S], values: T2[*R] -> any[?]", declared=_declared(_add_plain_rule))
def add_plain(x, values, *, _types):
    """x plus a tensor in the clear, encoded at the level and scale of x and packed as x is."""
    return x + Packing.parse(_types[0][0].packing).pack(values)


@op("he.mul_plain", "x: T[*S], values: T2[*R] -> any[?]", declared=_declared(_mul_plain_rule))
def mul_plain(x, values, *, bits: int, rescaled: int, _types):
    """x times a tensor in the clear, encoded so that rescaling by a prime of `bits` gives scale 2^`rescaled`."""
    return x * Packing.parse(_types[0][0].packing).pack(values)


@op("he.mul_ct", "x: T[*S], y: T[*S] -> any[?]", declared=_declared(_product))
def mul_ct(x, y):
    """The product of two ciphertexts: of size 3, at the product of the scales."""
    return x * y


@op("he.square", "x: T[*S] -> any[?]", declared=_declared(_square_rule))
def square(x):
    """The product of a ciphertext with itself: of size 3, at the square of the scale."""
    return x * x


@op("he.relin", "x: T[*S] -> any[?]", declared=_declared(_relin_rule))
def relin(x):
    """A product back to size 2, by the relinearisation key."""
    return x


@op("he.rescale", "x: T[*S] -> any[?]", declared=_declared(_rescale_rule))
def rescale(x, *, bits: int):
    """One level down: modulus and scale are divided by the level's prime, of `bits` bits."""
    return x


@op("he.drop", "x: T[*S] -> any[?]", declared=_declared(_drop_rule))
def drop(x, *, level: int):
    """The same ciphertext at a lower level; scale unchanged."""
    return x


@op("he.rotate", "x: T[*S] -> any[?]", declared=_declared(_rotate_rule))
def rotate(x, *, step: int):
    """Slots to the left: y[t] = x[t + step], around the end; needs the key of that step."""
    return np.roll(x, -step)


# --- macros -----------------------------------------------------------------------------------------------------------


def linear_map(source: Packing, target: Packing, weights: tuple[int, ...], attrs: Mapping[str, Any]) -> LinearMap:
    """What the weights of `he.linear` stand between; IG0541 when they have another shape."""
    if len(weights) == 2:
        if weights != (target.size, source.size):
            raise error("IG0541", f"weights {list(weights)} between {source.size} and {target.size} elements")
        return dense_map(*weights)
    c, h, w = source.shape
    m, p, q = target.shape
    rows, columns = attrs["rows"], attrs["columns"]
    kinds = (max(rows) + 1, max(columns) + 1) if rows and columns else ()
    kernel = weights[-4:]
    if weights[:-4] != kinds or len(kernel) != 4 or kernel[0] != m or kernel[1] * attrs["groups"] != c:
        raise error("IG0541", f"weights {list(weights)} of a convolution from {c} to {m} channels")
    if kinds and (len(rows), len(columns)) != (p, q):
        raise error("IG0541", f"kinds of {len(rows)} rows and {len(columns)} columns for {p} x {q} results")
    return conv_map((c, h, w), kernel, (p, q), attrs["strides"], attrs["pads"], attrs["groups"], rows, columns)


@op("he.linear", "x: T[*S], w: T2[*R], b: T3[*Q]? -> any[?]", declared=_declared(_linear_rule))
def linear(
    x,
    w,
    b=None,
    *,
    target: str,
    babies: Ints,
    giants: Ints,
    folds: Ints,
    bits: int,
    scale: int,
    strides: Ints = (1, 1),
    pads: Ints = (0, 0),
    groups: int = 1,
    rows: Ints = (),
    columns: Ints = (),
    hoist: bool = False,
    _types,
):
    """A layer by diagonals: w[rows, columns], or w[M, C / groups, kh, kw] of a convolution; b has one per result.

    `rows` and `columns` number the kinds of rows and columns of a result that has a kernel for each pair of kinds:
    w[kinds of rows, kinds of columns, M, C / groups, kh, kw] (ir/convolutions.py).

    Babies and giants are progressions `count, step, ...` (ir/diagonals.py); with `hoist`, their offsets are made in one
    call of the engine, each with a key of its own. Costs one level; the result has scale
    2^`scale` exactly, whatever that of x is: the diagonals are encoded at what is missing.
    """
    source, into, plan = Packing.parse(_types[0][0].packing), Packing.parse(target), Plan.of(babies, giants, folds)
    given = {"strides": strides, "pads": pads, "groups": groups, "rows": rows, "columns": columns}
    found = diagonals(plan, source, into, linear_map(source, into, w.shape, given), w.reshape(-1) != 0)
    y = run_plan(Slots(found, w), np.asarray(x, np.float64), plan, found.entries)
    return y if b is None else y + into.pack(b)


@op("he.repack", "x: T[*S], w: T2[*R] -> any[?]", declared=_declared(_linear_rule))
def repack(x, w, *, target: str, babies: Ints, giants: Ints, folds: Ints, bits: int, scale: int, _types):
    """The same elements in another packing, each times `w` (one number, or one per element). Costs one level."""
    source, into, plan = Packing.parse(_types[0][0].packing), Packing.parse(target), Plan.of(babies, giants, folds)
    found = diagonals(plan, source, into, identity_map(source.size))
    weights = np.broadcast_to(np.asarray(w, np.float64).reshape(-1), (source.size,))
    return run_plan(Slots(found, weights), np.asarray(x, np.float64), plan, found.entries)


def identity_map(size: int) -> LinearMap:
    """Element i goes to element i, times weight i."""
    return LinearMap(size, size, 1, lambda r, c: (r, r == c), np.ones(size, np.int64), lambda r: 1)


@op("he.polynomial", "x: T[*S] -> any[?]", declared=_declared(_polynomial_rule))
def polynomial(x, *, coeffs: Floats, bits: Ints, scale: int):
    """sum of coeffs[i] x^i in every slot; `bits` are those of the primes it rescales by, one for each level."""
    return sum((c * x**i for i, c in enumerate(coeffs)), np.zeros_like(x))


@op("he.monic", "x: T[*S] -> any[?]", declared=_declared(_monic_rule))
def monic(x, *, coeffs: Floats, bits: Ints):
    """x^d + sum of coeffs[i] x^i for d = 4 or 8, in log2(d) levels: squares completed one inside the other.

    The scale is that of a number squared so often; coeffs[d - 1] is 0 (shift x before).
    """
    return sum((c * x**i for i, c in enumerate((*coeffs, 1.0))), np.zeros_like(x))


def polynomial_levels(degree: int) -> int:
    """Levels of `he.polynomial`: the powers, and one for the coefficients."""
    return math.ceil(math.log2(max(2, degree))) + 1


@op("he.bootstrap", "x: T[*S] -> any[?]", declared=_declared(_bootstrap_rule))
def bootstrap(x, *, level: int, scale: int):
    """The same values, at most 1 in size, at a higher level (Cheon et al. 2018)."""
    return x
