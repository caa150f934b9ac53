"""From loops to threads: what a lowering says is independent becomes a grid.

The lowerings of `backends.tvm.lowering` mark independent loops as parallel. With a unit of `SIMT` they do so for every
loop that can be, and name no vectors. Here a function of such loops becomes kernels, one after the other:

* a nest of parallel loops and nothing else in between: one thread an iteration, neighbours along the last loop;
* parallel loops inside a parallel loop among other statements: one block an iteration of the outer one, whose threads
  share out the inner ones; a buffer of scope `shared` holds what they exchange;
* anything else: a kernel of one thread. Rare (scatters, whose updates have an order) and slow, but right.

A serial loop around parallel ones stays on the host and starts kernels each time round. The function before binding is
an ordinary CPU function that computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..tvm.api import modules
from ..tvm.kernels import VectorUnit

__all__ = ["SIMT", "bind_module", "bind_threads"]

SIMT = VectorUnit(lanes=1, registers=255, simt=True)

THREADS = 256
"""Threads of a block: enough to hide latency, few enough for any register count up to 255."""

_SERIAL, _PARALLEL = 0, 1
_DECLARATIONS = ("AllocBuffer", "DeclBuffer", "Bind")


def bind_module(module: Any) -> Any:
    """An IRModule with all its PrimFuncs bound."""
    for name, func in module.functions.items():
        if _kind(func) == "PrimFunc":
            module.update_func(name, bind_threads(func))
    return module


def bind_threads(func: Any) -> Any:
    """The function with its parallel loops bound to blocks and threads; what launches threads itself stays as it is."""
    return func.with_body(_sequence(_host(func.body)))


def _host(stmt: Any) -> list[Any]:
    """Statements of the host that launch the kernels of a statement."""
    made: list[Any] = []
    pending: list[Any] = []  # statements for one thread

    def flush() -> None:
        if any(_kind(s) not in _DECLARATIONS for s in pending):
            made.append(_launch(1, 1, lambda block, thread: list(pending)))
        else:
            made.extend(pending)
        pending.clear()

    for s in _flat(stmt):
        if _is_parallel(s):
            flush()
            made.append(_kernel(s))
        elif _kind(s) == "AttrStmt" and s.attr_key == "thread_extent":
            flush()
            made.append(s)
        elif _kind(s) == "For" and any(_is_parallel(x) for x in _walk(s.body)):
            flush()
            made.append(_loop(s, _sequence(_host(s.body))))
        elif _kind(s) in ("AllocBuffer", "DeclBuffer") and s.buffer.scope() == "global":
            made.append(s)
        else:
            pending.append(s)
    flush()
    return made


def _kernel(loop: Any) -> Any:
    """One kernel for a nest of parallel loops."""
    tirx = modules().tirx
    nest = [loop]
    while _is_parallel(inner := _only(nest[-1].body)):
        nest.append(inner)
    body, total = nest[-1].body, _product([s.extent for s in nest])
    shared = [s for s in _walk(body) if _is_parallel(s)]
    if not shared:

        def element(block: Any, thread: Any) -> list[Any]:
            flat = _like(loop.loop_var, block) * THREADS + _like(loop.loop_var, thread)
            return [tirx.IfThenElse(flat < total, _sequence([*_unravelled(nest, flat), body]), None)]

        return _launch((total + THREADS - 1) // THREADS, THREADS, element)
    extents = [int(s.extent) if _kind(s.extent) == "IntImm" else THREADS for s in shared]
    count = min(THREADS, math.ceil(max(extents) / 32) * 32)

    def row(block: Any, thread: Any) -> list[Any]:
        return [*_unravelled(nest, _like(loop.loop_var, block)), *_block(body, thread, count)]

    return _launch(total, count, row)


def _block(stmt: Any, thread: Any, count: int) -> list[Any]:
    """Statements that all threads of a block run, with parallel loops shared out among them."""
    tirx = modules().tirx
    made: list[Any] = []
    for s in _flat(stmt):
        kind = _kind(s)
        if _is_parallel(s):
            made.append(_shared_out(s, thread, count))
        elif kind == "For":
            made.append(_loop(s, _sequence(_block(s.body, thread, count))))
        elif kind == "IfThenElse":
            other = None if s.else_case is None else _sequence(_block(s.else_case, thread, count))
            made.append(tirx.IfThenElse(s.condition, _sequence(_block(s.then_case, thread, count)), other))
        elif kind == "BufferStore" and s.buffer.scope() == "global":
            made.append(tirx.IfThenElse(thread == 0, s, None))
        else:
            made.append(s)
    return made


def _shared_out(loop: Any, thread: Any, count: int) -> Any:
    """Iteration i by thread i modulo the number of threads."""
    tirx = modules().tirx
    extent, own = loop.extent, _like(loop.loop_var, thread)
    if _kind(extent) == "IntImm" and int(extent) <= count:
        body = tirx.SeqStmt([tirx.Bind(loop.loop_var, own), loop.body])
        return body if int(extent) == count else tirx.IfThenElse(own < extent, body, None)
    turn = tirx.Var("turn", loop.loop_var.ty)
    at = turn * count + own
    body = tirx.IfThenElse(at < extent, tirx.SeqStmt([tirx.Bind(loop.loop_var, at), loop.body]), None)
    return tirx.For(turn, _like(turn, 0), (extent + count - 1) // count, _SERIAL, body)


def _launch(blocks: Any, threads: int, body: Any) -> Any:
    """body(block, thread) on a grid; it gives a list of statements."""
    tirx = modules().tirx
    grid, block = (tirx.Var(name, "int32") for name in ("block", "thread"))
    made = _sequence(body(grid, block))
    for var, tag, extent in ((block, "threadIdx.x", threads), (grid, "blockIdx.x", blocks)):
        extent = tirx.const(extent, "int32") if isinstance(extent, int) else tirx.Cast("int32", extent)
        axis = tirx.IterVar((0, extent), var, tirx.IterVar.ThreadIndex, tag)
        made = tirx.AttrStmt(axis, "thread_extent", extent, made)
    return made


def _unravelled(nest: Sequence[Any], flat: Any) -> list[Any]:
    """Names for the loops' variables at a flat position; the last one runs fastest."""
    tirx = modules().tirx
    made = []
    for i, s in reversed(list(enumerate(nest))):
        made.append(tirx.Bind(s.loop_var, _like(s.loop_var, flat % s.extent if i else flat)))
        flat = flat // s.extent
    return made


def _product(extents: Sequence[Any]) -> Any:
    if all(_kind(e) == "IntImm" for e in extents):
        return math.prod(map(int, extents))
    total = extents[0]
    for e in extents[1:]:
        total = total * e
    return total


def _like(x: Any, value: Any) -> Any:
    """A value in the integer type of x."""
    tirx, dtype = modules().tirx, str(x.ty.dtype)
    if isinstance(value, int):
        return tirx.const(value, dtype)
    return value if str(value.ty.dtype) == dtype else tirx.Cast(dtype, value)


# --- statements -----------------------------------------------------------------------------------------------------


def _kind(stmt: Any) -> str:
    return type(stmt).__name__


def _is_parallel(stmt: Any) -> bool:
    return _kind(stmt) == "For" and int(stmt.kind) == _PARALLEL


def _flat(stmt: Any) -> list[Any]:
    return [x for s in stmt.seq for x in _flat(s)] if _kind(stmt) == "SeqStmt" else [stmt]


def _only(stmt: Any) -> Any:
    """The one statement of a sequence of one."""
    return _only(stmt.seq[0]) if _kind(stmt) == "SeqStmt" and len(stmt.seq) == 1 else stmt


def _sequence(stmts: Sequence[Any]) -> Any:
    return stmts[0] if len(stmts) == 1 else modules().tirx.SeqStmt(list(stmts))


def _loop(s: Any, body: Any) -> Any:
    return modules().tirx.For(s.loop_var, s.min, s.extent, s.kind, body, s.thread_binding, s.annotations)


def _walk(stmt: Any) -> Iterator[Any]:
    """The statement and all inside it."""
    yield stmt
    for s in getattr(stmt, "seq", ()):
        yield from _walk(s)
    for name in ("body", "then_case", "else_case"):
        inner = getattr(stmt, name, None)
        if inner is not None:
            yield from _walk(inner)
