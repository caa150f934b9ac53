"""The types of values: element, shape, layout and memory space are independent facets.

    f32[N, 3, 224, 224]                             a float image batch with a symbolic batch size
    q<i8, f32, scale=@"conv1.scale", axis=0>[64, 3, 7, 7]{nm 2:4 axis=1}
    cipher<ckks, level=7, scale=2^40, packing="64x64/4096: 64*64 64*1">[64, 64]

Types are interned: equal types are the same object, so comparing them is comparing pointers. `str(type)` is the text
form and is computed once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from .constants import Constant
from .diagnostics import error
from .dims import Dim, Extent, Shape

__all__ = [
    "BOOL",
    "DENSE",
    "ELEM_NAMES",
    "Affine",
    "Block",
    "Bool",
    "Channels",
    "Cipher",
    "Csr",
    "Dense",
    "Elem",
    "Float",
    "Int",
    "Layout",
    "NM",
    "Pow2",
    "Sign",
    "Tensor",
    "Type",
    "elem_named",
    "elem_of",
]

_FLOATS: dict[str, Any] = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f8e4m3fn": ml_dtypes.float8_e4m3fn,
    "f8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "f8e5m2": ml_dtypes.float8_e5m2,
    "f8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "f8e8m0": ml_dtypes.float8_e8m0fnu,
    "f4e2m1": ml_dtypes.float4_e2m1fn,
}
_INTS: dict[str, Any] = {
    **{f"i{b}": getattr(np, f"int{b}") for b in (8, 16, 32, 64)},
    **{f"u{b}": getattr(np, f"uint{b}") for b in (8, 16, 32, 64)},
    "i4": ml_dtypes.int4,
    "u4": ml_dtypes.uint4,
    "i2": ml_dtypes.int2,
    "u2": ml_dtypes.uint2,
}


class _Interned:
    """Base of types: constructing with equal facets returns the one existing object."""

    __slots__ = ("_text",)
    _fields: ClassVar[tuple[str, ...]] = ()
    _pool: ClassVar[dict[tuple[Any, ...], Any]] = {}
    _text: str

    @classmethod
    def _make(cls, *values: Any, label: tuple[str, ...] = ()) -> Any:
        key = (cls, *values, *label)
        found = _Interned._pool.get(key)
        if found is None:
            found = object.__new__(cls)
            for name, value in zip(cls._fields, values, strict=True):
                object.__setattr__(found, name, value)
            object.__setattr__(found, "_text", found._render())
            _Interned._pool[key] = found
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    # no __eq__ and __hash__: one object per type makes identity the equality, and the fastest one

    def __repr__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f) for f in self._fields)

    def _render(self) -> str:
        raise NotImplementedError


# --- elements -------------------------------------------------------------------------------------------------------


class Float(_Interned):
    """An IEEE-style float: f64, f32, f16, bf16, the four fp8, f8e8m0 (scales) and f4e2m1."""

    __slots__ = ("name",)
    _fields = ("name",)
    name: str

    def __new__(cls, name: str) -> Float:
        if name not in _FLOATS:
            raise error("IG0202", f"`{name}` is not a float type", hint=f"one of {', '.join(_FLOATS)}")
        return cls._make(name)

    def _render(self) -> str:
        return self.name

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(_FLOATS[self.name])


class Int(_Interned):
    """A two's complement integer: i2..i64, u2..u64; below 8 bits each element takes a byte in memory (ml_dtypes)."""

    __slots__ = ("name",)
    _fields = ("name",)
    name: str

    def __new__(cls, name: str) -> Int:
        if name not in _INTS:
            raise error("IG0202", f"`{name}` is not an integer type", hint=f"one of {', '.join(_INTS)}")
        return cls._make(name)

    def _render(self) -> str:
        return self.name

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(_INTS[self.name])

    @property
    def bits(self) -> int:
        return int(self.name[1:])

    @property
    def signed(self) -> bool:
        return self.name[0] == "i"

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest value."""
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)


class Bool(_Interned):
    """Truth values."""

    __slots__ = ()

    def __new__(cls) -> Bool:
        return cls._make()

    def _render(self) -> str:
        return "bool"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.bool_)


Scale = float | Constant
Reference = Callable[[Constant], str]


def _reference(c: Constant) -> str:
    return f"@{json.dumps(c.name)}"


def _label(*scales: Scale) -> tuple[str, ...]:
    """Names of constants: types that differ in them only are kept apart, or a text would depend on what ran before."""
    return tuple([x.name for x in scales if isinstance(x, Constant)])


def _scalar(x: Scale, reference: Reference) -> str:
    return reference(x) if isinstance(x, Constant) else repr(x)


class Affine(_Interned):
    """Quantised numbers: `real = (stored - zero) * scale`, per tensor, per `axis`, or per `group` entries along it.

    `store` is the integer (or fp8) type in memory, `real` the float type it stands for. `scale` and `zero` are numbers,
    or constants with one entry per channel (per group).
    """

    __slots__ = ("axis", "group", "real", "scale", "store", "zero")
    _fields = ("store", "real", "scale", "zero", "axis", "group")
    store: Int | Float
    real: Float
    scale: Scale
    zero: int | float | Constant
    axis: int | None
    group: int | None

    def __new__(
        cls,
        store: Int | Float,
        real: Float,
        scale: Scale,
        zero: int | float | Constant = 0,
        axis: int | None = None,
        group: int | None = None,
    ) -> Affine:
        scale = scale if isinstance(scale, Constant) else float(scale)
        if not isinstance(zero, Constant):
            zero = int(zero) if isinstance(store, Int) else float(zero)
        return cls._make(store, real, scale, zero, axis, group, label=_label(scale, zero))

    def _render(self) -> str:
        return self.written(_reference)

    def written(self, reference: Reference) -> str:
        """The text form when `reference` says how constants are referred to."""
        text = f"q<{self.store}, {self.real}, scale={_scalar(self.scale, reference)}"
        text += (
            "" if self.zero == 0 and not isinstance(self.zero, Constant) else f", zero={_scalar(self.zero, reference)}"
        )
        text += "" if self.axis is None else f", axis={self.axis}"
        text += "" if self.group is None else f", group={self.group}"
        return text + ">"

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.store.dtype


class Sign(_Interned):
    """Binary numbers: `real = scale * (+1 or -1)`, stored as one bool each."""

    __slots__ = ("axis", "real", "scale")
    _fields = ("real", "scale", "axis")
    real: Float
    scale: Scale
    axis: int | None

    def __new__(cls, real: Float, scale: Scale = 1.0, axis: int | None = None) -> Sign:
        return cls._make(real, scale, axis, label=_label(scale))

    def _render(self) -> str:
        return self.written(_reference)

    def written(self, reference: Reference) -> str:
        """The text form when `reference` says how constants are referred to."""
        axis = "" if self.axis is None else f", axis={self.axis}"
        return f"sign<{self.real}, scale={_scalar(self.scale, reference)}{axis}>"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.bool_)


class Pow2(_Interned):
    """Powers of two: `real = ±2**(code - bias)` in `bits` bits (one for the sign, code 0 is zero)."""

    __slots__ = ("bias", "bits", "real")
    _fields = ("bits", "real", "bias")
    bits: int
    real: Float
    bias: int

    def __new__(cls, bits: int, real: Float, bias: int = 0) -> Pow2:
        return cls._make(bits, real, bias)

    def _render(self) -> str:
        return f"pow2<{self.bits}, {self.real}, bias={self.bias}>"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int8)


BOOL = Bool()
Elem = Float | Int | Bool | Affine | Sign | Pow2


ELEM_NAMES = frozenset({"bool", *_FLOATS, *_INTS})


@cache
def elem_named(name: str) -> Float | Int | Bool:
    """`elem_named("bf16")`; raises IG0202 for unknown names."""
    if name == "bool":
        return BOOL
    if name in _FLOATS:
        return Float(name)
    if name in _INTS:
        return Int(name)
    raise error("IG0202", f"`{name}` is not an element type", hint=f"one of bool, {', '.join([*_FLOATS, *_INTS])}")


_BY_DTYPE: dict[np.dtype[Any], str] = {np.dtype(t): n for n, t in {**_FLOATS, **_INTS}.items()} | {
    np.dtype(bool): "bool"
}


def elem_of(dtype: Any) -> Float | Int | Bool:
    """The element type of a NumPy dtype."""
    try:
        return elem_named(_BY_DTYPE[np.dtype(dtype)])
    except (KeyError, TypeError):
        raise error(
            "IG0202", f"no element type for NumPy's `{dtype}`", hint="complex, string and object data stay outside"
        ) from None


# --- layouts --------------------------------------------------------------------------------------------------------


class Layout(_Interned):
    """How the elements are stored: which are zero by construction, and in which format."""

    __slots__ = ()


class Dense(Layout):
    __slots__ = ()

    def __new__(cls) -> Dense:
        return cls._make()

    def _render(self) -> str:
        return ""


class NM(Layout):
    """At most `n` non-zeros in every `m` consecutive elements along `axis` (2:4 on sparse tensor cores)."""

    __slots__ = ("axis", "m", "n")
    _fields = ("n", "m", "axis")
    n: int
    m: int
    axis: int

    def __new__(cls, n: int, m: int, axis: int) -> NM:
        return cls._make(n, m, axis)

    def _render(self) -> str:
        return f"{{nm {self.n}:{self.m} axis={self.axis}}}"


class Block(Layout):
    """Zero or dense in whole blocks of `shape` over the leading axes."""

    __slots__ = ("shape",)
    _fields = ("shape",)
    shape: tuple[int, ...]

    def __new__(cls, shape: tuple[int, ...]) -> Block:
        return cls._make(tuple(shape))

    def _render(self) -> str:
        return f"{{block {'x'.join(map(str, self.shape))}}}"


class Csr(Layout):
    """Compressed sparse rows over the flattened trailing axes."""

    __slots__ = ()

    def __new__(cls) -> Csr:
        return cls._make()

    def _render(self) -> str:
        return "{csr}"


class Channels(Layout):
    """Only the channels `kept` along `axis` are non-zero."""

    __slots__ = ("axis", "kept")
    _fields = ("axis", "kept")
    axis: int
    kept: tuple[int, ...]

    def __new__(cls, axis: int, kept: tuple[int, ...]) -> Channels:
        return cls._make(axis, tuple(kept))

    def _render(self) -> str:
        return f"{{channels axis={self.axis} kept={list(self.kept)}}}"


DENSE = Dense()


# --- types ----------------------------------------------------------------------------------------------------------


class Tensor(_Interned):
    """A tensor of `elem` with `shape`, stored as `layout` in memory `space` ("" is the target's main memory)."""

    __slots__ = ("elem", "layout", "shape", "space")
    _fields = ("shape", "elem", "layout", "space")
    shape: Shape
    elem: Elem
    layout: Layout
    space: str

    def __new__(cls, shape: tuple[Extent, ...], elem: Elem | str, layout: Layout = DENSE, space: str = "") -> Tensor:
        if isinstance(elem, str):
            elem = elem_named(elem)
        # NumPy integers compare equal to Python's but print differently: keep them out of the pool
        extents = tuple([d if type(d) is int or type(d) is Dim else int(d) for d in shape])  # type: ignore[arg-type]
        if any(type(d) is int and d < 0 for d in extents):
            raise error("IG0207", f"no extent is negative, as in [{', '.join(map(str, extents))}]")
        return cls._make(extents, elem, layout, space)

    def _render(self) -> str:
        text = f"{self.elem}[{', '.join(map(str, self.shape))}]{self.layout}"
        return text + (f" in {json.dumps(self.space)}" if self.space else "")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static(self) -> bool:
        """Whether every extent is a known integer."""
        return not any(isinstance(d, Dim) for d in self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype of the stored elements."""
        return self.elem.dtype

    def with_shape(self, shape: tuple[Extent, ...]) -> Tensor:
        return Tensor(shape, self.elem, self.layout, self.space)


class Cipher(_Interned):
    """An encrypted tensor: `level` primes can still be dropped, `scale` is log2 of the encoding's, `packing` its slots.

    Level and scale are typing rules: a product adds the scales, rescaling drops a level, a sum needs equal scales and
    levels (CKKS, Cheon et al. 2017, section 3). Scales are exact rationals (ops/he.py says what a prime counts as).
    `size` is the number of polynomials: 3 between a product and its relinearisation.
    """

    __slots__ = ("level", "packing", "scale", "scheme", "shape", "size")
    _fields = ("shape", "packing", "level", "scale", "scheme", "size")
    shape: Shape
    packing: str
    level: int
    scale: Fraction
    scheme: str
    size: int

    def __new__(
        cls,
        shape: tuple[Extent, ...],
        packing: str,
        level: int,
        scale: Fraction | int,
        scheme: str = "ckks",
        size: int = 2,
    ) -> Cipher:
        if not -1000 <= scale <= 1000:
            raise error("IG0202", f"log2 of a cipher's scale is a rational number of usual size, not {scale}")
        if size not in (2, 3):
            raise error("IG0202", f"a cipher consists of 2 or 3 polynomials, not {size}")
        if level < 0:
            raise error("IG0202", f"a cipher's level is not negative, as {level} is")
        return cls._make(tuple(shape), packing, level, Fraction(scale), scheme, size)

    def _render(self) -> str:
        scale = f"2^{self.scale}" if self.scale.denominator == 1 else f'"2^{self.scale}"'
        size = "" if self.size == 2 else f", size={self.size}"
        head = f"cipher<{self.scheme}, level={self.level}, scale={scale}, packing={json.dumps(self.packing)}{size}>"
        return f"{head}[{', '.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static(self) -> bool:
        return not any(isinstance(d, Dim) for d in self.shape)


Type = Tensor | Cipher
