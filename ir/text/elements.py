"""Syntax of types and element types to the types themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from ..constants import Constant
from ..diagnostics import IntaglioError
from ..dims import Extent
from ..types import (
    DENSE,
    NM,
    Affine,
    Block,
    Channels,
    Cipher,
    Csr,
    Elem,
    Float,
    Int,
    Layout,
    Pow2,
    Sign,
    Tensor,
    Type,
    elem_named,
)
from . import syntax
from .fault import Fault
from .lexer import Token
from .syntax import Literal, Named, Parametric, Reference

__all__ = ["Lookup", "read_elem", "read_extent", "read_type"]

Lookup = Callable[[Reference], Constant]  # finds constants by name


def read_type(found: syntax.Tensor, lookup: Lookup) -> Type:
    """The type that `found` writes."""
    shape = tuple([read_extent(d) for d in found.shape])
    element = found.element
    if isinstance(element, Parametric) and element.name == "cipher":
        if found.layout is not None or found.space is not None:
            raise Fault("IG0308", "an encrypted tensor has no layout and no memory space", found.pos, 6)
        return _cipher(element, shape)
    elem = read_elem(element, lookup)
    layout = DENSE if found.layout is None else _layout(found.layout)
    space = "" if found.space is None else syntax.unquote(found.space.value, found.space.pos)
    try:
        return Tensor(shape, elem, layout, space)
    except IntaglioError as e:
        raise Fault.inside(e.diagnostics[0], found.pos, 1) from None


def read_extent(found: Literal | Named) -> Extent:
    return syntax.symbolic(found.name, found.pos) if isinstance(found, Named) else found.value


def read_elem(found: Any, lookup: Lookup) -> Elem:
    """The element type that `found` writes."""
    if isinstance(found, Named):
        try:
            return elem_named(found.name)
        except IntaglioError as e:
            raise Fault.inside(e.diagnostics[0], found.pos, len(found.name)) from None
    given = _Parameters(found, lookup)
    if found.name == "q":
        store, real = given.elem("store", (Int, Float)), given.elem("real", (Float,))
        scale, axis, group = given.number("scale"), given.integer("axis", None), given.integer("group", None)
        zero = given.number("zero", 0, int if isinstance(store, Int) else float)
        return given.done(Affine, store, real, scale, zero, axis, group)
    if found.name == "sign":
        real = given.elem("real", (Float,))
        return given.done(Sign, real, given.number("scale", 1.0), given.integer("axis", None))
    if found.name == "pow2":
        bits, real = given.positional("bits"), given.elem("real", (Float,))
        if not isinstance(bits, Literal) or type(bits.value) is not int:
            raise Fault("IG0308", "`pow2` begins with its number of bits", found.pos, len(found.name))
        return given.done(Pow2, bits.value, real, given.integer("bias", 0))
    if found.name == "cipher":
        raise Fault("IG0308", "`cipher` is a type of its own and no element", found.pos, len(found.name))
    hint = "parametric elements are q<...>, sign<...> and pow2<...>"
    raise Fault("IG0202", f"`{found.name}` takes no parameters", found.pos, len(found.name), hint=hint)


def _cipher(found: Parametric, shape: tuple[Extent, ...]) -> Cipher:
    given = _Parameters(found, None)
    scheme = given.positional("scheme")
    if not isinstance(scheme, Named):
        raise Fault("IG0308", "`cipher` begins with its scheme, such as ckks", found.pos, len(found.name))
    level, scale, packing = given.integer("level"), given.exponent("scale"), given.string("packing")
    return given.done(Cipher, shape, packing, level, scale, scheme.name, given.integer("size", 2))


def _layout(found: syntax.Layout) -> Layout:
    name, pos = found.name.value, found.name.pos
    items = dict(found.items)
    if len(items) != len(found.items):
        raise Fault("IG0307", f"layout `{name}` has a parameter twice", pos, len(name))
    kinds = {k: type(v) for k, v in items.items()}
    if name == "nm" and kinds == {":": tuple, "axis": int}:
        n, m = items[":"]
        return NM(n, m, items["axis"])
    if name == "block" and kinds == {"x": tuple}:
        return Block(items["x"])
    if name == "csr" and not kinds:
        return Csr()
    if name == "channels" and kinds == {"axis": int, "kept": tuple}:
        return Channels(items["axis"], items["kept"])
    hint = "layouts are {nm 2:4 axis=1}, {block 4x4}, {csr} and {channels axis=0 kept=[0, 2]}"
    raise Fault("IG0308", f"`{name}` is no such layout", pos, len(name), hint=hint)


_REQUIRED: Any = object()


class _Parameters:
    """The parameters of one `name<...>`, taken one by one."""

    def __init__(self, found: Parametric, lookup: Lookup | None) -> None:
        self.name, self.pos, self.lookup = found.name, found.pos, lookup
        self.positions: list[Any] = []
        self.keys: dict[str, Any] = {}
        self.tokens: dict[str, Token] = {}
        self.taken: list[str] = []
        for key, argument in found.parameters:
            if key is None:
                if self.keys:
                    raise self.fault("has a parameter without a name after named ones")
                self.positions.append(argument)
            elif key.value in self.keys:
                raise Fault("IG0307", f"`{self.name}` has `{key.value}` twice", key.pos, len(key.value))
            else:
                self.keys[key.value], self.tokens[key.value] = argument, key

    def fault(self, message: str) -> Fault:
        return Fault("IG0308", f"`{self.name}` {message}", self.pos, len(self.name))

    def positional(self, name: str) -> Any:
        if not self.positions:
            raise self.fault(f"needs its {name}")
        return self.positions.pop(0)

    def elem(self, name: str, kinds: tuple[type, ...]) -> Any:
        argument = self.positional(name)
        if not isinstance(argument, Named):
            raise self.fault(f"needs an element type as its {name}")
        elem = read_elem(argument, self.lookup or _no_constants)
        if not isinstance(elem, kinds):
            wanted = " or ".join("an integer type" if k is Int else "a float type" for k in kinds)
            raise Fault("IG0308", f"`{self.name}` wants {wanted} as its {name}", argument.pos, len(argument.name))
        return elem

    def take(self, name: str, default: Any) -> Any:
        self.taken.append(name)
        if name in self.keys:
            return self.keys.pop(name)
        if default is _REQUIRED:
            raise self.fault(f"needs `{name}`")
        return Literal(default, self.pos, len(self.name))

    def number(self, name: str, default: Any = _REQUIRED, kind: type = float) -> Any:
        """A number (an integer when `kind` says so), or a constant."""
        found = self.take(name, default)
        if isinstance(found, Named) and found.name in ("inf", "nan"):
            return float(found.name)
        if isinstance(found, Reference) and self.lookup is not None:
            return self.lookup(found)
        value = found.value if isinstance(found, Literal) else None
        if type(value) is int or (type(value) is float and kind is float):
            return kind(value)
        raise self.fault(f"wants {'a number' if kind is float else 'an integer'} as `{name}`")

    def integer(self, name: str, default: Any = _REQUIRED) -> Any:
        found = self.take(name, default)
        if isinstance(found, Literal) and (type(found.value) is int or found.value is default):
            return found.value
        raise self.fault(f"wants an integer as `{name}`")

    def string(self, name: str) -> str:
        found = self.take(name, _REQUIRED)
        if isinstance(found, Literal) and type(found.value) is str:
            return found.value
        raise self.fault(f"wants a string as `{name}`")

    def exponent(self, name: str) -> Fraction:
        """The exponent of `2^40`, or of `"2^81/2"` where it is a fraction."""
        found = self.take(name, _REQUIRED)
        value: Any = found.value if isinstance(found, Literal) else None
        if type(value) is float and math.isfinite(value) and math.frexp(value)[0] == 0.5:
            return Fraction(math.frexp(value)[1] - 1)
        if type(value) is str and (m := re.fullmatch(r"2\^(-?[0-9]{1,4000})/([1-9][0-9]{0,3999})", value)):
            return Fraction(int(m[1]), int(m[2]))
        raise self.fault(f'wants a power of two as `{name}`, such as 2^40 or "2^81/2"')

    def done(self, make: Callable[..., Any], *values: Any) -> Any:
        """The element or type of all parameters; none may be left over."""
        if self.positions:
            raise self.fault("has more parameters without a name than it takes")
        for name in self.keys:
            token = self.tokens[name]
            hint = f"it takes {', '.join(self.taken)}"
            raise Fault("IG0308", f"`{self.name}` has no parameter `{name}`", token.pos, len(name), hint=hint)
        try:
            return make(*values)
        except IntaglioError as e:
            raise Fault.inside(e.diagnostics[0], self.pos, len(self.name)) from None


def _no_constants(found: Reference) -> Constant:
    raise Fault("IG0310", f"the constant @{found.name} cannot stand here", found.pos, found.length)
