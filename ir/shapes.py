"""Shape functions: what signatures call to say a result's shape, as `window` in `*window(S, K)`.

Positional parameters are bound extents and shapes, keyword-only parameters are attributes of the op by name. They
work on symbolic extents and raise IG0204 or IG0207 for arguments that make no sense. `?` in, `?` out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .diagnostics import IntaglioError, error
from .dims import UNKNOWN, Extent, Shape, exact_div, floor_div, same, size

__all__ = ["FUNCTIONS", "normal_axes", "normal_axis", "shape_function"]

FUNCTIONS: dict[str, Callable[..., Any]] = {}


def shape_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make `fn` callable from signatures under its own name."""
    FUNCTIONS[fn.__name__] = fn
    return fn


def _bad(message: str, hint: str = "") -> IntaglioError:
    return error("IG0207", message, hint=hint)


def normal_axis(axis: int, rank: int) -> int:
    """`axis` counted from the front; IG0204 when there is no such axis."""
    if not -rank <= axis < rank:
        raise error("IG0204", f"axis {axis} is outside a tensor of {rank} axes")
    return axis + rank if axis < 0 else axis


def normal_axes(axes: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """All axes for None; duplicates are IG0204."""
    if axes is None:
        return tuple(range(rank))
    out = tuple(normal_axis(a, rank) for a in axes)
    if len(set(out)) != len(out):
        raise error("IG0204", f"axes {list(axes)} name one axis twice")
    return out


def broadcast_extent(a: Extent, b: Extent) -> Extent:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if a is UNKNOWN or b is UNKNOWN:
        return b if a is UNKNOWN else a
    raise _bad(f"extents {a} and {b} do not broadcast", "they must be equal, or one of them 1")


@shape_function
def broadcast(*shapes: Any) -> Shape:
    """NumPy's rule, right-aligned; absent operands count as scalars, a list of shapes (variadic) as all of them."""
    flat: list[Shape] = []
    for s in shapes:
        if s is None:
            continue
        flat.extend(s if s and isinstance(s[0], tuple) else [s])
    out: list[Extent] = []
    for s in flat:
        s = tuple(s)
        if len(s) > len(out):
            out = [*s[: len(s) - len(out)], *out]
            offset = 0
        else:
            offset = len(out) - len(s)
        for i, d in enumerate(s):
            out[offset + i] = broadcast_extent(out[offset + i], d)
    return tuple(out)


def _per_axis(value: Sequence[int] | None, rank: int, default: int, name: str) -> tuple[int, ...]:
    if value is None:
        return (default,) * rank
    if len(value) != rank:
        raise error("IG0204", f"{name} = {list(value)} for {rank} spatial axes")
    return tuple(value)


def _pads(pads: Sequence[int] | None, rank: int) -> tuple[tuple[int, int], ...]:
    """Pads as (before, after) an axis; the attribute lists all befores, then all afters, as ONNX does."""
    flat = _per_axis(pads, 2 * rank, 0, "pads") if pads is not None else (0,) * (2 * rank)
    return tuple((flat[i], flat[rank + i]) for i in range(rank))


@shape_function
def window(
    s: Shape,
    k: Shape,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil: bool = False,
) -> Shape:
    """Extents after sliding a window of `k` over `s`."""
    rank = len(s)
    if len(k) != rank:
        raise _bad(f"a window of {len(k)} axes over {rank} spatial axes")
    out: list[Extent] = []
    steps, gaps = _per_axis(strides, rank, 1, "strides"), _per_axis(dilations, rank, 1, "dilations")
    for d, w, step, gap, (before, after) in zip(s, k, steps, gaps, _pads(pads, rank), strict=True):
        if step < 1 or gap < 1:
            raise error("IG0204", "strides and dilations are at least 1")
        span = d + before + after - (gap * (w - 1) + 1)
        if isinstance(span, int) and span < 0:
            raise _bad(f"a window of {gap * (w - 1) + 1} does not fit into {d + before + after}")
        extent = floor_div(span + (step - 1 if ceil else 0), step) + 1
        # a window that starts in the padding after the data is not counted (as torch and ONNX agree)
        if ceil and isinstance(extent, int) and isinstance(d, int) and (extent - 1) * step >= d + before:
            extent -= 1
        out.append(extent)
    return tuple(out)


@shape_function
def pool(
    s: Shape,
    *,
    kernel: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil: bool = False,
) -> Shape:
    return window(s, tuple(kernel), strides=strides, pads=pads, dilations=dilations, ceil=ceil)


@shape_function
def transposed_window(
    s: Shape,
    k: Shape,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    output_pads: Sequence[int] | None = None,
) -> Shape:
    """Extents before the window of `window` was slid: (s-1)*stride + span + output pad - pads."""
    rank = len(s)
    if len(k) != rank:
        raise _bad(f"a window of {len(k)} axes over {rank} spatial axes")
    out: list[Extent] = []
    for d, w, step, gap, (before, after), extra in zip(
        s,
        k,
        _per_axis(strides, rank, 1, "strides"),
        _per_axis(dilations, rank, 1, "dilations"),
        _pads(pads, rank),
        _per_axis(output_pads, rank, 0, "output_pads"),
        strict=True,
    ):
        out.append((d - 1) * step + gap * (w - 1) + 1 + extra - before - after)
    return tuple(out)


@shape_function
def groups_times(m: Extent, *, g: int) -> Extent:
    return m * g


@shape_function
def reduced(s: Shape, *, axes: Sequence[int] | None = None, keepdims: bool = True) -> Shape:
    """`s` without `axes`, or with 1 there."""
    gone = normal_axes(axes, len(s))
    return tuple(1 if i in gone else d for i, d in enumerate(s) if keepdims or i not in gone)


@shape_function
def reduced_axis(s: Shape, *, axis: int, keepdims: bool = True) -> Shape:
    return reduced(s, axes=(axis,), keepdims=keepdims)


@shape_function
def matmul_shape(a: Shape, b: Shape) -> Shape:
    """NumPy's matmul: vectors get an axis that is dropped again, leading axes broadcast."""
    if not a or not b:
        raise _bad("a matrix product of a scalar")
    inner_a, inner_b = a[-1], b[-2] if len(b) > 1 else b[0]
    if not same(inner_a, inner_b):
        raise _bad(f"a matrix product sums over {inner_a} and {inner_b} elements")
    batch = broadcast(a[:-2], b[:-2])
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    return (*batch, *rows, *columns)


@shape_function
def reshaped(s: Shape, *, shape: Shape) -> Shape:
    """The attribute; one `?` in it is what remains of the size."""
    unknown = [i for i, d in enumerate(shape) if d is UNKNOWN]
    known = size(tuple(d for d in shape if d is not UNKNOWN))
    total = size(s)
    if len(unknown) == 1 and total is not UNKNOWN:
        rest = exact_div(total, known) if known != 0 else None
        if rest is None:
            raise _bad(f"{total} elements do not fill [{', '.join(map(str, shape))}]")
        return tuple(rest if i == unknown[0] else d for i, d in enumerate(shape))
    if not unknown and total is not UNKNOWN and known != total:
        raise _bad(f"{total} elements do not fill [{', '.join(map(str, shape))}]")
    return tuple(shape)


@shape_function
def permuted(s: Shape, *, perm: Sequence[int]) -> Shape:
    if sorted(perm) != list(range(len(s))):
        raise error("IG0204", f"perm = {list(perm)} does not permute {len(s)} axes")
    return tuple(s[p] for p in perm)


@shape_function
def expanded(s: Shape, *, shape: Shape) -> Shape:
    return broadcast(s, tuple(shape))


@shape_function
def concatenated(shapes: Sequence[Shape], *, axis: int) -> Shape:
    first = shapes[0]
    at = normal_axis(axis, len(first))
    total: Extent = 0
    merged = list(first)
    for s in shapes:
        if len(s) != len(first):
            raise _bad("operands of different rank do not concatenate")
        for i, d in enumerate(s):
            if i == at:
                total = total + d
            elif not same(merged[i], d):
                raise _bad(f"axis {i} has extents {merged[i]} and {d}; only axis {at} may differ")
            elif merged[i] is UNKNOWN:
                merged[i] = d
    merged[at] = total
    return tuple(merged)


def slice_bounds(start: int, stop: int, step: int, extent: int) -> tuple[int, int]:
    """First index and count of Python's `range(extent)[start:stop:step]`."""
    first, end, step = slice(start, _open_end(stop, step), step).indices(extent)
    return first, max(0, -((first - end) // step))


_BEYOND = -(1 << 31)


def _open_end(stop: int, step: int) -> int | None:
    return None if step < 0 and stop <= _BEYOND else stop


@shape_function
def sliced(
    s: Shape,
    *,
    starts: Sequence[int],
    stops: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Shape:
    """Python's slices per axis: negative bounds count from the end, bounds beyond are clamped."""
    on = normal_axes(axes if axes is not None else range(len(starts)), len(s))
    by = steps if steps is not None else (1,) * len(starts)
    if not len(starts) == len(stops) == len(on) == len(by):
        raise error("IG0204", "starts, stops, axes and steps have one entry per sliced axis")
    out = list(s)
    for axis, start, stop, step in zip(on, starts, stops, by, strict=True):
        if step == 0:
            raise error("IG0204", "a slice's step is not 0")
        d = s[axis]
        if isinstance(d, int):
            out[axis] = slice_bounds(start, stop, step, d)[1]
        elif step == 1 and start == 0 and stop >= 1 << 31:
            out[axis] = d
        elif step == 1 and start < 0 and stop >= 1 << 31:
            out[axis] = UNKNOWN if d is UNKNOWN else -start
        elif step == 1 and start >= 0 and stop >= 1 << 31:
            out[axis] = d - start
        elif step == 1 and start >= 0 and stop < 0:
            out[axis] = d + (stop - start)
        elif step == 1 and 0 <= start <= stop:
            out[axis] = UNKNOWN if d is UNKNOWN else stop - start
        else:
            out[axis] = UNKNOWN
    return tuple(out)


@shape_function
def padded(s: Shape, *, pads: Sequence[int]) -> Shape:
    """ONNX's order: all befores, then all afters; negative pads crop."""
    if len(pads) != 2 * len(s):
        raise error("IG0204", f"pads has {len(pads)} entries, {2 * len(s)} are needed")
    return tuple(d + pads[i] + pads[i + len(s)] for i, d in enumerate(s))


@shape_function
def tiled(s: Shape, *, repeats: Sequence[int]) -> Shape:
    if len(repeats) != len(s):
        raise error("IG0204", f"repeats = {list(repeats)} for {len(s)} axes")
    return tuple(d * r for d, r in zip(s, repeats, strict=True))


@shape_function
def gathered(s: Shape, i: Shape, *, axis: int = 0) -> Shape:
    at = normal_axis(axis, len(s))
    return (*s[:at], *i, *s[at + 1 :])


@shape_function
def gathered_nd(s: Shape, i: Shape, *, batch: int = 0) -> Shape:
    if not i or not isinstance(i[-1], int):
        raise _bad("the last axis of the indices has a known extent")
    return (*i[:-1], *s[batch + i[-1] :])


@shape_function
def pieces(s: Shape, *, axis: int, sizes: Sequence[Extent]) -> list[Shape]:
    at = normal_axis(axis, len(s))
    total: Extent = 0
    for n in sizes:
        total = total + n
    if not same(total, s[at]):
        raise _bad(f"sizes {list(sizes)} do not add up to {s[at]}")
    return [(*s[:at], n, *s[at + 1 :]) for n in sizes]


@shape_function
def squeezed(s: Shape, *, axes: Sequence[int]) -> Shape:
    gone = normal_axes(axes, len(s))
    for a in gone:
        if not same(s[a], 1):
            raise _bad(f"axis {a} of extent {s[a]} cannot be squeezed")
    return tuple(d for i, d in enumerate(s) if i not in gone)


@shape_function
def unsqueezed(s: Shape, *, axes: Sequence[int]) -> Shape:
    rank = len(s) + len(axes)
    new = set(normal_axes(axes, rank))
    rest = iter(s)
    return tuple(1 if i in new else next(rest) for i in range(rank))


@shape_function
def attribute_shape(*, shape: Shape) -> Shape:
    return tuple(shape)


@shape_function
def one_hot_shape(s: Shape, *, depth: int, axis: int = -1) -> Shape:
    at = normal_axis(axis, len(s) + 1)
    return (*s[:at], depth, *s[at:])


@shape_function
def with_extent(s: Shape, *, axis: int = -1, k: int) -> Shape:
    at = normal_axis(axis, len(s))
    extent = s[at]
    if k < 0 or (isinstance(extent, int) and k > extent):
        raise error("IG0204", f"k = {k} of {extent} elements")
    return (*s[:at], k, *s[at + 1 :])


@shape_function
def rank_of(s: Shape) -> int:
    return len(s)


@shape_function
def einsum_shape(shapes: Sequence[Shape], *, equation: str) -> Shape:
    """The output term's extents; `...` stands for broadcast leading axes. Implicit output as NumPy's."""
    terms, output = einsum_terms(equation, [len(s) for s in shapes])
    extent: dict[str, Extent] = {}
    for term, s in zip(terms, shapes, strict=True):
        for letter, d in zip(term, s, strict=True):
            have = extent.get(letter, 1)
            extent[letter] = broadcast_extent(have, d)
    return tuple(extent[letter] for letter in output)


def einsum_terms(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Operand terms and output term with `...` written out in upper-case Greek letters."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise error("IG0204", f"equation {equation!r} has {len(terms)} terms for {len(ranks)} operands")
    spare = "ΑΒΓΔΕΖΗΘΙΚΛΜ"
    widest = max((r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    full = []
    for term, rank in zip(terms, ranks, strict=True):
        if "..." in term:
            width = rank - len(term.replace("...", ""))
            term = term.replace("...", spare[widest - width : widest])
        if len(term) != rank:
            raise error("IG0204", f"term {term!r} of {equation!r} does not name {rank} axes")
        full.append(term)
    if arrow:
        output = right.replace("...", spare[:widest])
    else:
        letters = [c for t in terms for c in t if c != "."]
        output = spare[:widest] + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if unknown := set(output) - {c for t in full for c in t}:
        raise error("IG0204", f"equation {equation!r} has output axes {''.join(sorted(unknown))} from nowhere")
    return full, output


@shape_function
def resized(s: Shape, *, shape: Shape) -> Shape:
    if len(shape) != len(s):
        raise error("IG0204", f"shape has {len(shape)} entries for {len(s)} axes")
    return tuple(shape)


@shape_function
def matrix_batch(s: Shape) -> Shape:
    """Leading axes of a stack of square matrices."""
    if len(s) < 2 or not same(s[-1], s[-2]):
        raise _bad("square matrices are needed")
    return tuple(s[:-2])


@shape_function
def folded(l: Shape, *, image: Sequence[int]) -> Shape:  # noqa: E741
    return tuple(image)


@shape_function
def divided(c: Extent, *, block: Sequence[int]) -> Extent:
    """Channels of `nn.col2im`: the channel axis holds `prod(block)` entries per channel."""
    total = 1
    for b in block:
        total *= b
    out = exact_div(c, total)
    if out is None:
        raise _bad(f"{c} channels are no multiple of a block's elements, block = {list(block)[:8]}")
    return out


@shape_function
def compressed(s: Shape, *, axis: int | None = None) -> Shape:
    if axis is None:
        return (UNKNOWN,)
    at = normal_axis(axis, len(s))
    return (*s[:at], UNKNOWN, *s[at + 1 :])


@shape_function
def unique_shape(s: Shape, *, axis: int | None = None) -> Shape:
    return compressed(s, axis=axis)
