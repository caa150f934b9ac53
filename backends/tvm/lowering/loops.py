"""Loop nests: around the elements of a result, and around reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ....ir.dims import Dim, Extent
from ....ir.types import Elem
from .elements import itemsize
from .expr import Expr, Index

if TYPE_CHECKING:
    from .context import Context

__all__ = ["elementwise_nest", "lanes_for", "outer_nest", "serial_nest", "vector_blocks"]

PARALLEL_WORK = 16384
"""Elements from which on threads pay."""

CHUNK = 4096
"""Elements of one task where there are no outer axes to share out."""


def lanes_for(ctx: Context, elem: Elem) -> int:
    """Elements in a vector register."""
    return max(1, ctx.unit.lanes * 4 // max(itemsize(elem), 4))


def unravel(position: Expr, extents: Sequence[Any]) -> Index:
    """The index of a flat position."""
    out: list[Expr] = []
    for k, d in enumerate(reversed(extents)):
        if isinstance(d, int) and d == 1:
            out.append(0)
        elif k == len(extents) - 1 or all(isinstance(e, int) and e == 1 for e in extents[: len(extents) - 1 - k]):
            out.append(position)
        else:
            out.append(position % d)
            position = position // d
    return tuple(reversed(out))


def product(extents: Sequence[Any]) -> Any:
    total: Any = 1
    for d in extents:
        total = d if isinstance(total, int) and total == 1 else total * d
    return total


@contextmanager
def serial_nest(ctx: Context, extents: Sequence[Any]) -> Iterator[Index]:
    """Plain loops, one in another."""
    with ExitStack() as stack:
        loops = [0 if isinstance(d, int) and d == 1 else stack.enter_context(ctx.emit.serial(d)) for d in extents]
        yield tuple(loops)


@contextmanager
def outer_nest(ctx: Context, shape: Sequence[Extent], work: int) -> Iterator[Index]:
    """Loops over `shape`, the leading ones shared among threads if `work` (elements in all) is worth it."""
    extents = ctx.extents(shape)
    if ctx.unit.simt:  # every element is a thread's, or every row a block's
        with ctx.emit.parallel(product(extents)) as task:
            yield unravel(task, extents)
        return
    if work < PARALLEL_WORK and all(isinstance(d, int) for d in shape):
        with serial_nest(ctx, extents) as index:
            yield index
        return
    split, tasks = 0, 1
    while split < len(shape) and tasks < 64:
        d = shape[split]
        tasks *= d if isinstance(d, int) else 1
        split += 1
    if split == 0:
        yield ()
        return
    with ctx.emit.parallel(product(extents[:split])) as task, serial_nest(ctx, extents[split:]) as inner:
        yield (*unravel(task, extents[:split]), *inner)


def vector_blocks(ctx: Context, extent: Any, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """body(start, width) so that [0, extent) is covered; the last block may step back over its neighbour."""
    if ctx.unit.simt:
        with ctx.emit.parallel(extent) as i:
            body(i, 1)
        return
    if isinstance(extent, int):
        if extent > 0:
            ctx.emit.for_each_vector(extent, lanes, body)
        return
    with ctx.emit.serial(extent // lanes) as block:
        body(block * lanes, lanes)
    with ctx.emit.serial(extent % lanes) as rest:
        body(extent // lanes * lanes + rest, 1)


def elementwise_nest(ctx: Context, shape: Sequence[Extent], elem: Elem, body: Callable[[Index], None]) -> None:
    """Loops over all elements: outer axes parallel, the last one in vectors."""
    if any(isinstance(d, int) and d == 0 for d in shape):
        return
    if not shape or ctx.unit.simt:
        with outer_nest(ctx, shape, 0) as index:
            body(index)
        return
    lanes = lanes_for(ctx, elem)
    *outer, inner = shape
    work = math.prod(d for d in shape if isinstance(d, int))
    count = math.prod(d for d in outer if isinstance(d, int))
    symbolic = any(isinstance(d, Dim) for d in outer)
    if isinstance(inner, int) and inner >= 4 * CHUNK and count < 16 and not symbolic:
        _chunked(ctx, tuple(outer), inner, lanes, body)
        return
    with outer_nest(ctx, outer, work) as index:

        def block(start: Expr, width: int) -> None:
            with ctx.emit.lanes(width) as lane:
                body((*index, start if width == 1 else start + lane))

        vector_blocks(ctx, ctx.extent(inner), lanes, block)


def _chunked(ctx: Context, outer: tuple[Extent, ...], inner: int, lanes: int, body: Callable[[Index], None]) -> None:
    """Few long rows: pieces of a row are the tasks."""
    whole, rest = divmod(inner, CHUNK)
    extents = ctx.extents(outer)
    with ctx.emit.parallel(product(extents) * whole) as task, ctx.emit.serial(CHUNK // lanes) as block:
        index = unravel(task // whole, extents) if outer else ()
        with ctx.emit.lanes(lanes) as lane:
            body((*index, task % whole * CHUNK + block * lanes + lane))
    if rest:
        with serial_nest(ctx, extents) as index:

            def tail(start: Expr, width: int) -> None:
                with ctx.emit.lanes(width) as lane:
                    body((*index, whole * CHUNK + start + lane))

            ctx.emit.for_each_vector(rest, lanes, tail)
