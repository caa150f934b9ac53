"""The building of one kernel (a PrimFunc): symbols, named values, memory, and loops around elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ....ir.dims import UNKNOWN, Dim, Extent, symbols
from ....ir.graph import Node
from ....ir.types import Elem, Tensor
from ..api import modules, symbolic_dim
from ..kernels import VectorUnit
from ..kernels.emit import Emitter
from .elements import array_of, compute_dtype, from_memory, rounded, storage_dtype, to_memory
from .expr import Expr, Index, const
from .loops import elementwise_nest
from .problems import unbound
from .temporaries import LANES, Temporaries
from .tensor import Lazy, Sink, Source, project

__all__ = ["Context"]


class _Scope:
    """Elements already computed for the one that is being computed."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], tuple[Index, Expr]] = {}


def _in_a_template(sink: Sink) -> None:
    raise AssertionError("read in the loops of a template only")


class Context:
    """One kernel in the making. Lowerings get it as their first argument."""

    def __init__(self, unit: VectorUnit) -> None:
        self.unit, self.emit = unit, Emitter()
        self.node: Node | None = None
        self.constants: list[tuple[Any, Any]] = []  # (array, buffer) of operands that lowering adds
        self.add_constant: Callable[[Any], Any] | None = None
        self._dims: dict[str, Any] = {}
        self._extents: dict[Dim, Expr] = {}
        self._scope = "local" if unit.simt else "global"
        self.temporaries = Temporaries(0 if unit.simt else LANES, self._scope)
        self._scopes: list[_Scope] = []
        self._element: tuple[Source, Index, Expr] | None = None
        self._memory: dict[Lazy, Lazy] = {}
        self._targets: dict[Any, Any] = {}
        self._types: dict[Any, Any] = {}

    # --- extents ----------------------------------------------------------------------------------------------------

    def declare_shape(self, shape: Sequence[Extent]) -> tuple[Any, ...]:
        """Extents of a parameter. Plain symbols get bound by it, and compound ones too when nothing else binds them."""
        out: list[Any] = []
        for d in shape:
            if isinstance(d, int):
                out.append(d)
                continue
            if d not in self._extents and not symbols((d,)) <= set(self._dims):
                var = symbolic_dim(d.text if d.text.isidentifier() else f"d{len(self._extents)}")
                self._extents[d] = var
                if d.text.isidentifier():
                    self._dims[d.text] = var
            out.append(self.extent(d))
        return tuple(out)

    def extent(self, d: Extent) -> Any:
        """An extent as an integer or an expression; IG0503 when no parameter tells its symbols."""
        if isinstance(d, int):
            return d
        found = self._extents.get(d)
        if found is None:
            if d is UNKNOWN or not symbols((d,)) <= set(self._dims):
                raise unbound(self.node, d)
            total: Any = 0
            for names, c in d.terms:
                term: Any = c
                for name in names:
                    term = self._dims[name] * term if isinstance(term, int) and term == 1 else term * self._dims[name]
                total = term if isinstance(total, int) and total == 0 else total + term
            found = self._extents[d] = total
        return found

    def extents(self, shape: Sequence[Extent]) -> tuple[Any, ...]:
        return tuple(self.extent(d) for d in shape)

    # --- expressions ------------------------------------------------------------------------------------------------

    def let(self, value: Expr) -> Expr:
        """A value that is used more than once, computed once."""
        return self.temporaries.name(value)

    def fixed(self, value: Expr) -> Expr:
        """A value computed here and now: a load that a condition must not pull under its own assumptions."""
        return self.temporaries.name(value, force=True)

    def scoped(self, compute: Callable[[], Expr]) -> Expr:
        """An expression in which each element is computed once."""
        self._scopes.append(_Scope())
        try:
            return compute()
        finally:
            self._scopes.pop()

    def read(self, x: Lazy, index: Index) -> Expr:
        """The element of x, named the first time it is computed at this index."""
        if x.constant is not None and x.constant.array.size == 1:
            return x.read(index)
        key = (x, *map(id, index))
        known = self._scopes[-1].known if self._scopes else {}
        found = known.get(key)
        if found is None:
            found = known[key] = (index, self.let(x.read(index)))  # holds the index, or its id could be reused
        return found[1]

    def bind(self, compute: Callable[[], Expr]) -> Expr:
        """A value computed once, as a statement before those that use it. Not inside vectorised loops."""
        return self.emit.bind(self.scoped(compute))

    # --- tensors ----------------------------------------------------------------------------------------------------

    def parameter(self, name: str, type: Tensor, *, constant: Any = None) -> Lazy:
        """A tensor that the caller passes."""
        buffer = self.emit.arg(name, self.declare_shape(type.shape), storage_dtype(type.elem))
        return self.view(buffer, type, constant=constant)

    def view(self, buffer: Any, type: Tensor, *, constant: Any = None) -> Lazy:
        """What a buffer holds."""
        elem = type.elem

        def read(index: Index) -> Expr:
            return from_memory(elem, buffer[index if index else (0,) * len(buffer.shape)], self.let)

        return Lazy(type, read, buffer=buffer, constant=constant)

    def immediate(self, type: Tensor, array: Any, constant: Any = None) -> Lazy:
        """A constant of one element, written into the code."""
        raw = const(array_of(np.asarray(array)).reshape(()).item(), storage_dtype(type.elem))
        return Lazy(type, lambda index: from_memory(type.elem, raw, self.let), constant=constant)

    def table(self, array: Any, type: Tensor) -> Lazy:
        """An array that the lowering itself computed, passed as one more operand."""
        assert self.add_constant is not None
        return self.view(self.add_constant(array_of(np.ascontiguousarray(array))), type)

    def allocate(self, type: Tensor) -> Any:
        """Memory for a tensor of a type, or the kernel's own result when it is the node's being lowered."""
        shape = self.extents(type.shape) or (1,)
        return modules().script.alloc_buffer(shape, storage_dtype(type.elem), layout=None)

    def target(self, node: Node, result: int = 0) -> Any:
        """Where a lowering that writes memory itself puts a result: the kernel's output if that is what it computes."""
        value = node.outputs[result]
        found = self._targets.get(value)
        return self.allocate(value.type) if found is None else found  # type: ignore[arg-type]

    def store(self, buffer: Any, index: Index, elem: Elem, value: Callable[[], Expr]) -> None:
        """buffer[index] = value, as the element lies in memory."""
        made = self.scoped(lambda: self.to_memory(elem, value()))
        self.emit.store(buffer, index if index else (0,) * len(buffer.shape), made)

    def set_target(self, value: Any, buffer: Any) -> None:
        self._targets[value] = buffer

    def result_types(self, node: Node) -> tuple[Tensor, ...]:
        """Types of a node's results, as this kernel sees them."""
        return tuple(self._types.get(v, v.type) for v in node.outputs)

    def result_type(self, node: Node) -> Tensor:
        return self.result_types(node)[0]

    def retype(self, value: Any, type: Tensor) -> None:
        """See a value under another shape of the same elements (merged axes)."""
        self._types[value] = type

    def accumulators(self, count: int, dtype: str) -> Any:
        """Stack memory of a few elements."""
        return modules().script.alloc_buffer((count,), dtype, scope=self._scope, layout=None)

    def pure(self, x: Lazy) -> Lazy:
        """x as something that can be read anywhere and any number of times: computed into memory if need be."""
        if x.source is None:
            return x
        return self.in_memory(x)

    def in_memory(self, x: Lazy) -> Lazy:
        """x as memory, computed there once."""
        if x.buffer is not None:
            return x
        found = self._memory.get(x)
        if found is None:
            buffer = self.allocate(x.type)
            self.store_all(x, buffer)
            found = self._memory[x] = self.view(buffer, x.type)
        return found

    def rounded(self, elem: Elem, value: Expr) -> Expr:
        return rounded(elem, value, self.let)

    def to_memory(self, elem: Elem, value: Expr) -> Expr:
        return to_memory(elem, value, self.let)

    def zero(self, elem: Elem) -> Expr:
        return const(0, compute_dtype(elem))

    # --- loops ------------------------------------------------------------------------------------------------------

    def store_all(self, x: Lazy, buffer: Any) -> None:
        """Compute all elements of x into a buffer."""

        self.for_each(x, lambda index, value: self.store(buffer, index, x.elem, value))

    def for_each(self, x: Lazy, body: Callable[[Index, Callable[[], Expr]], None]) -> None:
        """Loops over x; body(index, element) for each, where element() gives the expression."""
        if x.source is None:
            elementwise_nest(self, x.shape, x.elem, lambda index: body(index, lambda: self.read(x, index)))
            return
        source = x.source

        def sink(index: Index, value: Expr) -> None:
            with self._at(source, index, value):
                body(index, lambda: self.read(x, index))

        source.run(sink)

    def derived(self, type: Tensor, run: Callable[[Sink], None] = _in_a_template) -> Lazy:
        """A tensor computed by loops of its own, which `run` emits: none if they are a template's (`element_of`)."""
        source = Source(run)

        def read(index: Index) -> Expr:
            assert self._element is not None and self._element[0] is source, "read outside of its loops"
            assert len(index) == len(self._element[1])
            return self._element[2]

        return Lazy(type, read, source)

    def finished(self, func: Any) -> Any:
        """The function that the emitter made, completed."""
        return self.temporaries.insert(func)

    def element_of(self, x: Lazy, index: Index, value: Expr) -> Callable[[Lazy], Expr]:
        """Evaluate tensors derived from x at the one element that is at hand (a template's epilogue)."""
        assert x.source is not None
        source = x.source

        def evaluate(y: Lazy) -> Expr:
            def compute() -> Expr:
                with self._at(source, index, self.let(value)):
                    return self.read(y, index)

            return self.scoped(compute)

        return evaluate

    @contextmanager
    def _at(self, source: Source, index: Index, value: Expr) -> Iterator[None]:
        before = self._element
        self._element = (source, index, value)
        try:
            yield
        finally:
            self._element = before

    def map(self, type: Tensor, operands: Sequence[Lazy], fn: Callable[..., Expr], *, picks: bool = False) -> Lazy:
        """fn of the operands' elements, broadcast to the type's shape and rounded to its element.

        What fn only `picks` from the operands needs no rounding.
        """
        sources = {o.source for o in operands if o.source is not None}
        if len(sources) > 1 or any(o.source is not None and o.shape != type.shape for o in operands):
            operands = [self.pure(o) for o in operands]
            sources = set()

        def read(index: Index) -> Expr:
            values = [self.read(o, project(index, o.shape, type.shape)) for o in operands]
            return fn(*values) if picks else self.rounded(type.elem, fn(*values))

        return Lazy(type, read, next(iter(sources), None))
