"""Syntax: what the rules of `ig.lark` make of their parts.

Records hold tokens and nothing of a program's meaning, so one parser serves every call and every thread; `build.py`
gives them meaning.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..diagnostics import IntaglioError
from ..dims import UNKNOWN, Dim, Extent, dim
from .fault import Fault
from .lexer import Token

__all__ = [
    "Actions",
    "Body",
    "Graph",
    "Layout",
    "Literal",
    "Module",
    "Named",
    "Nested",
    "Parametric",
    "Reference",
    "Tensor",
    "integer",
    "symbol",
    "symbolic",
    "unquote",
]

MOST_TERMS = 256  # in one extent: their polynomials stay small
LARGEST = (1 << 64) - 1  # of an integer's magnitude


class Literal(NamedTuple):
    """A number, a string, true, false, none, or an extent."""

    value: Any
    pos: int
    length: int


class Named(NamedTuple):
    """A bare name: an element type, or a symbolic extent."""

    name: str
    pos: int


class Reference(NamedTuple):
    """`@"name"`: a constant."""

    name: str
    pos: int
    length: int


class Parametric(NamedTuple):
    """`q<i8, f32, scale=0.5>`: parameters are (name or None, argument)."""

    name: str
    parameters: list[tuple[Token | None, Any]]
    pos: int


class Layout(NamedTuple):
    name: Token
    items: list[Any]


class Tensor(NamedTuple):
    element: Any
    shape: list[Any]
    layout: Layout | None
    space: Token | None
    pos: int


class Nested(NamedTuple):
    """`{k = v}` as a value."""

    attributes: Any  # a coarse token, or its pairs


class Graph(NamedTuple):
    name: Token | None
    parameters: list[Any]
    outputs: list[Any]
    nodes: list[list[Any]]
    returned: list[Token]


class Body(NamedTuple):
    """`graph(...) -> (...) {...}` as a value."""

    graph: Graph


class Module(NamedTuple):
    name: Token
    weights: Token | None
    dims: list[Any]
    graphs: list[Graph]


def unquote(text: str, pos: int) -> str:
    """The characters of a JSON string."""
    try:
        return json.loads(text)
    except ValueError as e:
        raise Fault("IG0304", f"{text} is not a JSON string: {str(e).partition(':')[0]}", pos, len(text)) from None


def symbol(token: Token) -> str:
    """The name behind `@`."""
    text = token.value[1:]
    return unquote(text, token.pos + 1) if text[0] == '"' else text


def integer(token: Token) -> int:
    """The number of an INT, at most 64 bits."""
    if len(token.value) > 20 or int(token.value) > LARGEST:
        raise Fault("IG0304", "this number needs more than 64 bits", token.pos, len(token.value))
    return int(token.value)


class Actions:
    """What lark calls for each rule, with the records of its parts; the names are those in the grammar."""

    # lists

    def nothing(self, c: list[Any]) -> list[Any]:
        return []

    def first(self, c: list[Any]) -> list[Any]:
        return c

    def append(self, c: list[Any]) -> list[Any]:
        c[0].append(c[1])
        return c[0]

    # modules and graphs

    def file(self, c: list[Any]) -> Module:
        if c[0].value != "1":
            hint = "a newer Intaglio wrote it, or it is no IR text"
            raise Fault(
                "IG0303", f"this is version {c[0].value[:20]} of the text form; 1 is known", c[0].pos, hint=hint
            )
        return c[1]

    def module(self, c: list[Any]) -> Module:
        return Module(*c)

    def weights(self, c: list[Any]) -> Token:
        return c[0]

    dim = parameter = output = signature = first

    def graph(self, c: list[Any]) -> Graph:
        name, (parameters, outputs), (nodes, returned) = c
        return Graph(name, parameters or [], outputs or [], nodes, returned or [])

    body = node = constant = call = place = pair = first

    def pairs(self, c: list[Any]) -> list[Any]:
        return c[0] or []

    # values

    def string(self, c: list[Any]) -> Literal:
        return Literal(unquote(c[0].value, c[0].pos), c[0].pos, len(c[0].value))

    def reference(self, c: list[Any]) -> Reference:
        return Reference(symbol(c[0]), c[0].pos, len(c[0].value))

    def word(self, c: list[Any]) -> Literal:
        return Literal({"true": True, "false": False, "none": None}[c[0].value], c[0].pos, len(c[0].value))

    def signed(self, c: list[Any]) -> Literal:
        minus, token = c
        value = integer(token) if token.type == "INT" else float(token.value)
        return Literal(value if minus is None else -value, token.pos, len(token.value))

    def listing(self, c: list[Any]) -> list[Any]:
        return c[0] or []

    def nested(self, c: list[Any]) -> Nested:
        return Nested(c[0])

    def closed(self, c: list[Any]) -> Body:
        return Body(self.graph(c))

    # extents: a sum is a list of products, each a list of factors; a minus sign is the factor None

    def negated(self, c: list[Any]) -> list[Any]:
        return [[None, *c[1]]]

    def subtract(self, c: list[Any]) -> list[Any]:
        c[0].append([None, *c[2]])
        return c[0]

    def extent(self, c: list[Any]) -> Literal | Named:
        (terms,) = c
        head = terms[0][0] or terms[0][1]
        if len(terms) == 1 and len(terms[0]) == 1 and head.type == "NAME":
            return Named(head.value, head.pos)
        if sum(map(len, terms)) > MOST_TERMS:
            raise Fault("IG0305", f"more than {MOST_TERMS} terms in one extent", head.pos, len(head.value))
        total: Extent = 0
        for product in terms:
            term: Extent = 1
            for factor in product:
                term = term * (-1 if factor is None else _factor(factor))
            total = total + term
        return Literal(total, head.pos, len(head.value))

    # types

    def tensor(self, c: list[Any]) -> Tensor:
        element, shape, layout, space = c
        return Tensor(element, shape or [], layout, space, element.pos)

    def named(self, c: list[Any]) -> Named:
        return Named(c[0].value, c[0].pos)

    def parametric(self, c: list[Any]) -> Parametric:
        return Parametric(c[0].value, c[1], c[0].pos)

    type_parameter = first

    def power(self, c: list[Any]) -> Literal:
        token = c[0]
        exponent = int(token.value[2:]) if len(token.value) < 8 else 9999
        if abs(exponent) > 1000:
            raise Fault("IG0304", "this power of two is no finite float", token.pos, len(token.value))
        return Literal(2.0**exponent, token.pos, len(token.value))

    def layout(self, c: list[Any]) -> Layout:
        return Layout(*c)

    def ratio(self, c: list[Any]) -> tuple[str, Any]:
        return (":", (integer(c[0]), integer(c[1])))

    def block(self, c: list[Any]) -> tuple[str, Any]:
        sides = c[0].value.split("x")
        return ("x", tuple([integer(Token("INT", s, c[0].pos)) for s in sides]))

    def layout_int(self, c: list[Any]) -> tuple[str, Any]:
        return (c[0].value, integer(c[1]))

    def layout_ints(self, c: list[Any]) -> tuple[str, Any]:
        return (c[0].value, tuple([integer(t) for t in c[1] or []]))


def _factor(token: Token) -> Extent:
    if token.type == "INT":
        return integer(token)
    return UNKNOWN if token.type == "UNKNOWN" else symbolic(token.value, token.pos)


def symbolic(name: str, pos: int) -> Dim:
    """The dimension `name`."""
    try:
        return dim(name)
    except IntaglioError as e:
        raise Fault.inside(e.diagnostics[0], pos, len(name)) from None
