"""How a random program grows, whatever it grows by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..dims import Extent, Shape, dim
from ..edit import Editor
from ..graph import Graph, Location, Value, attributes
from ..op import Op
from ..ops import OPS
from ..types import BOOL, DENSE, NM, Block, Channels, Csr, Elem, Float, Int, Layout, Tensor

__all__ = ["ELEMS", "Choices", "Growth", "Recipe", "data", "tensor"]

Array = npt.NDArray[Any]
LARGEST = 512  # elements of a value

ELEMS: tuple[Elem, ...] = (
    tuple(map(Float, ("f32", "f32", "f32", "f64", "f16", "bf16")))
    + tuple(map(Int, ("i64", "i32", "i8", "u8")))
    + (BOOL,)
)
NAMES = ("", "", "", "x", "y", "layer1.0.conv1", "a/b:0", "7", "_", "return", 'say "no"', "Größe", "x.1", "\n")


class Choices(Protocol):
    """Where decisions come from: a random generator, or hypothesis, which can take them back one by one."""

    def below(self, n: int) -> int:
        """A number from 0 to n - 1; 0 is the simplest."""
        ...


def data(rng: np.random.Generator, shape: Sequence[int], elem: Elem) -> Array:
    """An array of small numbers as `elem` stores them."""
    if elem.dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    floating = elem.dtype.kind == "f" or isinstance(elem, Float)
    numbers = rng.integers(-8, 9, shape) / (4 if floating else 1)
    unsigned = isinstance(elem, Int) and not elem.signed
    return np.asarray(abs(numbers) if unsigned else numbers).astype(elem.dtype)


def tensor(v: Value) -> Tensor:
    """The type of a value that is no cipher."""
    assert isinstance(v.type, Tensor)
    return v.type


class Growth:
    """A graph while it grows; `inside` of another one it is a body, whose inputs the caller makes."""

    def __init__(
        self, choices: Choices, recipes: Sequence[Recipe], *, named: bool = True, inside: bool = False
    ) -> None:
        self.choices, self.recipes, self.named, self.inside = choices, recipes, named, inside
        self.editor = Editor(name="body" if inside else "main")
        self.values: list[Value] = []
        self.used: set[Value] = set()
        self.rng = np.random.default_rng(choices.below(1000))
        for i in range(0 if inside else 1 + self.below(3)):
            self.values.append(self.editor.input(f"in{i}", Tensor(self.shape(), self.pick(ELEMS))))

    # --- choices ------------------------------------------------------------------------------------------------------

    def below(self, n: int) -> int:
        return self.choices.below(n)

    def flag(self) -> bool:
        return self.choices.below(2) == 1

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.choices.below(len(items))]

    def shape(self) -> Shape:
        """A new shape; its first extent may be the symbol N."""
        extents: list[Extent] = [1 + self.below(4) for _ in range(self.below(5))]
        if len(extents) > 1 and self.below(3) == 0:
            extents[0] = dim("N")
        return tuple(extents)

    def recent(self) -> Value:
        """A value, more likely a new one."""
        return self.values[-1 - self.below(min(len(self.values), 8))]

    # --- growing ------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One more node, or a few; or none if the chosen op does not take the chosen value."""
        for v in self.pick(self.recipes)(self, self.recent()) or ():
            t = tensor(v)
            if math.prod(d if isinstance(d, int) else 1 for d in t.shape) <= LARGEST and len(t.shape) <= 5:
                self.values.append(v)

    def emit(self, op: Op | str, *inputs: Value | None, **attrs: Any) -> list[Value]:
        """All results of a new node."""
        op = OPS[op] if isinstance(op, str) else op
        self.used.update(v for v in inputs if v is not None)
        loc, names = None, ()
        if self.named and self.below(4) == 0:
            sources = tuple(f"node{self.below(9)}" for _ in range(self.below(3)))
            loc = Location(sources, ("fuse",) if self.flag() else ())
            names = tuple(self.pick(NAMES) for _ in range(2))
        return list(self.editor.apply(op, inputs, attributes(op.normal(attrs)), loc=loc, names=names).outputs)

    def constant(self, shape: Sequence[int], elem: Elem, values: Any = None) -> Value:
        """A constant of small numbers, sometimes laid out in a special way."""
        array = data(self.rng, shape, elem) if values is None else np.asarray(values, dtype=elem.dtype)
        name = self.pick(("", "weight", "weight", "net.0.weight")) if self.named else ""
        layouts: list[Layout] = [Csr(), Block((1, 1)), NM(2, 4, 0), Channels(0, (0,))]
        layout = self.pick(layouts) if array.ndim and self.below(6) == 0 else DENSE
        space = "sram" if self.below(12) == 0 else ""
        return self.editor.constant(array, name, Tensor(array.shape, elem, layout, space))

    def partner(self, x: Value, elem: Elem) -> Value:
        """A value of `elem` that broadcasts with `x`."""
        shape = tensor(x).shape
        for v in self.values[-16:] if self.flag() else ():
            if tensor(v).elem is elem and tensor(v).shape == shape:
                return v
        extents = [d if isinstance(d, int) and self.below(4) else 1 for d in shape]
        return self.constant(extents[self.below(len(extents) + 1) :], elem)

    def finish(self) -> Graph:
        """The graph, which returns whatever nothing reads."""
        loose = [v for v in self.values if v not in self.used and v.node is not None] or [self.recent()]
        for i, v in enumerate(loose):
            self.editor.output(v, f"out{i}" if i else self.pick(("y", "in", "result/0")))
        return self.editor.freeze()


Recipe = Callable[[Growth, Value], Sequence[Value] | None]
"""Applies an op to a value of the growing graph; gives the results worth going on with, or None if it cannot."""
