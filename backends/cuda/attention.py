"""Attention as one kernel: softmax(f(q @ k)) @ v without the matrix of scores in memory.

The products and the running softmax are C++ (`ig::Attention` of attention.cuh). f, any elementwise function of a score
(scale, mask), is TIR as in the epilogue of a product: it is applied to a tile of scores in shared memory. q, k and v
are copied as rows of f16 before; what transposes, slices or scales them happens in that copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.graph import Value
from ...ir.types import Tensor
from ..tvm.api import modules
from ..tvm.kernels import VectorUnit
from ..tvm.kernels.batched import unravel
from ..tvm.lowering.attention import Parts, keys_seen, parts_of
from ..tvm.lowering.context import Context
from ..tvm.lowering.elements import storage_dtype
from ..tvm.lowering.epilogue import Epilogue
from ..tvm.lowering.expr import Expr, cast
from ..tvm.lowering.group import Group
from ..tvm.lowering.nodes import run_nodes
from ..tvm.lowering.tensor import Lazy
from .tiles import BF16, F16, F32, Element, pack_rows, position, total_of, wide

__all__ = ["DEPTHS", "attention", "shared_bytes"]

QUERIES = KEYS = 64
THREADS = 128
DEPTHS = {F16: (16, 32, 64, 128), BF16: (16, 32, 64, 128), F32: (16, 32, 64)}
"""What rows are padded to; 128 of f32 would take all shared memory for one block."""


def _parts(group: Group) -> Parts | None:
    """The group taken apart, or None where it is something else, or f reads what is computed for the products."""
    parts = parts_of(group)
    if parts is None or parts.softmax.output.type.shape != parts.first.output.type.shape:
        return None
    operands = {i for i, _ in group.operands}
    known = operands | set(group.known) | {v for n in (parts.first, *parts.scores) for v in n.outputs}
    if any(v not in known for n in parts.scores for v in n.inputs if v is not None):
        return None
    inner = {v for n in parts.before for v in n.inputs} & set(group.known) - operands
    if any(group.known[v].array.size != 1 for v in inner if v is not None):
        return None
    return parts


def shared_bytes(element: Element, width: int) -> int:
    """Shared memory of a block: q, k, v and the scores, and at the end the result in their place."""
    return max(3 * 64 * width * element.size + QUERIES * (KEYS + 4) * 4, QUERIES * (width + 4) * 4)


def attention(group: Group, element: Element, unit: VectorUnit) -> tuple[Any, tuple[Any, ...]] | None:
    """The kernel and its operands, or None where the group is no attention that it can do."""
    parts = _parts(group)
    if parts is None:
        return None
    q, k = parts.first.inputs
    v = parts.second.inputs[1]
    assert q is not None and k is not None and v is not None
    shapes = [x.type.shape for x in (q, k, v)]
    depths = (shapes[0][-1], shapes[2][-1])
    if not all(isinstance(d, int) and d <= DEPTHS[element][-1] for d in depths):
        return None
    width = next(d for d in DEPTHS[element] if d >= max(depths))  # type: ignore[type-var,operator]
    return _build(group, parts, (q, k, v), width, element, unit)


def _build(
    group: Group, parts: Parts, qkv: tuple[Value, Value, Value], width: int, element: Element, unit: VectorUnit
) -> tuple[Any, tuple[Any, ...]]:
    ctx = Context(unit)
    ctx.node = parts.second
    emit, script, tirx = ctx.emit, modules().script, modules().tirx
    needed = {v for n in parts.before for v in n.inputs} | set(qkv)
    operands: list[Any] = []
    with emit.function():
        env: dict[Value, Lazy] = {}
        for inside, outside in group.operands:
            if inside in needed:
                assert isinstance(inside.type, Tensor)
                env[inside] = ctx.parameter(f"x{len(operands)}", inside.type, constant=group.known.get(inside))
                operands.append(outside)
        for v, constant in group.known.items():
            if v in needed and v not in env:
                env[v] = ctx.immediate(v.type, constant.array, constant)  # type: ignore[arg-type]
        scores = Group(group.operands, parts.scores, (parts.softmax.inputs[0],), group.known)  # type: ignore[arg-type]
        epilogue = Epilogue(ctx, scores, parts.first.output, parts.scores)
        extras = emit.extra_args(tuple(epilogue.extras))
        operands.extend(epilogue.operands)
        seen = _tiles_seen(scores, parts)
        last = None if seen is None else emit.arg("seen", seen.shape, "int32")
        operands.extend([] if seen is None else [seen])
        result = group.outputs[0].type
        assert isinstance(result, Tensor)
        out = emit.arg("y", ctx.declare_shape(result.shape), storage_dtype(result.elem))
        run_nodes(ctx, parts.before, env)

        shape = ctx.extents(parts.second.output.type.shape)
        outer, queries = shape[:-2], shape[-2]
        keys = ctx.extent(parts.first.output.type.shape[-1])
        packed = [_packed(ctx, element, env[x], i == 1, width) for i, x in enumerate(qkv)]
        owns = [ctx.extents(env[x].shape[:-2]) for x in qkv]
        kind = f"ig::Attention<ig::{element.name}, {width}>"
        peaks = 8 if element == F32 else 4  # maxima and sums of a thread's rows
        scores_at = 3 * 64 * width * element.size // 4  # floats
        tiles = (queries + QUERIES - 1) // QUERIES
        blocks = script.launch_thread("blockIdx.x", total_of(outer) * tiles)
        with blocks as block, script.launch_thread("threadIdx.x", THREADS) as thread:
            shared = script.alloc_buffer(
                (shared_bytes(element, width) // 4,), "float32", scope="shared.dyn", layout=None
            )
            state = script.alloc_buffer((peaks + width // 2,), "float32", scope="local", layout=None)
            index, m0 = unravel(block // tiles, outer), block % tiles * QUERIES
            row = width * element.size
            counts = (queries, keys, keys)

            def call(name: str, *args: Any) -> None:
                script.evaluate(tirx.call_extern("int32", f"{kind}::{name}", *args))

            def read(place: Expr) -> Expr:
                return tirx.call_extern("float32", "ig::read", shared.data, place)

            def write(place: Expr, value: Expr) -> None:
                script.evaluate(tirx.call_extern("int32", "ig::write", shared.data, place, value))

            pointers = []
            for buffer, own, count in zip(packed, owns, counts, strict=True):
                offset = wide(position(index, own)) * (count * row)
                pointers.append(tirx.call_extern("handle", "ig::at", buffer.data, offset))
            base = shared.data
            call("start", base, state.data, pointers[0], m0, queries, pointers[1], keys)
            visited = (keys + KEYS - 1) // KEYS if last is None else last[block % tiles]
            with emit.serial(visited) as j:
                call("scores", base, pointers[2], j * KEYS, keys)
                with emit.serial(QUERIES * KEYS // THREADS) as i:
                    at = i * THREADS + thread
                    r, c = at // KEYS, at % KEYS
                    place = scores_at + r * (KEYS + 4) + c

                    def scored(r: Expr = r, c: Expr = c, j: Expr = j, place: Expr = place) -> None:
                        where = (*index, m0 + r, j * KEYS + c)
                        value = ctx.fixed(read(place))
                        write(place, ctx.scoped(lambda: epilogue.value(value, where, extras)))

                    lowest = tirx.const(float("-inf"), "float32")
                    emit.branch(
                        j * KEYS + c < keys,
                        lambda: _when(emit, m0 + r < queries, scored),
                        lambda place=place: write(place, lowest),  # type: ignore[misc]
                    )
                call("attend", base, state.data, pointers[1], (j + 1) * KEYS, keys)
            call("finish", base, state.data)
            with emit.serial(QUERIES * width // THREADS) as i:
                at = i * THREADS + thread
                r, c = at // width, at % width
                with emit.when(emit.both(m0 + r < queries, c < shape[-1])):
                    where = tuple((*index, m0 + r, c)[a] for a in parts.perm)
                    value = ctx.scoped(lambda: ctx.to_memory(result.elem, read(r * (width + 4) + c)))
                    emit.store(out, where, value)
    return ctx.finished(emit.func), tuple(operands)


def _tiles_seen(scores: Group, parts: Parts) -> Any | None:
    """For each tile of queries the tiles of keys that a constant mask, such as the causal one, does not hide whole."""
    shape = parts.first.output.type.shape
    seen = keys_seen(scores, scores.outputs[0], shape) if all(isinstance(d, int) for d in shape[-2:]) else None
    if seen is None:
        return None
    most = np.maximum.reduceat(seen, range(0, len(seen), QUERIES))
    return (-(-most // KEYS)).astype(np.int32)


def _packed(ctx: Context, element: Element, x: Lazy, transposed: bool, width: int) -> Any:
    """q, k or v as rows of a batch: those of k are the columns of the matrix in the product."""
    own = ctx.extents(x.shape[:-2])
    depth, rows = (x.shape[-2], x.shape[-1]) if transposed else (x.shape[-1], x.shape[-2])
    assert isinstance(depth, int)

    def read(z: Expr, r: Expr, k: Expr) -> Expr:
        index = (*unravel(z, own), *((k, r) if transposed else (r, k)))
        return cast(ctx.scoped(lambda: ctx.read(x, index)), element.dtype)

    return pack_rows(ctx.emit, element, total_of(own), ctx.extent(rows), depth, read, width)


def _when(emit: Any, condition: Expr, body: Any) -> None:
    with emit.when(condition):
        body()
