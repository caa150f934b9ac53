"""Drawing an instance of a rule's left side: a graph in which the pattern occurs.

The pattern is walked from its root. Each op gets a `Site`, asks for its operands and attributes, and hands down what
shape would fit (`want`: `None` is a hole, an extent that is free). Leaves are made to fit; what was decided before (a
variable that occurs twice, an attribute with a name) stays. Nothing is proved on the way: type inference has the last
word, and what does not fit is rejected and drawn again. How an op's attributes follow from its shapes is in samples.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dims import UNKNOWN, Extent, Shape, dim
from ...edit import Editor
from ...graph import Value
from ...rewrite.language import Apply, Literal, Variable
from ...types import Bool, Elem, Float, Int, Tensor
from ..growth import Choices
from .hints import Hints
from .numbers import Domain, array
from .site import Site, Want, number_of
from .tape import Reject

__all__ = ["Drawing"]


class Drawing:
    """One instance while it is drawn. `choices` decides; `hints` is what is known of the rule beforehand."""

    def __init__(
        self,
        choices: Choices,
        hints: Hints,
        floats: Sequence[Elem],
        nasty: bool,
        samples: Callable[[str], Callable[[Site], None]],
        editor: Editor | None = None,
        around: Sequence[Value] = (),
    ) -> None:
        """`samples` tells how to draw an op; leaves may be values from `around`, which are in `editor`."""
        self.below: Callable[[int], int] = choices.below
        self.hints, self.floats, self.nasty, self.samples = hints, floats, nasty, samples
        self.editor = Editor(name="main") if editor is None else editor
        self.around = around
        self.bound: dict[str, Any] = {}  # values, None for an absent operand, tuples for variadic ones
        self.attrs: dict[str, Any] = {}
        self.rests: dict[str, dict[str, Any]] = {}
        self.elems: dict[Any, Elem] = {}
        self.data: dict[Value, tuple[int, int, Domain | None]] = {}  # how to make the arrays of inputs
        self.inner: list[Value] = []  # results of the pattern's nodes, operands first
        self.leaves: list[Value] = []
        self.symbolic = self.below(5) == 4
        self.surrounded = self.below(6) == 5

    # --- choices ------------------------------------------------------------------------------------------------------

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))] if len(items) > 1 else items[0]

    def elem(self, slot: Any) -> Elem:
        """The element type of a class of values, drawn when first asked for."""
        root = self.hints.elements.find(slot)
        found = self.elems.get(root)
        if found is None:
            pool = self.hints.elements.choices(root, self.floats)
            if not pool:
                raise Reject("no element type fits")
            found = self.elems[root] = self.pick(pool)
        return found

    def extent(self) -> Extent:
        return self.pick(self.hints.extents)

    def filled(self, want: Want, rank: int | None = None, symbolic: bool = True) -> Shape:
        """A shape; holes are drawn, and the rank of no wish at all."""
        if want is None:
            want = (None,) * (self.below(4) if rank is None else rank)
        out = [self.extent() if d is None else d for d in want]
        if symbolic and self.symbolic and out and want[0] is None and self.below(2):
            out[0] = self.symbol()
            if out[0] is UNKNOWN and len(out) > 1 and want[1] is None and self.below(3) == 2:
                out[1] = UNKNOWN
        return tuple(out)

    def symbol(self) -> Extent:
        """The batch size, or an extent of which nothing is known."""
        return UNKNOWN if self.below(5) == 4 else dim("N")

    def symbol_or_extent(self) -> Extent:
        return self.symbol() if self.symbolic and self.below(3) == 2 else self.extent()

    def narrowed(self, shape: Shape) -> Shape:
        """A shape that broadcasts to another: the same, fewer axes, or 1 in some."""
        how = self.below(4)
        if how < 2 or not shape:
            return shape
        cut = self.below(len(shape) + 1)
        return tuple(1 if self.below(3) == 2 else d for d in (shape[cut:] if how == 2 else shape))

    # --- leaves -------------------------------------------------------------------------------------------------------

    def leaf(self, p: Variable | None, shape: Shape, elem: Elem, domain: Domain | None) -> Value:
        """A new input or constant for a variable (None: one of a variable number of operands)."""
        static = all(isinstance(d, int) for d in shape)
        const = p is not None and p.const
        kind = self.below(8)
        if self.around and kind < 5 and domain is None and not const:
            fitting = [v for v in self.around if v.type is Tensor(shape, elem)]
            if fitting:
                return self.pick(fitting)
        if kind == 7 and domain is None and not const:
            for v in self.leaves:  # another name for the same value
                if v.type is Tensor(shape, elem):
                    return v
        mode, seed = (0, 1, 2, 3, 1)[self.below(5)], self.below(1 << 16)
        domain = domain or self.hints.domain(elem)
        if const or (kind == 6 and static):
            if not static:
                raise Reject("a constant of symbolic shape")
            made = array(shape, elem, mode, seed, self.nasty, domain, self.hints.numbers)  # type: ignore[arg-type]
            value = self.editor.constant(made, type=Tensor(shape, elem))
        else:
            value = self.editor.input(p.name if p is not None else f"more{len(self.data)}", Tensor(shape, elem))
            if any(v is not value and v.name == value.name for v in self.editor.inputs):
                value.name += str(len(self.editor.inputs))
            self.data[value] = (mode, seed, domain)
            if self.surrounded and domain is None and not const and self.below(2):
                value = self._after_something(value)
        self.leaves.append(value)
        return value

    def _after_something(self, value: Value) -> Value:
        """The value behind a node that keeps its type."""
        elem = value.type.elem  # type: ignore[union-attr]
        if not isinstance(elem, (Float, Int, Bool)):
            return value
        return self.editor.emit("math.not" if isinstance(elem, Bool) else "math.neg", value)

    def literal(self, p: Literal, elem: Elem, shape: Shape) -> Value:
        from ...rewrite.helpers import is_number

        value = self.editor.constant(
            np.full([number_of(d) for d in shape], p.value).astype(elem.dtype), type=Tensor(shape, elem)
        )
        if not is_number(value, p.value):
            raise Reject("the number is none of its type")
        return value

    # --- the pattern --------------------------------------------------------------------------------------------------

    def apply(self, p: Apply, want: Want = None, domain: Domain | None = None) -> Value:
        """The value of a pattern's op."""
        site = Site(self, p, want, domain)
        self.samples(p.op.name)(site)
        return site.finish()
