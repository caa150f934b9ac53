"""Rebuilding a graph node by node with better types: what `freeze` and `fold` share.

A `Rebuild` walks a graph from inputs to outputs and emits each node again on the rebuilt operands. Where operand types
have changed, result types are inferred anew, so a size that becomes known spreads through everything downstream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..ir.diagnostics import IntaglioError
from ..ir.dims import UNKNOWN, Dim, Extent, substitute
from ..ir.edit import Editor
from ..ir.graph import Attrs, Graph, Node, Value, attributes
from ..ir.types import DENSE, Cipher, Tensor, Type

__all__ = ["Rebuild", "array_of", "fix_type", "refine"]


def array_of(value: Value | None) -> Any:
    """The array behind a constant value, else None."""
    if value is None or value.node is None:
        return None
    constant = value.node.constant
    return None if constant is None else constant.array


def fix_type(t: Type, sizes: dict[str, Extent]) -> Type:
    """`t` with symbols replaced."""
    if not sizes or t.static:
        return t
    shape = tuple(substitute(d, sizes) for d in t.shape)
    if isinstance(t, Cipher):
        return Cipher(shape, t.packing, t.level, t.scale, t.scheme, t.size)
    return t.with_shape(shape)


def refine(inferred: Type, written: Type) -> Type:
    """The inferred type with what only its writer knew: extents that inference cannot tell, layout, memory space."""
    if inferred is written or isinstance(inferred, Cipher) or isinstance(written, Cipher):
        return inferred
    if len(inferred.shape) != len(written.shape):
        return inferred
    shape = tuple(w if i is UNKNOWN else i for i, w in zip(inferred.shape, written.shape, strict=True))
    layout = written.layout if inferred.layout is DENSE else inferred.layout
    return Tensor(shape, inferred.elem, layout, written.space or inferred.space)


def _located(e: IntaglioError, node: Node) -> IntaglioError:
    """The complaint, saying which node of the model it is about."""
    if node.loc is None:
        return e
    note = f"from: {node.loc}"
    return IntaglioError.of(d if note in d.notes else replace(d, notes=(*d.notes, note)) for d in e.diagnostics)


class Rebuild:
    """See the module. `sizes` replaces symbols by extents in types, attributes and bodies."""

    def __init__(self, graph: Graph, sizes: dict[str, Extent] | None = None) -> None:
        self.graph, self.sizes = graph, sizes or {}
        self.editor = Editor(name=graph.name)
        self.now: dict[Value | None, Value | None] = {None: None}
        for v in graph.inputs:
            self.now[v] = self.editor.input(v.name, fix_type(v.type, self.sizes))

    def operands(self, node: Node) -> list[Value | None]:
        """The rebuilt operands of an old node."""
        return [self.now[v] for v in node.inputs]

    def keep(self, node: Node) -> None:
        """Emit the node again."""
        attrs = self._attrs(node.attrs)
        operands = self.operands(node)
        written = tuple(fix_type(v.type, self.sizes) for v in node.outputs)
        if "body" in attrs:  # the body's own types follow its operands
            attrs, written = self._body(attrs, operands, written)
        types = written
        if node.op.declared is None:
            given = tuple(None if v is None else v.type for v in operands)
            types = tuple(map(refine, node.op.infer(given, attrs), written))
        self.put(node, self._emit(node, operands, attrs, types))

    def put(self, node: Node, results: tuple[Value, ...]) -> None:
        """Say what stands for the results of an old node now."""
        for old, new in zip(node.outputs, results, strict=True):
            self.now[old] = new
            if old.name and not new.name:
                new.name = old.name

    def finish(self, step: Callable[[Rebuild, Node], None]) -> Graph:
        """Run `step` on every node, in order, and freeze."""
        for node in self.graph.nodes:
            self.editor.loc = node.loc
            try:
                step(self, node)
            except IntaglioError as e:
                raise _located(e, node) from None
        for v, name in zip(self.graph.outputs, self.graph.output_names, strict=True):
            made = self.now[v]
            assert made is not None
            self.editor.output(made, name)
        return self.editor.freeze()

    def _emit(
        self, node: Node, operands: list[Value | None], attrs: Attrs, types: tuple[Type, ...]
    ) -> tuple[Value, ...]:
        made = self.editor.apply(node.op, operands, attrs, types=types, loc=node.loc)
        for v, t in zip(made.outputs, types, strict=True):
            v.type = t  # `apply` gives the inferred type; `t` agrees with it and may say more
        return made.outputs

    def _attrs(self, attrs: Attrs) -> Attrs:
        if not self.sizes:
            return attrs
        found = {k: self._attr(v) for k, v in attrs.items()}
        return attributes(found) if any(found[k] is not v for k, v in attrs.items()) else attrs

    def _attr(self, value: Any) -> Any:
        if isinstance(value, Dim):
            return substitute(value, self.sizes)
        if isinstance(value, tuple) and any(isinstance(v, Dim) for v in value):
            return tuple(substitute(v, self.sizes) if isinstance(v, Dim) else v for v in value)
        return self._attrs(value) if isinstance(value, Attrs) else value

    def _body(
        self, attrs: Attrs, operands: list[Value | None], written: tuple[Type, ...]
    ) -> tuple[Attrs, tuple[Type, ...]]:
        """A body rebuilt for operands whose types may have changed."""
        body: Graph = attrs["body"]
        given = tuple(None if v is None else v.type for v in operands)
        if given == tuple(v.type for v in body.inputs) and not self.sizes:
            return attrs, written
        inner = Rebuild(body, self.sizes)
        for old, t in zip(body.inputs, given, strict=True):
            made = inner.now[old]
            assert made is not None and t is not None
            made.type = t
        rebuilt = inner.finish(Rebuild.keep)
        return attributes({**attrs, "body": rebuilt}), tuple(v.type for v in rebuilt.outputs)
