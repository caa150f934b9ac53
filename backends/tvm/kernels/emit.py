"""A thin layer over TVM's IR builder: the handful of statements that the templates are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..api import modules
from .kernel import Dim, Epilogue, Expr, ExtraOperand, VectorUnit, cover

_X86_MAX: Mapping[int, tuple[Any, ...]] = {
    16: ("llvm.x86.avx512.max.ps.512", 4),  # as the rounding mode says
    8: ("llvm.x86.avx.max.ps.256",),
    4: ("llvm.x86.sse.max.ps",),
}
_NAN = 3  # either kind, for llvm.is.fpclass

BF16_BITS = "uint16"
"""How bf16 lies in memory: TVM turns its own bf16 into fp32 here and there."""


class Emitter:
    """Builds one opaque PrimFunc statement by statement; `func` holds it once `function()` is left."""

    def __init__(self) -> None:
        api = modules()
        self._builder = api.IRBuilder
        self._script = api.script
        self._tirx = api.tirx
        self.func: Any = None

    @contextmanager
    def function(self) -> Iterator[None]:
        with self._builder() as builder, self._script.prim_func(s_tir=True):
            self._script.func_attr({"tirx.noalias": True})
            yield
        self.func = builder.get()

    # declarations

    def arg(self, name: str, shape: Sequence[Dim], dtype: str = "float32") -> Any:
        return self._script.arg(name, self._script.buffer(tuple(shape), dtype, layout=None))

    def floats(self, name: str, shape: Sequence[Dim], dtype: str = "float32") -> Any:
        """A parameter that is read as fp32 where it holds bf16 (`dtype` uint16), and as it is otherwise."""
        made = self.arg(name, shape, dtype)
        return _Widened(self, made) if dtype == BF16_BITS else made

    def flat(self, buffer: Any, count: Dim) -> Any:
        """The same memory as one row."""
        return self._script.decl_buffer((count,), str(buffer.dtype), data=buffer.data, layout=None)

    def extra_args(self, extras: Sequence[ExtraOperand]) -> tuple[Any, ...]:
        return tuple(self.arg(f"extra{i}", e.shape, e.dtype) for i, e in enumerate(extras))

    def scratch(self, *shape: Dim, dtype: str = "float32") -> Any:
        """Memory from the runtime's workspace pool; allocate it once a task, not once a tile."""
        return self._script.alloc_buffer(shape, dtype, layout=None)

    def registers(self, *shape: int, dtype: str = "float32") -> Any:
        """Memory for less than 1024 bytes on the stack; becomes registers where every index is a constant.

        Larger arrays are from the workspace pool, and so would be any with TVM's scope "local".
        """
        return self._script.alloc_buffer(shape, dtype, layout=None)

    # loops and branches

    @contextmanager
    def serial(self, extent: Expr, start: Expr = 0) -> Iterator[Expr]:
        with self._script.serial(start, start + extent) as var:
            yield var

    @contextmanager
    def parallel(self, extent: Expr) -> Iterator[Expr]:
        with self._script.parallel(0, extent) as var:
            yield var

    @contextmanager
    def lanes(self, width: int) -> Iterator[Expr]:
        """A vectorised loop: scalar expressions inside become vectors. One lane needs no loop."""
        if width == 1:
            yield 0
        else:
            with self._script.vectorized(0, width) as var:
                yield var

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        with self._script.If(condition), self._script.Then():
            yield

    def branch(self, condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
        with self._script.If(condition):
            with self._script.Then():
                then()
            with self._script.Else():
                otherwise()

    # expressions

    def const(self, value: float) -> Expr:
        return self._tirx.const(value, "float32")

    def integer(self, value: int) -> Expr:
        return self._tirx.const(value, "int32")

    def reinterpret(self, value: Expr, dtype: str) -> Expr:
        """The same bits, lane by lane, as another type of 32 bits."""
        lanes = value.ty.dtype.lanes
        return self._tirx.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", value)

    def min(self, a: Expr, b: Expr) -> Expr:
        return self._tirx.min(a, b)

    def max(self, a: Expr, b: Expr) -> Expr:
        return self._tirx.max(a, b)

    def larger(self, a: Expr, b: Expr, unit: VectorUnit) -> Expr:
        """max(a, b) of vectors in which nan wins; `max` returns b where either is nan."""
        dtype, lanes = f"float32x{unit.lanes}", unit.lanes
        if unit.maximum:
            return self.intrinsic(dtype, "llvm.maximum", a, b)
        # By intrinsics: LLVM would join the two comparisons, and TVM takes its own `isnan` apart, lane by lane.
        name, *rounding = _X86_MAX[lanes]
        larger = self.intrinsic(dtype, name, a, b, *map(self.integer, rounding))
        return self._tirx.Select(self.intrinsic(f"boolx{lanes}", "llvm.is.fpclass", a, self.integer(_NAN)), a, larger)

    def bind(self, value: Expr) -> Expr:
        """A name for a value: keeps the simplifier from taking an index apart where it should fold it
        whole.
        """
        return value if isinstance(value, int) else self._script.Bind(value)

    def step_back(self, index: Expr, size: int, extent: int) -> Expr:
        """Start of piece `index` of [0, extent) in pieces of `size`; the last one steps back to be whole."""
        if size == extent:
            return 0
        return index * size if extent % size == 0 else self.min(index * size, extent - size)

    def to_float(self, value: Expr) -> Expr:
        return self._tirx.Cast("float32", value)

    def both(self, a: Expr, b: Expr) -> Expr:
        return self._tirx.all(a, b)

    def select(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        return self._tirx.Select(condition, a, b)

    def ramp(self, base: Expr, width: int) -> Expr:
        """The index vector base, base + 1, ..."""
        return base if width == 1 else self._tirx.Ramp(base, 1, width)

    def splat(self, value: Expr, width: int) -> Expr:
        return value if width == 1 else self._tirx.Broadcast(value, width)

    def shuffle(self, vectors: Sequence[Expr], indices: Sequence[int]) -> Expr:
        """Lanes picked by position in the concatenation of the vectors."""
        return self._tirx.Shuffle(list(vectors), list(indices))

    def cast(self, value: Expr, dtype: str) -> Expr:
        """Each lane converted to another type."""
        lanes = value.ty.dtype.lanes
        return self._tirx.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", value)

    def narrowed(self, value: Expr, dtype: str) -> Expr:
        """A number as it is stored: fp32 as bf16 (`dtype` uint16), which it must be already; anything else as it is."""
        if dtype != BF16_BITS or not str(value.ty.dtype).startswith("float"):
            return value
        raw = self.reinterpret(value, "uint32")
        return self.cast(raw >> self.splat_of(16, "uint32", value.ty.dtype.lanes), BF16_BITS)

    def bits(self, value: Expr, dtype: str) -> Expr:
        """All bits of a value, as another type (`int8x64`) of the same size."""
        return self._tirx.reinterpret(dtype, value)

    def splat_of(self, value: float, dtype: str, width: int) -> Expr:
        """A constant of some type in every lane."""
        return self.splat(self._tirx.const(value if dtype.startswith("float") else int(value), dtype), width)

    def popcount(self, value: Expr) -> Expr:
        return self._tirx.popcount(value)

    def intrinsic(self, dtype: str, name: str, *args: Expr) -> Expr:
        """A call of one of LLVM's intrinsics without side effects."""
        return self._tirx.call_llvm_pure_intrin(dtype, self._script.llvm_lookup_intrinsic_id(name), *args)

    def external(self, dtype: str, name: str, *args: Expr) -> Expr:
        """A call of a function without side effects that `llvm` defines."""
        return self._tirx.call_pure_extern(dtype, name, *args)

    @contextmanager
    def llvm(self, text: str) -> Iterator[None]:
        """LLVM assembly that the statements inside may call; nothing where there is no text."""
        if not text:
            yield
        else:
            with self._script.attr(self._tirx.const(0, "int32"), "pragma_import_llvm", text):
                yield

    # statements

    def store(self, buffer: Any, index: Sequence[Expr], value: Expr) -> None:
        self._script.buffer_store(buffer, value, list(index))

    def prefetch(self, buffer: Any, index: Sequence[Expr]) -> None:
        """Have the cache line at an index fetched into L2; an index past the end does no harm."""
        at = self._tirx.address_of(buffer[tuple(index)])
        hints = [self.integer(value) for value in (0, 2, 1)]  # to be read, into L2, data
        self._script.evaluate(self._tirx.call_llvm_intrin("void", "llvm.prefetch", at, *hints))

    def fill_row(self, buffer: Any, prefix: Sequence[Expr], start: Expr, length: int, value: float, lanes: int) -> None:
        """buffer[prefix, start : start + length] = value."""
        if length <= 0:
            return
        for offset, width in cover(length, lanes):
            index = [*prefix, self.ramp(start + offset, width)]
            self.store(buffer, index, self.splat_of(value, str(buffer.dtype), width))

    def for_each_vector(self, length: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
        """Call body(start, width) for vectors that cover [0, length): whole ones in a loop, the last one
        apart.
        """
        pieces = cover(length, lanes)
        width = pieces[0][1]
        whole = length // width
        if whole <= 2:
            for start, _ in pieces[:whole]:
                body(start, width)
        else:
            with self.serial(whole) as i:
                body(i * width, width)
        for start, _ in pieces[whole:]:
            body(start, width)

    def store_row(
        self,
        length: int,
        lanes: int,
        value: Callable[[Expr], Expr],
        index: Callable[[Expr], tuple[Expr, ...]],
        out: Any,
        epilogue: Epilogue,
        extras: tuple[Any, ...],
    ) -> None:
        """Apply the epilogue to `length` contiguous outputs, vectorised along them."""

        def body(start: Expr, width: int) -> None:
            with self.lanes(width) as lane:
                at = index(start + lane)
                self.store(out, at, epilogue(value(start + lane), at, extras))

        self.for_each_vector(length, lanes, body)


class _Widened:
    """A buffer of bf16 that is read as fp32."""

    def __init__(self, emit: Emitter, buffer: Any) -> None:
        self._emit, self._buffer = emit, buffer

    def __getitem__(self, index: Any) -> Expr:
        emit = self._emit
        wide = emit.cast(self._buffer[index], "uint32")
        return emit.reinterpret(wide << emit.splat_of(16, "uint32", wide.ty.dtype.lanes), "float32")
