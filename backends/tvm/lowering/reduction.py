"""Loops of reductions: accumulators in registers, vectors along the result's last axis or along the reduced one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ....ir.dims import Extent
from ....ir.types import Tensor
from ..api import modules
from .context import Context
from .expr import Expr, Index, const
from .loops import lanes_for, outer_nest, product, serial_nest, unravel, vector_blocks
from .tensor import Lazy, Sink

__all__ = ["Accumulator", "along", "reduce"]

WARP = 32  # threads that run in step: a reduction of fewer elements is one thread's
BLOCK = 256  # threads that share a longer one


@dataclass(frozen=True)
class Accumulator:
    """What one accumulator starts with, in its dtype."""

    start: Any
    dtype: str


Values = list[Expr]
Step = Callable[[Values, Index, Index], Values]
"""(accumulators, index of the result, index in the domain) -> new accumulators, later ones not reading earlier ones."""


def reduce(
    ctx: Context,
    type: Tensor,
    domain: Sequence[Extent],
    accumulators: Sequence[Accumulator],
    step: Step,
    finish: Callable[[Values, Index], Expr],
    *,
    merge: Callable[[Expr, Expr], Expr] | None = None,
    along_domain: bool = False,
) -> Lazy:
    """A tensor whose elements are each reduced over `domain`.

    `along_domain` puts vectors along the domain's last axis; that takes a single accumulator and `merge` of two.
    """

    def value(state: Values, index: Index) -> Expr:
        return ctx.rounded(type.elem, finish(state, index))

    def run(sink: Sink) -> None:
        work = math.prod(d for d in (*type.shape, *domain) if isinstance(d, int))
        if any(isinstance(d, int) and d == 0 for d in type.shape):
            return
        if (along_domain and merge is not None and domain) or not type.shape:
            with outer_nest(ctx, type.shape, work) as index:
                (first, *more) = accumulators
                if more or merge is None or not domain:
                    state = along(ctx, 1, domain, accumulators, lambda a, k, lane: step(a, index, k))
                    sink(index, ctx.scoped(lambda: value([s[0] for s in state], index)))
                else:
                    total = horizontal(ctx, type, domain, first, lambda a, k: step([a], index, k)[0], merge)
                    sink(index, ctx.scoped(lambda: value([total], index)))
            return
        *outer, inner = type.shape
        with outer_nest(ctx, outer, work) as prefix:

            def block(start: Expr, width: int) -> None:
                def at(lane: Expr) -> Index:
                    return (*prefix, start if width == 1 else start + lane)

                state = along(ctx, width, domain, accumulators, lambda a, k, lane: step(a, at(lane), k))
                with ctx.emit.lanes(width) as lane:
                    index = at(lane)
                    sink(index, ctx.scoped(lambda: value([s[lane] for s in state], index)))

            vector_blocks(ctx, ctx.extent(inner), lanes_for(ctx, type.elem), block)

    return ctx.derived(type, run)


def along(
    ctx: Context,
    width: int,
    domain: Sequence[Extent],
    accumulators: Sequence[Accumulator],
    step: Callable[[Values, Index, Expr], Values],
) -> list[Any]:
    """Accumulators of `width` lanes after the loops over `domain`; step(accumulators, index, lane)."""
    state = [ctx.accumulators(width, a.dtype) for a in accumulators]
    with ctx.emit.lanes(width) as lane:
        for buffer, a in zip(state, accumulators, strict=True):
            ctx.emit.store(buffer, [lane], const(a.start, a.dtype))
    with serial_nest(ctx, ctx.extents(domain)) as k, ctx.emit.lanes(width) as lane:
        for i, buffer in enumerate(state):
            made = ctx.scoped(lambda i=i, k=k, lane=lane: step([s[lane] for s in state], k, lane)[i])  # type: ignore[misc]
            ctx.emit.store(buffer, [lane], made)
    return state


def horizontal(
    ctx: Context,
    type: Tensor,
    domain: Sequence[Extent],
    accumulator: Accumulator,
    step: Callable[[Expr, Index], Expr],
    merge: Callable[[Expr, Expr], Expr],
) -> Expr:
    """One number reduced over `domain` with vectors along its last axis."""
    if ctx.unit.simt:
        return among_threads(ctx, domain, accumulator, step, merge)
    *outer, last = domain
    lanes = lanes_for(ctx, type.elem)
    if isinstance(last, int):
        while lanes > max(last, 1):
            lanes //= 2
    emit, length = ctx.emit, ctx.extent(last)
    buffer = ctx.accumulators(lanes, accumulator.dtype)
    with emit.lanes(lanes) as lane:
        emit.store(buffer, [lane], const(accumulator.start, accumulator.dtype))

    def piece(k: Index, start: Expr, width: int) -> None:
        with emit.lanes(width) as lane:
            at = start if width == 1 else start + lane
            emit.store(buffer, [lane], ctx.scoped(lambda: step(buffer[lane], (*k, at))))

    with serial_nest(ctx, ctx.extents(outer)) as k:
        if isinstance(length, int):
            whole, rest = divmod(length, lanes)
            if whole:
                with emit.serial(whole) as b:
                    piece(k, b * lanes, lanes)
            start = whole * lanes
            while rest:
                width = 1 << (rest.bit_length() - 1)
                piece(k, start, width)
                start, rest = start + width, rest - width
        else:
            with emit.serial(length // lanes) as b:
                piece(k, b * lanes, lanes)
            with emit.serial(length % lanes) as r:
                piece(k, length // lanes * lanes + r, 1)
    while lanes > 1:
        lanes //= 2
        with emit.lanes(lanes) as lane:
            emit.store(buffer, [lane], merge(buffer[lane], buffer[lane + lanes]))
    return buffer[0]


def among_threads(
    ctx: Context,
    domain: Sequence[Extent],
    accumulator: Accumulator,
    step: Callable[[Expr, Index], Expr],
    merge: Callable[[Expr, Expr], Expr],
) -> Expr:
    """One number reduced over `domain` by the threads of a block: a part each, then pairs of parts, as a tree."""
    emit, extents = ctx.emit, ctx.extents(domain)
    total = product(extents)
    if isinstance(total, int) and total < WARP:
        state = along(ctx, 1, domain, [accumulator], lambda a, k, lane: [step(a[0], k)])
        return state[0][0]
    width = BLOCK
    while isinstance(total, int) and width > WARP and width // 2 >= total:
        width //= 2
    parts = modules().script.alloc_buffer((width,), accumulator.dtype, scope="shared", layout=None)
    with emit.parallel(width) as t:
        mine = ctx.accumulators(1, accumulator.dtype)
        emit.store(mine, [0], const(accumulator.start, accumulator.dtype))
        with emit.serial((total + width - 1) // width) as i:
            at = i * width + t
            with emit.when(at < total):
                emit.store(mine, [0], ctx.scoped(lambda: step(mine[0], unravel(at, extents))))
        emit.store(parts, [t], mine[0])
    while width > 1:
        width //= 2
        with emit.parallel(width) as t:
            emit.store(parts, [t], merge(parts[t], parts[t + width]))
    return parts[0]
