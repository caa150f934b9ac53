"""Ops: one declaration each, from which everything else is derived.

    @op("math.relu", "x: N[*S] -> N[*S]", elementwise, monotone("x"), lipschitz(1))
    def relu(x):
        \"\"\"The larger of `x` and 0.\"\"\"
        return np.maximum(x, 0)

The signature gives types (signature.py); the function's keyword-only parameters are the attributes, with their kinds
(annotations) and defaults; its body is the meaning, on NumPy arrays. A function that also declares a parameter `_types`
is given `(operand types, result types)`: that is how quantised casts know their scales.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .constants import Constant
from .diagnostics import error
from .dims import Dim, Extent
from .graph import Attrs, Graph
from .shapes import FUNCTIONS
from .signature import Signature, parse_signature
from .types import Affine, Bool, Elem, Float, Int, Pow2, Sign, Type

__all__ = ["Body", "Data", "Fact", "Floats", "Ints", "Op", "ShapeAttr", "Strs", "op"]

# Annotations of attributes. Tuples are written as lists in the text form.
Ints = tuple[int, ...]
Floats = tuple[float, ...]
Strs = tuple[str, ...]
ShapeAttr = tuple[Extent, ...]
Body = Graph
Data = Constant


@dataclass(frozen=True, slots=True)
class Fact:
    """Something true of an op for every input, used by rules and analyses and checked by property tests."""

    name: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.args))})" if self.args else self.name


elementwise = Fact("elementwise")  # result element i depends on the (broadcast) operand elements i only
commutative = Fact("commutative")  # the first two operands may change places
associative = Fact("associative")
idempotent = Fact("idempotent")  # f(f(x)) = f(x)
structural = Fact("structural")  # moves or drops elements, computes none
dynamic = Fact("dynamic")  # the result's shape depends on operand values: only the interpreter runs it


def monotone(operand: str) -> Fact:
    """Non-decreasing in `operand`."""
    return Fact("monotone", (operand,))


def lipschitz(constant: float) -> Fact:
    """|f(x) - f(y)| <= constant * |x - y| in every operand."""
    return Fact("lipschitz", (constant,))


def linear(operand: str) -> Fact:
    return Fact("linear", (operand,))


def bilinear(a: str, b: str) -> Fact:
    return Fact("bilinear", (a, b))


@dataclass(frozen=True, eq=False)
class Op:
    """An operation of the language. `attrs` maps attribute names to their kinds, `defaults` those with a default."""

    name: str
    signature: Signature
    function: Callable[..., Any]
    facts: tuple[Fact, ...]
    attrs: Mapping[str, Any]
    defaults: Mapping[str, Any]
    typed: bool
    flops: Callable[..., Extent] | None
    declared: Callable[..., None] | None
    _memo: dict[Any, tuple[Type, ...]]

    @property
    def dialect(self) -> str:
        return self.name.partition(".")[0] if "." in self.name else ""

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    def has(self, fact: str) -> bool:
        return any(f.name == fact for f in self.facts)

    def infer(self, types: tuple[Type | None, ...], attrs: Attrs) -> tuple[Type, ...]:
        """Result types of operand types; raises IG02xx. Remembered, so repeating it costs a dictionary look-up.

        Ops with `declared` have no types of their own: they are written beside the node (`check_declared`).
        """
        key = (types, attrs)
        found = self._memo.get(key)
        if found is None:
            self.check_attrs(attrs)
            found = self.signature.infer(self.name, types, {**self.defaults, **attrs})
            self._memo[key] = found
        return found

    def check_declared(self, types: tuple[Type | None, ...], attrs: Attrs, results: tuple[Type, ...]) -> None:
        """Whether the types written beside a node can be right; raises IG02xx."""
        self.check_attrs(attrs)
        if self.declared is not None:
            self.declared(types, attrs, results)

    def check_attrs(self, attrs: Mapping[str, Any]) -> None:
        """Every attribute is known and of its kind, and none that is required is missing (IG0204)."""
        for name, value in attrs.items():
            if name not in self.attrs:
                known = ", ".join(self.attrs) or "none"
                raise error("IG0204", f"`{self.name}` has no attribute `{name}`", hint=f"it has: {known}")
            if not _fits(value, self.attrs[name]) and not (value is None and self.defaults.get(name, 0) is None):
                what = f"`{self.name}` attribute `{name}` is {kind_name(self.attrs[name])}, not {value!r}"
                hint = f"write {value}.0" if self.attrs[name] is float and type(value) is int else ""
                raise error("IG0204", what, hint=hint)
        for name in self.attrs:
            if name not in self.defaults and name not in attrs:
                raise error("IG0204", f"`{self.name}` needs attribute `{name}` ({kind_name(self.attrs[name])})")

    def normal(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """`attrs` without those that say what the default says anyway."""
        kept = {}
        for k, v in attrs.items():
            v = tuple(v) if isinstance(v, list) else v
            if k in self.defaults and type(v) is type(self.defaults[k]) and v == self.defaults[k]:
                continue
            kept[k] = v
        return kept

    def __repr__(self) -> str:
        return self.name


_ELEMS = (Float, Int, Bool, Affine, Sign, Pow2)


def _fits(value: Any, kind: Any) -> bool:
    if kind is int:
        return type(value) is int
    if kind is float:
        return type(value) is float
    if kind is bool or kind is str:
        return type(value) is kind
    if kind == Ints:
        return type(value) is tuple and all(type(v) is int for v in value)
    if kind == Floats:
        return type(value) is tuple and all(type(v) is float for v in value)
    if kind == Strs:
        return type(value) is tuple and all(type(v) is str for v in value)
    if kind == ShapeAttr:
        return type(value) is tuple and all(type(v) is int or type(v) is Dim for v in value)
    if kind is Graph or kind is Constant or kind is Attrs:
        return isinstance(value, kind)
    return isinstance(value, _ELEMS)  # kind is Elem


def kind_name(kind: Any) -> str:
    """The kind of an attribute in words."""
    names: list[tuple[Any, str]] = [
        (int, "an integer"),
        (float, "a float"),
        (bool, "true or false"),
        (str, "a string"),
        (Ints, "a list of integers"),
        (Floats, "a list of floats"),
        (Strs, "a list of strings"),
        (ShapeAttr, "a shape"),
        (Graph, "a graph"),
        (Constant, "a constant"),
        (Attrs, "attributes"),
    ]
    return next((text for k, text in names if k == kind), "an element type")


def op(
    name: str,
    signature: str,
    *facts: Fact,
    flops: Callable[..., Extent] | None = None,
    declared: Callable[..., None] | None = None,
) -> Callable[[Any], Op]:
    """Declare an op.

    `flops(*operand_shapes, **attrs)` overrides the default cost of one operation per result element. `declared(operand
    types, attrs, result types)` says that result types are written beside the node, and checks them (IG02xx).
    """
    if not re.fullmatch(r"([a-z][a-z0-9_]*\.)?[a-z][a-z0-9_]*", name):
        raise ValueError(f"bad op name {name!r}")

    def declare(function: Callable[..., Any]) -> Op:
        parameters = inspect.signature(function).parameters.values()
        hints = typing.get_type_hints(function)
        keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "_types"]
        attrs = {p.name: _kind(hints[p.name]) for p in keyword}
        defaults = {p.name: p.default for p in keyword if p.default is not p.empty}
        typed = any(p.name == "_types" for p in parameters)
        parsed = parse_signature(signature, FUNCTIONS)
        return Op(name, parsed, function, facts, attrs, defaults, typed, flops, declared, {})

    return declare


def _kind(hint: Any) -> Any:
    """`Ints | None` is `Ints`: absence is the default's business. Unions of elements are `Elem`."""
    args = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) is tuple or not args:
        return hint
    return args[0] if len(args) == 1 else Elem
