"""Named values inside loops: one stack slot a lane, which LLVM turns into a register.

`tirx.Let` would be the natural form, but TVM's analyses substitute bound values into each other: a chain of names takes
exponential time, and the simplifier sees through names that are there to stop it. A slot in memory is opaque to it.

Values are named while the body of a (usually vectorised) loop is being written, when it is too late to allocate outside
of it: `insert` adds the allocations to the finished function.
"""

from __future__ import annotations

from typing import Any

from ..api import modules
from .expr import Expr, cast, const, dtype_of

__all__ = ["LANES", "Temporaries"]

LANES = 64
"""Loops up to this extent are taken for vectorised ones: their values get a slot an iteration."""

_TRIVIAL = ("Var", "IntImm", "FloatImm", "TensorLoad")


class Temporaries:
    """The slots of one kernel; loops of up to `lanes` iterations are taken for vectorised ones.

    `scope` is TVM's: on a CPU, small "global" arrays are on the stack, "local" ones a call for memory each.
    """

    def __init__(self, lanes: int = LANES, scope: str = "global") -> None:
        self._lanes, self._scope = lanes, scope
        self._loops: dict[int, tuple[Any, list[Any]]] = {}

    def name(self, value: Expr, *, force: bool = False) -> Expr:
        """The value, computed once here. Loads are cheap to repeat and stay as they are, unless `force`."""
        kind = type(value).__name__
        if isinstance(value, (int, float)) or (kind in _TRIVIAL and not (force and kind == "TensorLoad")):
            return value
        dtype = dtype_of(value)
        if dtype == "bool":
            return self.name(cast(value, "int8"), force=force) != const(0, "int8")
        script = modules().script
        frame = modules().IRBuilder.current().frames[-1]
        if type(frame).__name__ == "ForFrame" and type(frame.doms[0].extent).__name__ == "IntImm":
            lane, extent = frame.vars[0], int(frame.doms[0].extent)
            if extent <= self._lanes:
                buffer = script.buffer((extent,), dtype, scope=self._scope, layout=None)
                self._loops.setdefault(hash(lane), (lane, []))[1].append(buffer)
                script.buffer_store(buffer, value, [lane])
                return buffer[lane]
        buffer = script.alloc_buffer((1,), dtype, scope=self._scope, layout=None)
        script.buffer_store(buffer, value, [0])
        return buffer[0]

    def insert(self, func: Any) -> Any:
        """The function with the slots allocated: around vectorised loops, inside the others."""
        return func if not self._loops else func.with_body(self._visit(func.body))

    def _visit(self, stmt: Any) -> Any:
        tirx = modules().tirx
        kind = type(stmt).__name__
        if kind == "SeqStmt":
            old = list(stmt.seq)
            new = [self._visit(s) for s in old]
            return stmt if all(a is b for a, b in zip(old, new, strict=True)) else tirx.SeqStmt(new)
        if kind == "IfThenElse":
            then = self._visit(stmt.then_case)
            other = None if stmt.else_case is None else self._visit(stmt.else_case)
            return tirx.IfThenElse(stmt.condition, then, other)
        if kind == "AttrStmt":  # LLVM assembly that the statements inside call
            return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, self._visit(stmt.body))
        if kind != "For":
            return stmt
        body = self._visit(stmt.body)
        found = self._loops.get(hash(stmt.loop_var))
        slots = [tirx.AllocBuffer(b) for b in found[1]] if found is not None else []
        around = int(stmt.kind) == _VECTORIZED
        if slots and not around:
            body = tirx.SeqStmt([*slots, body])
        loop = tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding, stmt.annotations)
        return tirx.SeqStmt([*slots, loop]) if slots and around else loop


_VECTORIZED = 2
