"""Syntax to programs: names are looked up, types inferred and compared with the written ones.

Because every node's types are written, a mistake in one node does not hide those in the next: its results have the
types that it claims.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..constants import Constant
from ..diagnostics import Diagnostic, IntaglioError
from ..graph import NO_ATTRS, Attrs, Graph, Location, Module, Node, Value, attributes
from ..op import Op
from ..ops import OPS, get
from ..types import ELEM_NAMES, Tensor, Type
from ..verify import agrees
from ..weights import Weights
from . import syntax
from .elements import read_elem, read_type
from .fault import Fault
from .lexer import Part, Token
from .literal import array_of
from .parser import parse as parse_text
from .scope import Scope, nearest
from .syntax import Body, Literal, Named, Nested, Parametric, Reference

__all__ = ["Builder"]

LIMIT = 20  # mistakes reported at once
_UNREADABLE: Any = None  # the type of a result whose written type is wrong

# What was read once need not be read again; but a text that refers to constants means something else in every file.
_TYPES: dict[str, Type] = {}
_ATTRS: dict[tuple[str, str], Attrs] = {}


class TooMany(Exception):
    """Enough mistakes were found."""


class Builder:
    """Turns the records of one text into graphs; mistakes collect in `faults`."""

    def __init__(self, weights: Mapping[str, Any] | None, folder: Path | None = None) -> None:
        self.weights, self.folder = weights, folder  # without weights, the file that the text names is looked for there
        self.constants: dict[str, Constant] = {}
        self.types: dict[str, Type] = {}
        self.faults: list[Fault] = []

    def module(self, found: syntax.Module) -> Module:
        if self.weights is None and self.folder is not None and found.weights is not None:
            name = syntax.unquote(found.weights.value, found.weights.pos)
            try:
                self.weights = Weights(self.folder / name)
            except (IntaglioError, ValueError) as e:  # ValueError: a name with a null character
                why = e.diagnostics[0] if isinstance(e, IntaglioError) else Diagnostic("IG0001", str(e))
                raise Fault.inside(why, found.weights.pos, len(found.weights.value)) from None
        dims: dict[str, tuple[int, int | None]] = {}
        for name, low, high in found.dims:
            syntax.symbolic(name.value, name.pos)
            bounds = (syntax.integer(low), None if high is None else syntax.integer(high))
            if name.value in dims:
                self.fault(Fault("IG0307", f"dimension {name.value} is declared twice", name.pos, len(name.value)))
            if bounds[1] is not None and bounds[1] < bounds[0]:
                self.fault(Fault("IG0304", f"the range of {name.value} is empty", name.pos, len(name.value)))
            dims[name.value] = bounds
        graphs: dict[str, Graph] = {}
        for graph in found.graphs:
            assert graph.name is not None
            name = syntax.symbol(graph.name)
            if name in graphs:
                self.fault(Fault("IG0307", f"graph @{name} is defined twice", graph.name.pos, len(graph.name.value)))
            graphs[name] = self.alone(graph)
        return Module(syntax.symbol(found.name), graphs, dims)

    def alone(self, found: syntax.Graph) -> Graph:
        """A graph outside a module."""
        assert found.name is not None
        return self.graph(found, syntax.symbol(found.name))

    def fault(self, found: Fault) -> None:
        """Note a mistake; enough of them end the work."""
        self.faults.append(found)
        if len(self.faults) >= LIMIT:
            raise TooMany

    # --- graphs -------------------------------------------------------------------------------------------------------

    def graph(self, found: syntax.Graph, name: str) -> Graph:
        scope = Scope()
        inputs = []
        for i, (token, written) in enumerate(found.parameters):
            value = Value(None, i, self.type(written))
            scope.define(token, value)
            inputs.append(value)
        nodes = self.nodes(found.nodes, scope)
        outputs = [scope.read(token) for token in found.returned]
        names = self.outputs(found, outputs)
        return Graph(name, tuple(inputs), tuple(nodes), tuple(v for v in outputs if v is not None), tuple(names))

    def outputs(self, found: syntax.Graph, values: list[Value | None]) -> list[str]:
        """Names of the outputs; their written types are those of the returned values."""
        names: dict[str, None] = {}
        if len(values) != len(found.outputs):
            token = (found.returned or [found.outputs[0][0]])[0]
            message = f"the graph has {len(found.outputs)} outputs, but {len(values)} values are returned"
            self.fault(Fault("IG0311", message, token.pos, len(token.value)))
        for (label, written), value in zip(found.outputs, values, strict=False):
            name = syntax.unquote(label.value, label.pos) if label.type == "STRING" else label.value
            if name in names:
                self.fault(Fault("IG0307", f"two outputs are called `{name}`", label.pos, len(label.value)))
            names[name] = None
            t = self.type(written)
            if value is not None and value.type is not t:
                message = f"output `{name}` is written as {t}, the returned value is {value.type}"
                self.fault(Fault("IG0309", message, label.pos, len(label.value)))
        return list(names)

    def nodes(self, records: list[list[Any]], scope: Scope) -> list[Node]:
        nodes: list[Node] = []
        for record in records:
            try:
                node = self.constant(record, scope) if len(record) == 4 else self.node(record, scope)
            except Fault as found:
                self.fault(found)
                node = self.claimed(record, scope)
            nodes.append(node)
        return nodes

    def node(self, record: list[Any], scope: Scope) -> Node:
        results, application, written_attrs, written_types, place = record
        operands: tuple[Value | None, ...]
        if type(application) is Token:  # CALL: `nn.conv(%x, %w, _)`
            name, _, rest = application.value.partition("(")
            pos = application.pos
            try:
                operands = tuple([scope.values[k] for k in rest[:-1].split(", ")])
            except KeyError:
                operands = scope.read_all(rest, pos + len(name) + 1)
        else:
            token, listed = application
            name, pos = token.value, token.pos
            operands = tuple([scope.read(t) for t in listed or ()])
        while operands and operands[-1] is None:  # as the editor does
            operands = operands[:-1]
        op = OPS.get(name) or self.op(name, pos)
        attrs = NO_ATTRS if written_attrs is None else self.attrs(written_attrs, op)
        types = tuple([self.type(t) for t in written_types])
        given = tuple([None if v is None else v.type for v in operands])
        if self.faults and any(v is not None and v.type is _UNREADABLE for v in operands):
            return self.claimed(record, scope)
        try:
            if op.declared is not None:
                op.check_declared(given, attrs, types)
            else:
                inferred = op._memo.get((given, attrs)) or op.infer(given, attrs)
                if inferred != types:
                    self.compare(op, types, inferred, written_types)
        except IntaglioError as e:
            raise Fault.inside(e.diagnostics[0], pos, len(name)) from None
        node = Node(op, operands, attrs, types, None if place is None else self.location(place))
        scope.results(results, node)
        return node

    def constant(self, record: list[Any], scope: Scope) -> Node:
        results, found, written, place = record
        t = self.type(written)
        if isinstance(found, Reference):
            value = self.lookup(found)
        else:
            array = array_of(found, t, results[0].pos)
            shape = [d for d in t.shape if isinstance(d, int)] if isinstance(t, Tensor) else []
            if isinstance(t, Tensor) and len(shape) == len(t.shape) and array.size == math.prod(shape):
                array = array.reshape(shape)  # a list stands for any shape of as many elements, in row-major order
            value = Constant(array)
        op, attrs = OPS["const"], attributes({"value": value})
        try:
            op.check_declared((), attrs, (t,))
        except IntaglioError as e:
            raise Fault.inside(e.diagnostics[0], *_span(written)) from None
        node = Node(op, (), attrs, (t,), None if place is None else self.location(place))
        scope.results(results, node)
        return node

    def claimed(self, record: list[Any], scope: Scope) -> Node:
        """A stand-in for a node with a mistake: it has the written types, and nobody sees it."""
        written = record[2:3] if len(record) == 4 else record[3]
        types: list[Type] = []
        for t in written:
            try:
                types.append(self.type(t))
            except Fault:
                types.append(_UNREADABLE)
        node = Node(OPS["const"], (), NO_ATTRS, tuple(types))
        try:
            scope.results(record[0], node)
        except Fault as found:
            if all(found.pos != f.pos for f in self.faults):
                self.fault(found)
        return node

    def compare(self, op: Op, types: tuple[Type, ...], inferred: tuple[Type, ...], written: list[Any]) -> None:
        if len(types) != len(inferred):
            pos, length = _span(written[0])
            raise Fault(
                "IG0311", f"`{op.name}` has {len(inferred)} results, but {len(types)} types are written", pos, length
            )
        for t, i, record in zip(types, inferred, written, strict=True):
            if not agrees(t, i):
                raise Fault("IG0309", f"`{op.name}` gives {i}, written is {t}", *_span(record))

    def op(self, name: str, pos: int) -> Op:
        try:
            return get(name)
        except IntaglioError as e:
            raise Fault.inside(e.diagnostics[0], pos, len(name)) from None

    def location(self, found: Any) -> Location:
        if type(found) is Token:  # LOCATION: `loc("conv1")`
            return Location((found.value[5:-2],))
        sources, rules = ([syntax.unquote(t.value, t.pos) for t in tokens or ()] for tokens in found)
        return Location(tuple(sources), tuple(rules))

    # --- types, attributes, constants ---------------------------------------------------------------------------------

    def type(self, found: Any) -> Type:
        """The type of a coarse token or of a record."""
        if type(found) is not Token:
            return read_type(found, self.lookup)
        text = found.value
        known = _TYPES.get(text) or self.types.get(text)
        if known is None:
            known = read_type(parse_text(Part.of(text, found.pos), "type"), self.lookup)
            (self.types if "@" in text else _TYPES)[text] = known
        return known

    def attrs(self, found: Any, op: Op) -> Attrs:
        """The attributes of `op`, without those that repeat its defaults."""
        if type(found) is not Token:
            return attributes(op.normal(self.pairs(found)))
        key = (op.name, found.value)
        known = _ATTRS.get(key)
        if known is None:
            known = attributes(op.normal(self.pairs(self.opened(found))))
            if "@" not in found.value:
                _ATTRS[key] = known
        return known

    def opened(self, found: Any) -> list[Any]:
        """The pairs inside of attributes."""
        if type(found) is not Token:
            return found
        return parse_text(Part.of(found.value, found.pos), "attributes")

    def pairs(self, found: list[Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in found:
            if name.value in made:
                raise Fault("IG0307", f"attribute `{name.value}` is given twice", name.pos, len(name.value))
            made[name.value] = self.value(value)
        return made

    def value(self, found: Any) -> Any:
        """The value of an attribute."""
        if isinstance(found, Literal):
            return found.value
        if isinstance(found, list):
            return tuple([self.value(v) for v in found])
        if isinstance(found, Named):
            return read_elem(found, self.lookup) if found.name in ELEM_NAMES else syntax.symbolic(found.name, found.pos)
        if isinstance(found, Parametric):
            return read_elem(found, self.lookup)
        if isinstance(found, Reference):
            return self.lookup(found)
        if isinstance(found, Nested):
            return attributes(self.pairs(self.opened(found.attributes)))
        assert isinstance(found, Body)
        return self.graph(found.graph, "body" if found.graph.name is None else syntax.symbol(found.graph.name))

    def lookup(self, found: Reference) -> Constant:
        """The constant of a name."""
        known = self.constants.get(found.name)
        if known is None:
            name, place = json.dumps(found.name), (found.pos, found.length)
            if self.weights is None:
                hint = "its values stand in a weights file beside the text; parse_file reads both"
                raise Fault("IG0310", f"no weights were given for the constant @{name}", *place, hint=hint)
            if found.name not in self.weights:
                hint = nearest(found.name, self.weights)
                raise Fault("IG0310", f"the weights have no constant @{name}", *place, hint=hint)
            known = self.constants[found.name] = Constant(np.asarray(self.weights[found.name]), found.name)
        return known


def _span(found: Any) -> tuple[int, int]:
    """Place and width of a written type."""
    return (found.pos, len(found.value)) if type(found) is Token else (found.pos, 1)
