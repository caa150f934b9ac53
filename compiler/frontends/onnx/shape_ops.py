"""Converters of ops that move elements in bulk, make shapes, or make constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.dims import UNKNOWN, Dim, Extent, exact_div, size
from ....ir.graph import Value
from ....ir.types import Tensor
from .call import Call, converter, element
from .tensors import MOST_AXES

_FAR = (1 << 63) - 1


_PLAIN_VALUES = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


@converter("Constant")
def constant(c: Call) -> Any:
    a = c.attrs
    if "value" in a:
        made = c.importer.tensor(_tensor(c), a["value"].name or c.wanted[0])
        return c.importer.editor.constant(made, made.name)
    for name, dtype in _PLAIN_VALUES.items():
        if name in a:
            entries = a[name] if isinstance(a[name], tuple) else (a[name],)
            if all(isinstance(n, (int, float)) for n in entries):
                return c.constant(a[name], dtype)
    raise c.fail("has no value of a supported kind (dense numbers)")


def _tensor(c: Call) -> Any:
    """The tensor in attribute `value`."""
    found = c.attrs["value"]
    if not hasattr(found, "data_type"):
        raise c.fail(f"attribute `value` is {found!r}, expected a tensor")
    return found


@converter("ConstantOfShape")
def constant_of_shape(c: Call) -> Value:
    value = c.importer.tensor(_tensor(c)).array.reshape(-1)[:1] if "value" in c.attrs else np.zeros(1, np.float32)
    if value.size != 1:
        raise c.fail("has no value to repeat")
    scalar = c.constant(value[0])
    shape = c.extents(0)
    if shape is not None and UNKNOWN not in shape:
        return c.emit("shape.full", scalar, shape=shape)
    return c.dynamic("shape.full", [scalar], {"shape": c[0]}, Tensor(_unknown_shape(c, c[0]), element(scalar)))


def _unknown_shape(c: Call, vector: Value) -> tuple[Extent, ...]:
    """The shape that a computed vector describes: its rank is known, its extents as far as they are."""
    known = c.importer.symbolic.get(vector)
    if known is not None:
        return tuple(np.ravel(known).tolist())
    rank = vector.type.shape[0] if vector.type.shape else 0
    if not isinstance(rank, int):
        raise c.needs("the rank of the shape", c.inputs.index(vector))
    if rank > MOST_AXES:
        raise c.fail(f"makes a tensor of {rank} axes, {MOST_AXES} are the most")
    return (UNKNOWN,) * rank


@converter("Reshape")
def reshape(c: Call) -> Value:
    x = c[0]
    wanted = c.ints("shape") if c.version < 5 else c.extents(1)
    if wanted is None:
        return c.dynamic(
            "shape.reshape", [x], {"shape": _without_zeros(c, x)}, Tensor(_unknown_shape(c, c[1]), element(x))
        )
    shape: list[Extent] = []
    for i, d in enumerate(wanted):
        if isinstance(d, int) and d == 0 and not c.attr("allowzero", 0):
            if i >= len(x.type.shape):
                raise c.fail(f"copies axis {i} of a tensor with {len(x.type.shape)} axes")
            shape.append(x.type.shape[i])
        elif isinstance(d, int) and d < 0:
            if d != -1:
                raise c.fail(f"has extent {d} in its shape {list(wanted)}")
            shape.append(UNKNOWN)
        else:
            shape.append(d)
    return c.emit("shape.reshape", x, shape=tuple(shape))


def _without_zeros(c: Call, x: Value) -> Value:
    """A computed shape with ONNX's zeros ("keep this extent") replaced by the extents of x."""
    wanted = c[1]
    rank, have = c.entries(1), len(x.type.shape)
    if c.attr("allowzero", 0) or not isinstance(rank, int):
        return wanted
    own = c.emit("shape.pad", c.emit("shape.extents", x), pads=(0, rank - have))
    zero = c.emit("math.equal", wanted, c.constant(np.int64(0)))
    return c.emit("math.where", zero, own, wanted)


@converter("Flatten")
def flatten(c: Call) -> Value:
    x = c[0]
    shape, rank = x.type.shape, len(x.type.shape)
    axis = c.attr("axis", 1)
    axis = axis + rank if axis < 0 else axis
    if not 0 <= axis <= rank:
        raise c.fail(f"axis {axis} is outside {rank} axes")
    return c.emit("shape.reshape", x, shape=(size(shape[:axis]), size(shape[axis:])))


@converter("Squeeze")
def squeeze(c: Call) -> Value:
    x = c[0]
    rank = len(x.type.shape)
    axes = c.ints("axes") if not c.has(1) else c.numbers(1)
    if c.has(1) and axes is None:
        gone = c.entries(1)
        if not isinstance(gone, int):
            raise c.needs("the number of axes", 1)
        return c.dynamic("shape.squeeze", [x], {"axes": c[1]}, Tensor((UNKNOWN,) * (rank - gone), element(x)))
    if axes is None:
        if UNKNOWN in x.type.shape:
            raise c.needs("the extents of what it squeezes", 0)
        axes = tuple(i for i, d in enumerate(x.type.shape) if d == 1)
    return c.emit("shape.squeeze", x, axes=tuple(c.axis(a, rank) for a in axes)) if axes else x


@converter("Unsqueeze")
def unsqueeze(c: Call) -> Value:
    x = c[0]
    axes = c.ints("axes") if not c.has(1) else c.numbers(1)
    if axes is None:
        more = c[1].type.shape[0] if c[1].type.shape else 1
        if not isinstance(more, int):
            raise c.needs("the number of axes", 1)
        result = Tensor((UNKNOWN,) * (len(x.type.shape) + more), element(x))
        return c.dynamic("shape.unsqueeze", [x], {"axes": c[1]}, result)
    rank = len(x.type.shape) + len(axes)
    return c.emit("shape.unsqueeze", x, axes=tuple(sorted(c.axis(a, rank) for a in axes))) if axes else x


@converter("Transpose")
def transpose(c: Call) -> Value:
    x = c[0]
    rank = len(x.type.shape)
    perm = c.ints("perm") or tuple(reversed(range(rank)))
    return x if perm == tuple(range(rank)) else c.emit("shape.transpose", x, perm=tuple(c.axis(p, rank) for p in perm))


@converter("Concat")
def concat(c: Call) -> Value:
    parts = [c[i] for i in range(len(c))]
    return c.emit("shape.concat", *parts, axis=c.axis(c.attr("axis", 1), len(parts[0].type.shape)))


@converter("Split")
def split(c: Call) -> Any:
    x = c[0]
    axis = c.axis(c.attr("axis", 0), len(x.type.shape))
    sizes: Any = c.ints("split") if c.version < 13 else None
    if c.has(1):
        sizes = c.extents(1)
        if sizes is None:
            raise c.needs("the sizes of the pieces", 1)
    if sizes is None:
        count = c.attr("num_outputs", 0) or len(c.wanted)
        if count != len(c.wanted):
            raise c.fail(f"has {len(c.wanted)} outputs, num_outputs is {count}")
        extent = x.type.shape[axis]
        if isinstance(extent, int):
            chunk = -(-extent // count)
            sizes = [max(0, min(chunk, extent - i * chunk)) for i in range(count)]
        else:
            piece = exact_div(extent, count)
            if piece is None:
                raise c.fail(f"splits {extent} into {count} equal pieces, which may not work out")
            sizes = [piece] * count
    return c.emit_all("shape.split", x, axis=axis, sizes=tuple(sizes))


@converter("Slice")
def slice_(c: Call) -> Value:
    x = c[0]
    rank = len(x.type.shape)
    if c.version < 10:
        starts, stops, axes = c.ints("starts"), c.ints("ends"), c.ints("axes")
        steps: Any = None
    else:
        starts, stops = c.extents(1), c.extents(2)  # type: ignore[assignment]
        axes = c.numbers(3) if c.has(3) else None
        steps = c.numbers(4) if c.has(4) else None
        if starts is None or (c.has(3) and axes is None) or (c.has(4) and steps is None) or stops is None:
            return _dynamic_slice(c, x)
    if starts is None or stops is None:
        raise c.fail("has no starts or no ends")
    if (
        not len(starts)
        == len(stops)
        == len(axes if axes is not None else starts)
        == len(steps if steps is not None else starts)
    ):
        raise c.fail("needs as many starts, ends, axes and steps")
    on = [c.axis(a, rank) for a in (axes if axes is not None else range(len(starts)))]
    by = list(steps) if steps is not None else [1] * len(on)
    begin: list[Any] = []
    end: list[Any] = []
    for axis, start, stop in zip(on, starts, stops, strict=True):
        extent = x.type.shape[axis]
        begin.append(start)
        end.append(_FAR if stop == extent and isinstance(stop, Dim) else stop)
    if any(isinstance(d, Dim) for d in [*begin, *end]):
        if not c.has(1):
            raise c.fail("slices at symbolic positions")
        return _dynamic_slice(c, x)
    return c.emit("shape.slice", x, starts=begin, stops=end, axes=on, steps=by if any(s != 1 for s in by) else None)


def _dynamic_slice(c: Call, x: Value) -> Value:
    """Bounds that only a run knows; the sliced axes' extents are then `?`."""
    rank = len(x.type.shape)
    axes = c.numbers(3) if c.has(3) else None
    count = c.entries(1)
    touched = (
        range(rank)
        if c.has(3) and axes is None
        else axes
        if axes is not None
        else range(count if isinstance(count, int) else rank)
    )
    shape = tuple(UNKNOWN if i in {a % rank for a in touched} else d for i, d in enumerate(x.type.shape))
    params = {"starts": c[1], "stops": c[2]}
    if c.has(3):
        params["axes"] = c[3]
    if c.has(4):
        params["steps"] = c[4]
    return c.dynamic("shape.slice", [x], params, Tensor(shape, element(x)))


@converter("Pad")
def pad(c: Call) -> Value:
    x = c[0]
    rank = len(x.type.shape)
    mode = c.choice("mode", "constant", ("constant", "edge", "reflect", "wrap"))
    value: Value | None
    if c.version < 11:
        pads = c.ints("pads") or c.ints("paddings")
        number = c.attr("value", 0.0)
        value = c.like(number, x) if number else None
    else:
        pads, value = c.numbers(1), c.optional(2)
        if value is not None and value.type.shape:
            value = c.emit("shape.reshape", value, shape=())
    axes = c.numbers(3) if c.has(3) else None
    if pads is None or (c.has(3) and axes is None):
        if c.has(3):
            raise c.needs("pads and axes", 1, 3)
        operands = [x] if value is None else [x, value]
        result = Tensor((UNKNOWN,) * rank, element(x))
        return c.dynamic("shape.pad", operands, {"pads": c[1]}, result, mode=mode)
    if axes is not None:
        if len(pads) != 2 * len(axes):
            raise c.fail(f"has {len(pads)} pads for {len(axes)} axes")
        full = [0] * (2 * rank)
        for i, a in enumerate(axes):
            a = c.axis(a, rank)
            full[a], full[a + rank] = pads[i], pads[i + len(axes)]
        pads = tuple(full)
    return c.emit("shape.pad", x, value if mode == "constant" else None, pads=pads, mode=mode)


@converter("Expand")
def expand(c: Call) -> Value:
    x, shape = c[0], c.extents(1)
    if shape is not None and UNKNOWN not in shape:
        return c.emit("shape.expand", x, shape=shape)
    wanted = _unknown_shape(c, c[1])
    rank = max(len(wanted), len(x.type.shape))
    return c.dynamic("shape.expand", [x], {"shape": c[1]}, Tensor((UNKNOWN,) * rank, element(x)))


@converter("Tile")
def tile(c: Call) -> Value:
    x, repeats = c[0], c.numbers(1)
    if c.version < 6:  # one axis, so many times
        times, axis = c.number(1), c.number(2)
        if times is None or axis is None:
            raise c.needs("how often it repeats which axis", 1, 2)
        repeats = tuple(times if i == c.axis(axis, len(x.type.shape)) else 1 for i in range(len(x.type.shape)))
    if repeats is not None:
        return c.emit("shape.tile", x, repeats=repeats)
    return c.dynamic("shape.tile", [x], {"repeats": c[1]}, Tensor((UNKNOWN,) * len(x.type.shape), element(x)))


@converter("Shape")
def shape(c: Call) -> Value:
    x = c[0]
    found = c.emit("shape.extents", x)
    if "start" not in c.attrs and "end" not in c.attrs:
        return found
    return c.emit("shape.slice", found, starts=(c.attr("start", 0),), stops=(c.attr("end", _FAR),), axes=(0,))


@converter("Size")
def size_of(c: Call) -> Value:
    return c.emit("math.reduce_prod", c.emit("shape.extents", c[0]), axes=(0,), keepdims=False)


def _image(c: Call) -> tuple[Extent, ...]:
    """The four extents of an image batch."""
    if len(c[0].type.shape) != 4:
        raise c.fail(f"needs 4 axes, has {len(c[0].type.shape)}")
    return c[0].type.shape


@converter("DepthToSpace")
def depth_to_space(c: Call) -> Value:
    x, b = c[0], c.attr("blocksize", 0)
    n, channels, h, w = _image(c)
    kept = exact_div(channels, b * b) if b > 0 else None
    if kept is None:
        raise c.fail(f"blocksize {b} does not divide {channels} channels")
    if c.choice("mode", "DCR", ("DCR", "CRD")) == "CRD":
        y = c.emit("shape.reshape", x, shape=(n, kept, b, b, h, w))
        y = c.emit("shape.transpose", y, perm=(0, 1, 4, 2, 5, 3))
    else:
        y = c.emit("shape.reshape", x, shape=(n, b, b, kept, h, w))
        y = c.emit("shape.transpose", y, perm=(0, 3, 4, 1, 5, 2))
    return c.emit("shape.reshape", y, shape=(n, kept, h * b, w * b))


@converter("SpaceToDepth")
def space_to_depth(c: Call) -> Value:
    x, b = c[0], c.attr("blocksize", 0)
    n, channels, h, w = _image(c)
    rows, columns = (exact_div(h, b), exact_div(w, b)) if b > 0 else (None, None)
    if rows is None or columns is None:
        raise c.fail(f"blocksize {b} does not divide {h} x {w}")
    y = c.emit("shape.reshape", x, shape=(n, channels, rows, b, columns, b))
    y = c.emit("shape.transpose", y, perm=(0, 1, 3, 5, 2, 4) if c.attr("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4))
    return c.emit("shape.reshape", y, shape=(n, channels * b * b, rows, columns))


@converter("OptionalHasElement")
def optional_has_element(c: Call) -> Value:
    return c.constant(np.bool_(c.has(0)))


@converter("OptionalGetElement")
def optional_get_element(c: Call) -> Value:
    return c[0]
