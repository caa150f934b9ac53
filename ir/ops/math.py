"""`math`: arithmetic, comparison and logic, element by element with NumPy's broadcasting, and reductions."""

# Functions are the ops' meaning and shadow builtins only inside this module, under a trailing underscore.
from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dims import Extent, Shape, size
from ..op import (
    Ints,
    Op,
    associative,
    commutative,
    elementwise,
    idempotent,
    linear,
    lipschitz,
    monotone,
    op,
    structural,
)
from ..shapes import einsum_terms
from ..types import Bool, Elem, Float, Int
from ._numpy import at_least_f32, cast_array, contiguous, low_precision, round_half_even, safe

_UNARY = "x: {0}[*S] -> {0}[*S]"
_BINARY = "a: {0}[*A], b: {0}[*B] -> {0}[*broadcast(A, B)]"
_COMPARE = "a: {0}[*A], b: {0}[*B] -> bool[*broadcast(A, B)]"
F, N, INT, T = (_UNARY.format(k) for k in "FNIT")


# --- one operand ----------------------------------------------------------------------------------------------------


@op("math.neg", N, elementwise, linear("x"), lipschitz(1))
def neg(x):
    """-x; integers wrap."""
    return np.negative(x)


@op("math.abs", N, elementwise, lipschitz(1), idempotent)
def abs_(x):
    """|x|."""
    return np.abs(x)


@op("math.sign", N, elementwise, monotone("x"), idempotent)
def sign(x):
    """-1, 0 or 1; nan stays nan."""
    return np.sign(x)


@op("math.relu", N, elementwise, monotone("x"), lipschitz(1), idempotent)
def relu(x):
    """The larger of x and 0; nan stays nan."""
    return np.maximum(x, x.dtype.type(0))


@op("math.leaky_relu", F, elementwise, lipschitz(1))
def leaky_relu(x, *, alpha: float = 0.01):
    """x where x >= 0, alpha * x elsewhere."""
    return np.where(x >= 0, x, x * x.dtype.type(alpha))


@op("math.exp", F, elementwise, monotone("x"))
@at_least_f32
def exp(x):
    """e to the x."""
    return np.exp(x)


@op("math.log", F, elementwise, monotone("x"))
@at_least_f32
def log(x):
    """Natural logarithm; -inf at 0, nan below."""
    return np.log(x)


@op("math.sqrt", F, elementwise, monotone("x"))
@at_least_f32
def sqrt(x):
    """Square root; nan below 0."""
    return np.sqrt(x)


@op("math.reciprocal", F, elementwise)
@at_least_f32
def reciprocal(x):
    """1 / x."""
    return np.reciprocal(x)


@op("math.sigmoid", F, elementwise, monotone("x"), lipschitz(0.25))
@at_least_f32
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow for large |x|."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


@op("math.softplus", F, elementwise, monotone("x"), lipschitz(1))
@at_least_f32
def softplus(x):
    """log(1 + exp(x)), without overflow for large x."""
    return np.logaddexp(x, x.dtype.type(0))


_erf = np.frompyfunc(math.erf, 1, 1)


@op("math.erf", F, elementwise, monotone("x"), lipschitz(2 / math.sqrt(math.pi)))
@at_least_f32
def erf(x):
    """The error function, 2/sqrt(pi) times the integral of exp(-t*t) from 0 to x."""
    return np.asarray(_erf(x.astype(np.float64))).astype(x.dtype)


def _transcendental(name: str, fn: Any, doc: str, *facts: Any) -> Op:
    def meaning(x):
        return fn(x)

    meaning.__doc__, meaning.__name__ = doc, name
    return op(f"math.{name}", F, elementwise, *facts)(at_least_f32(meaning))


sin = _transcendental("sin", np.sin, "Sine of x in radians.", lipschitz(1))
cos = _transcendental("cos", np.cos, "Cosine of x in radians.", lipschitz(1))
tan = _transcendental("tan", np.tan, "Tangent of x in radians.")
asin = _transcendental("asin", np.arcsin, "Inverse sine; nan outside [-1, 1].", monotone("x"))
acos = _transcendental("acos", np.arccos, "Inverse cosine; nan outside [-1, 1].")
atan = _transcendental("atan", np.arctan, "Inverse tangent.", monotone("x"), lipschitz(1))
sinh = _transcendental("sinh", np.sinh, "Hyperbolic sine.", monotone("x"))
cosh = _transcendental("cosh", np.cosh, "Hyperbolic cosine.")
tanh = _transcendental("tanh", np.tanh, "Hyperbolic tangent.", monotone("x"), lipschitz(1))
asinh = _transcendental("asinh", np.arcsinh, "Inverse hyperbolic sine.", monotone("x"), lipschitz(1))
acosh = _transcendental("acosh", np.arccosh, "Inverse hyperbolic cosine; nan below 1.", monotone("x"))
atanh = _transcendental("atanh", np.arctanh, "Inverse hyperbolic tangent; nan outside [-1, 1].", monotone("x"))


@op("math.floor", F, elementwise, monotone("x"), idempotent)
@at_least_f32
def floor(x):
    """The largest integer not above x."""
    return np.floor(x)


@op("math.ceil", F, elementwise, monotone("x"), idempotent)
@at_least_f32
def ceil(x):
    """The smallest integer not below x."""
    return np.ceil(x)


@op("math.round", F, elementwise, monotone("x"), idempotent)
@at_least_f32
def round_(x):
    """The nearest integer, halves to the even one."""
    return round_half_even(x)


@op("math.is_nan", "x: F[*S] -> bool[*S]", elementwise)
def is_nan(x):
    """Whether x is not a number."""
    return np.isnan(x)


@op("math.is_inf", "x: F[*S] -> bool[*S]", elementwise)
def is_inf(x, *, negative: bool = True, positive: bool = True):
    """Whether x is infinite, of the wanted signs."""
    return np.isinf(x) & ((x < 0) & negative | (x > 0) & positive)


@op("math.not", "x: bool[*S] -> bool[*S]", elementwise)
def not_(x):
    """Logical negation."""
    return np.logical_not(x)


@op("math.bit_not", INT, elementwise)
def bit_not(x):
    """All bits inverted."""
    return np.invert(x)


# --- two operands ---------------------------------------------------------------------------------------------------


@op("math.add", _BINARY.format("N"), elementwise, commutative, monotone("a"), monotone("b"), lipschitz(1))
def add(a, b):
    """a + b; integers wrap."""
    return np.add(a, b)


@op("math.sub", _BINARY.format("N"), elementwise, monotone("a"), lipschitz(1))
def sub(a, b):
    """a - b; integers wrap."""
    return np.subtract(a, b)


@op("math.mul", _BINARY.format("N"), elementwise, commutative)
def mul(a, b):
    """a * b; integers wrap."""
    return np.multiply(a, b)


@op("math.div", _BINARY.format("N"), elementwise)
def div(a, b):
    """a / b; integers round towards zero, and dividing an integer by zero gives 0."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    quotient = np.floor_divide(a, np.where(b == 0, b.dtype.type(1), b))
    if a.dtype.kind == "i":  # floor_divide rounds down: step back up where signs differ and a remainder is left
        remainder = np.subtract(a, np.multiply(quotient, b))
        quotient = quotient + ((remainder != 0) & ((a < 0) != (b < 0))).astype(a.dtype)
    return np.where(b == 0, a.dtype.type(0), quotient).astype(a.dtype)


@op("math.mod", _BINARY.format("N"), elementwise)
def mod(a, b, *, truncated: bool = False):
    """Remainder with the sign of b, or of a when `truncated` (C's fmod); an integer modulo zero gives 0."""
    if a.dtype.kind in "iu":
        divisor = np.where(b == 0, b.dtype.type(1), b)
        return np.where(b == 0, a.dtype.type(0), (np.fmod if truncated else np.mod)(a, divisor)).astype(a.dtype)
    return (np.fmod if truncated else np.mod)(a, b)


@op("math.pow", "a: N[*A], b: N2[*B] -> N[*broadcast(A, B)]", elementwise)
def pow_(a, b):
    """a to the power b, in a's type; computed in floating point when either is."""
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        wide = np.power(a.astype(np.int64), np.maximum(b.astype(np.int64), 0))
        inverse = np.where(
            a == 1, 1, np.where(a == -1 if a.dtype.kind == "i" else False, 1 - 2 * (b.astype(np.int64) & 1), 0)
        )
        return np.where(b < 0, inverse, wide).astype(a.dtype)
    wide_type = np.float64 if a.dtype.itemsize > 4 or a.dtype.kind in "iu" else np.float32
    return np.power(a.astype(wide_type), b.astype(wide_type)).astype(a.dtype)


@op(
    "math.minimum",
    _BINARY.format("N"),
    elementwise,
    commutative,
    associative,
    monotone("a"),
    monotone("b"),
    lipschitz(1),
)
def minimum(a, b):
    """The smaller one; nan wins."""
    return np.minimum(a, b)


@op(
    "math.maximum",
    _BINARY.format("N"),
    elementwise,
    commutative,
    associative,
    monotone("a"),
    monotone("b"),
    lipschitz(1),
)
def maximum(a, b):
    """The larger one; nan wins."""
    return np.maximum(a, b)


@op("math.and", _BINARY.format("B"), elementwise, commutative, associative)
def and_(a, b):
    """Both."""
    return np.logical_and(a, b)


@op("math.or", _BINARY.format("B"), elementwise, commutative, associative)
def or_(a, b):
    """Either."""
    return np.logical_or(a, b)


@op("math.xor", _BINARY.format("B"), elementwise, commutative, associative)
def xor(a, b):
    """Exactly one."""
    return np.logical_xor(a, b)


@op("math.bit_and", _BINARY.format("I"), elementwise, commutative, associative)
def bit_and(a, b):
    """Bitwise and."""
    return np.bitwise_and(a, b)


@op("math.bit_or", _BINARY.format("I"), elementwise, commutative, associative)
def bit_or(a, b):
    """Bitwise or."""
    return np.bitwise_or(a, b)


@op("math.bit_xor", _BINARY.format("I"), elementwise, commutative, associative)
def bit_xor(a, b):
    """Bitwise exclusive or."""
    return np.bitwise_xor(a, b)


@op("math.shift_left", _BINARY.format("I"), elementwise)
def shift_left(a, b):
    """a * 2**b; bits shifted out are lost, shifting by the width or more gives 0."""
    return np.left_shift(a, b)


@op("math.shift_right", _BINARY.format("I"), elementwise)
def shift_right(a, b):
    """a / 2**b rounded down; unsigned types fill with zeros, signed ones with the sign."""
    return np.right_shift(a, b)


@op("math.equal", _COMPARE.format("T"), elementwise, commutative)
def equal(a, b):
    """a == b; nan equals nothing."""
    return np.equal(a, b)


@op("math.not_equal", _COMPARE.format("T"), elementwise, commutative)
def not_equal(a, b):
    """a != b."""
    return np.not_equal(a, b)


@op("math.less", _COMPARE.format("N"), elementwise)
def less(a, b):
    """a < b."""
    return np.less(a, b)


@op("math.less_equal", _COMPARE.format("N"), elementwise)
def less_equal(a, b):
    """a <= b."""
    return np.less_equal(a, b)


@op("math.greater", _COMPARE.format("N"), elementwise)
def greater(a, b):
    """a > b."""
    return np.greater(a, b)


@op("math.greater_equal", _COMPARE.format("N"), elementwise)
def greater_equal(a, b):
    """a >= b."""
    return np.greater_equal(a, b)


@op("math.where", "c: bool[*C], a: T[*A], b: T[*B] -> T[*broadcast(C, A, B)]", elementwise)
def where(c, a, b):
    """a where c holds, b elsewhere."""
    return np.where(c, a, b)


# --- types ----------------------------------------------------------------------------------------------------------


@op("math.cast", "x: T[*S] -> to[*S]", elementwise)
def cast(x, *, to: Float | Int | Bool, saturate: bool = True, round_up: bool = True):
    """The nearest value of type `to`.

    Floats to integers round towards zero, integers wrap. To fp8, values beyond
    the range become the largest finite one, or inf/nan when not `saturate`; to f8e8m0 a power of two, `round_up` or to
    the nearest.
    """
    return cast_array(x, to, saturate, round_up)


@op("math.bitcast", "x: T[*S] -> to[*S]", elementwise, structural)
def bitcast(x, *, to: Elem):
    """The same bits read as another type of the same width."""
    return np.ascontiguousarray(x).view(to.dtype).reshape(x.shape)


# --- reductions -----------------------------------------------------------------------------------------------------

_REDUCE = "x: {0}[*S] -> {0}[*reduced(S)]"


def _axes(axes: Ints | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(axes)


@op("math.reduce_sum", _REDUCE.format("N"), linear("x"))
@contiguous
def reduce_sum(x, *, axes: Ints | None = None, keepdims: bool = True):
    """Sum over `axes` (all of them when absent); low-precision floats add up in f32."""
    return safe(np.sum, x, axis=_axes(axes), keepdims=keepdims)


@op("math.reduce_mean", _REDUCE.format("N"), linear("x"), lipschitz(1))
@contiguous
def reduce_mean(x, *, axes: Ints | None = None, keepdims: bool = True):
    """Mean over `axes`; integers round towards zero."""
    return safe(np.mean, x, axis=_axes(axes), keepdims=keepdims)


@op("math.reduce_max", _REDUCE.format("T"), monotone("x"), lipschitz(1))
@contiguous
def reduce_max(x, *, axes: Ints | None = None, keepdims: bool = True):
    """Largest element over `axes`; of none: -inf, or the type's smallest value."""
    return np.max(x, axis=_axes(axes), keepdims=keepdims, initial=_lowest(x.dtype))


@op("math.reduce_min", _REDUCE.format("T"), monotone("x"), lipschitz(1))
@contiguous
def reduce_min(x, *, axes: Ints | None = None, keepdims: bool = True):
    """Smallest element over `axes`; of none: inf, or the type's largest value."""
    return np.min(x, axis=_axes(axes), keepdims=keepdims, initial=_highest(x.dtype))


@op("math.reduce_prod", _REDUCE.format("N"))
@contiguous
def reduce_prod(x, *, axes: Ints | None = None, keepdims: bool = True):
    """Product over `axes`."""
    return safe(np.prod, x, axis=_axes(axes), keepdims=keepdims)


def _lowest(dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        return np.iinfo(dtype).min
    return False if dtype.kind == "b" else dtype.type(-np.inf)


def _highest(dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return True if dtype.kind == "b" else dtype.type(np.inf)


def _argument(pick: Any, x: Any, axis: int, keepdims: bool, last: bool) -> Any:
    if last:
        found = x.shape[axis] - 1 - pick(np.flip(x, axis), axis=axis, keepdims=keepdims)
    else:
        found = pick(x, axis=axis, keepdims=keepdims)
    return np.asarray(found, dtype=np.int64)


@op("math.argmax", "x: N[*S] -> i64[*reduced_axis(S)]")
def argmax(x, *, axis: int, keepdims: bool = True, last: bool = False):
    """Index of the largest element along `axis`, the first such or the `last`."""
    return _argument(np.argmax, x, axis, keepdims, last)


@op("math.argmin", "x: N[*S] -> i64[*reduced_axis(S)]")
def argmin(x, *, axis: int, keepdims: bool = True, last: bool = False):
    """Index of the smallest element along `axis`, the first such or the `last`."""
    return _argument(np.argmin, x, axis, keepdims, last)


def _scan(fn: Any, start: int, x: Any, axis: int, exclusive: bool, reverse: bool) -> Any:
    x = np.flip(x, axis) if reverse else x
    y = fn(x, axis=axis, dtype=x.dtype)
    if exclusive:
        head = np.full_like(np.take(y, [0], axis=axis), start)
        y = np.concatenate([head, np.delete(y, -1, axis=axis)], axis=axis)
    return np.flip(y, axis) if reverse else y


@op("math.cumsum", N, linear("x"))
def cumsum(x, *, axis: int, exclusive: bool = False, reverse: bool = False):
    """Running sum along `axis`; `exclusive` leaves the own element out, `reverse` runs from the end."""
    return _scan(np.cumsum, 0, x, axis, exclusive, reverse)


@op("math.cumprod", N)
def cumprod(x, *, axis: int, exclusive: bool = False, reverse: bool = False):
    """Running product along `axis`."""
    return _scan(np.cumprod, 1, x, axis, exclusive, reverse)


@op("math.top_k", "x: N[*S] -> N[*with_extent(S)], i64[*with_extent(S)]")
def top_k(x, *, k: int, axis: int = -1, largest: bool = True):
    """The k largest (smallest) elements along `axis` in order, and their indices; ties go to the lower index."""
    order = np.argsort(x, axis=axis, kind="stable")
    if largest:  # stable and descending: reverse twice
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    index = np.take(order, np.arange(k), axis=axis)
    return np.take_along_axis(x, index, axis=axis), index.astype(np.int64)


def _einsum_flops(*shapes: Shape, equation: str) -> Extent:
    """A product and a sum for every combination of the letters."""
    terms, _ = einsum_terms(equation, [len(s) for s in shapes])
    extents: dict[str, Extent] = {}
    for term, s in zip(terms, shapes, strict=True):
        extents.update({letter: d for letter, d in zip(term, s, strict=True) if extents.get(letter, 1) == 1})
    return 2 * size(tuple(extents.values()))


@op("math.einsum", "xs: N[*S]... -> N[*einsum_shape(S)]", flops=_einsum_flops)
def einsum(*xs, equation: str):
    """Sum of products in Einstein's notation, as NumPy's einsum."""
    wide = [x.astype(np.float32) if low_precision(x.dtype) else x for x in xs]
    return np.asarray(np.einsum(equation, *wide, optimize=len(xs) > 2)).astype(xs[0].dtype)
