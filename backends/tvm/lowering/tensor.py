"""Tensors while a kernel is built: functions from an index to an expression.

A `Lazy` tensor is nothing in memory: reading it at an index gives the expression that computes the element, so a chain
of elementwise and structural ops fuses by construction. What can only be computed in loops of its own (a reduction, a
template's epilogue) is a `Source`: it hands out its elements one by one, and tensors derived from it element by element
can be read in those loops only, at the index of the moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ....ir.constants import Constant
from ....ir.dims import Extent
from ....ir.types import Elem, Tensor
from .expr import Expr, Index

__all__ = ["Lazy", "Read", "Sink", "Source"]

Read: TypeAlias = Callable[[Index], Expr]

Sink: TypeAlias = Callable[[Index, Expr], None]
"""Takes an element; called inside loops, perhaps vectorised ones, so the index is made of scalar expressions."""


@dataclass(frozen=True, eq=False)
class Source:
    """A computation in loops of its own: `run(sink)` emits them and calls the sink where an element is finished."""

    run: Callable[[Sink], None]


@dataclass(frozen=True, eq=False)
class Lazy:
    """See the module. `buffer` is set when it reads memory as it is, `constant` when its data is known."""

    type: Tensor
    read: Read
    source: Source | None = None
    buffer: Any = None
    constant: Constant | None = None

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self.type.shape

    @property
    def elem(self) -> Elem:
        return self.type.elem

    @property
    def rank(self) -> int:
        return len(self.type.shape)


def project(index: Index, shape: tuple[Extent, ...], onto: tuple[Extent, ...]) -> Index:
    """The index into an operand of `shape` that broadcasts to `onto`."""
    if shape == onto:
        return index  # the same object: sources recognise it
    own = index[len(onto) - len(shape) :]
    return tuple(0 if d == 1 else i for i, d in zip(own, shape, strict=True))
