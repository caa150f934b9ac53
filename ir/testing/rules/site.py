"""One op of a pattern while it is drawn: what samples (samples.py) work with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...diagnostics import IntaglioError
from ...dims import Extent, Shape
from ...graph import Value, attributes
from ...op import Ints
from ...rewrite.language import Absent, Apply, AttrName, AttrValue, Literal, Pattern, Variable
from ...types import Elem
from .attributes import drawn_attribute
from .elements import attr_slot, letter_slot, value_slot
from .numbers import Domain
from .tape import Reject

if TYPE_CHECKING:
    from .drawing import Drawing

__all__ = ["UNSET", "Site", "Want", "number_of"]

Want = tuple[Extent | None, ...] | None
UNSET: Any = object()


def number_of(extent: Extent | None) -> int:
    """An extent that has to be known."""
    if not isinstance(extent, int):
        raise Reject("a symbolic extent where a number is needed")
    return extent


class Site:
    """One op of the pattern while it is drawn: what samples work with.

    `shape(i, want)` draws operand i, if it was not, and tells its shape; `attr(name, draw)` tells an attribute, drawn
    only where the pattern leaves a choice; `given(name)` tells what the pattern says already.
    """

    def __init__(self, drawing: Drawing, p: Apply, want: Want, domain: Domain | None = None) -> None:
        self.drawing, self.pattern, self.want, self.domain, self.op = drawing, p, want, domain, p.op
        self.below, self.pick = drawing.below, drawing.pick
        self.attrs: dict[str, Any] = {}
        self.mentioned = dict(p.attrs)
        more = 0
        if p.variadic:
            known = drawing.bound.get(p.variadic)
            more = len(known) if known is not None else drawing.below(3) + (0 if p.args else 1)
        self.values: list[Value | None] = [None] * (len(p.args) + more)
        self._done = [False] * len(self.values)
        self._names = drawing.hints.names_in(p)
        for i, a in enumerate(p.args):
            if isinstance(a, Absent):
                self._done[i] = True
            elif isinstance(a, Variable) and a.optional and not self.known(i) and drawing.below(3) == 2:
                self._done[i] = True
                if a.name != "_":
                    drawing.bound[a.name] = None
        if p.variadic and p.variadic in drawing.bound:
            self.values[len(p.args) :] = drawing.bound[p.variadic]
            self._done[len(p.args) :] = [True] * more

    # --- operands -----------------------------------------------------------------------------------------------------

    def known(self, i: int) -> bool:
        """Whether operand i is drawn: here, or where its name occurred before."""
        if self._done[i]:
            return True
        if i < len(self._names) and self._names[i] in self.drawing.bound:
            self.values[i], self._done[i] = self.drawing.bound[self._names[i]], True
        return self._done[i]

    def present(self, i: int) -> bool:
        """Whether there is an operand i."""
        return i < len(self.values) and not (self.known(i) and self.values[i] is None)

    def free(self, i: int) -> bool:
        """Whether operand i is a leaf that can have any shape."""
        return not self.known(i) and (i >= len(self.pattern.args) or not isinstance(self.pattern.args[i], Apply))

    def peek(self, i: int) -> Shape | None:
        """The shape of operand i if it is known already."""
        v = self.values[i] if i < len(self.values) and self.known(i) else None
        return v.type.shape if v is not None else None

    def shape(self, i: int, want: Want = None, domain: Domain | None = None, rank: int | None = None) -> Shape:
        """The shape of operand i, drawn if it was not; the rank of a leaf without `want`."""
        if not self.known(i):
            self.values[i] = self._drawn(i, want, domain, rank)
            self._done[i] = True
        v = self.values[i]
        if v is None:
            raise Reject("an absent operand is needed")
        return v.type.shape

    def elem(self, i: int) -> Elem:
        """The element type of operand i, drawn or not."""
        v = self.values[i] if i < len(self.values) and self.known(i) else None
        if v is not None:
            return v.type.elem  # type: ignore[union-attr]
        a = self.pattern.args[i] if i < len(self.pattern.args) else None
        if a is not None:
            return self.drawing.elem(value_slot(a))
        operands = self.op.signature.operands
        return self.drawing.elem(letter_slot(self.pattern, operands[min(i, len(operands) - 1)].elem))

    def _drawn(self, i: int, want: Want, domain: Domain | None, rank: int | None) -> Value:
        a: Pattern | None = self.pattern.args[i] if i < len(self.pattern.args) else None
        d = self.drawing
        if isinstance(a, Apply):
            if want is None and (rank := rank if rank is not None else d.hints.rank(a)) is not None:
                want = (None,) * rank
            return d.apply(a, want, domain)
        if isinstance(a, Literal):
            return d.literal(a, self.elem(i), d.filled(want if want is not None else (), symbolic=False))
        assert a is None or isinstance(a, Variable)
        if want is None and rank is None and a is not None:
            rank = d.hints.rank(a)
        constant = a is not None and a.const
        value = d.leaf(a, d.filled(want, rank, symbolic=not constant), self.elem(i), domain)
        if a is not None and a.name != "_":
            d.bound[a.name] = value
        return value

    # --- attributes ---------------------------------------------------------------------------------------------------

    def given(self, name: str) -> Any:
        """What the pattern or an earlier op says of an attribute, or UNSET."""
        if name in self.attrs:
            return self.attrs[name]
        pattern = self.mentioned.get(name)
        if isinstance(pattern, AttrValue):
            value = pattern.value
            return float(value) if self.op.attrs[name] is float and isinstance(value, int) else value
        if isinstance(pattern, AttrName):
            return self.drawing.attrs.get(pattern.name, UNSET) if pattern.name != "_" else UNSET
        if self.pattern.rest:
            known = self.drawing.rests.get(self.pattern.rest, {})
            return known[name] if name in known and self.drawing.below(8) < 7 else UNSET  # or once not the same
        return self.op.defaults.get(name, UNSET)

    def attr(self, name: str, draw: Callable[[], Any]) -> Any:
        """An attribute's value; `draw` is asked when the pattern leaves a choice."""
        value = self.given(name)
        if value is UNSET:
            value = draw()
        self.attrs[name] = value
        pattern = self.mentioned.get(name)
        if isinstance(pattern, AttrName):
            self.drawing.attrs.setdefault(pattern.name, value)
        elif pattern is None and self.pattern.rest:
            self.drawing.rests.setdefault(self.pattern.rest, {}).setdefault(name, value)
        return value

    def elem_attr(self, name: str) -> Elem:
        """An attribute that names an element type."""
        return self.attr(name, lambda: self.drawing.elem(attr_slot(self.pattern, name)))

    def ints(self, name: str, count: int, draw: Callable[[int], int]) -> tuple[int, ...]:
        """An attribute of `count` integers; its default (often: absent) one time in three."""

        def drawn() -> Any:
            if name in self.op.defaults and self.below(3) == 0:
                return self.op.defaults[name]
            return tuple(draw(i) for i in range(count))

        assert self.op.attrs[name] == Ints
        return self.attr(name, drawn)

    # --- the node -----------------------------------------------------------------------------------------------------

    def finish(self) -> Value:
        d, p = self.drawing, self.pattern
        for i in range(len(self.values)):
            if not self.known(i):
                self.shape(i)
        for name in self.op.attrs:
            if name not in self.attrs:
                self.attr(name, lambda name=name: drawn_attribute(self, name))  # type: ignore[misc]
        if p.variadic:
            d.bound.setdefault(p.variadic, tuple(self.values[len(p.args) :]))
        try:
            node = d.editor.apply(self.op, self.values, attributes(self.op.normal(self.attrs)))
        except IntaglioError as e:
            raise Reject(e.diagnostics[0].message) from None
        if not d.hints.empty and any(n == 0 for v in node.outputs for n in v.type.shape):
            raise Reject("an empty tensor")
        if p.result >= len(node.outputs):
            raise Reject("no such result")
        value = node.outputs[p.result]
        d.inner.append(value)
        return value
