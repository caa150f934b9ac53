"""Recipes: an op of the table applied to a value in a way that makes sense, or None if it cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from ..constants import Constant
from ..dims import Shape
from ..graph import Value, attributes
from ..op import Op
from ..ops import OPS
from ..types import BOOL, Affine, Bool, Elem, Float, Int, Pow2, Sign, elem_of
from .growth import ELEMS, Growth, Recipe, tensor

__all__ = ["RECIPES"]

KINDS: dict[str, tuple[type, ...]] = {
    "F": (Float,),
    "N": (Float, Int),
    "I": (Int,),
    "B": (Bool,),
    "T": (Float, Int, Bool),
}


def _static(shape: Shape) -> list[int]:
    """The axes of known extent."""
    return [i for i, d in enumerate(shape) if isinstance(d, int)]


def _takes(kind: str, elem: Elem) -> bool:
    return isinstance(elem, KINDS[kind[0]]) if kind[0] in KINDS else str(elem) == kind


def _is_pointwise(op: Op) -> bool:
    operands = op.signature.operands
    return op.has("elementwise") and not set(op.attrs) - set(op.defaults) and all(o.elem[0] != "Q" for o in operands)


@cache
def _pointwise(elem: Elem) -> list[tuple[Op, int]]:
    """Ops without required attributes, and which of their operands `elem` can be."""
    found = [op for op in OPS.values() if _is_pointwise(op)]
    return [(op, i) for op in found for i, o in enumerate(op.signature.operands) if _takes(o.elem, elem)]


def pointwise(g: Growth, x: Value) -> Sequence[Value] | None:
    elem = tensor(x).elem
    op, at = g.pick(_pointwise(elem))
    operands = op.signature.operands
    others = [(elem if _takes(o.elem, elem) else BOOL) for o in operands]
    inputs = [x if i == at else g.partner(x, e) for i, e in enumerate(others)]
    flags = {k: not v for k, v in op.defaults.items() if type(v) is bool and g.flag()}
    return g.emit(op, *inputs, **flags)


def cast(g: Growth, x: Value) -> Sequence[Value] | None:
    return g.emit("math.cast", x, to=g.pick([e for e in ELEMS if e is not tensor(x).elem]))


def through_narrow(g: Growth, x: Value) -> Sequence[Value] | None:
    """To a type that little can be done with, and back."""
    if not isinstance(tensor(x).elem, Float):
        return None
    narrow = g.pick(
        (Int("i4"), Int("u4"), Float("f8e4m3fn"), Float("f8e5m2"), Float("f4e2m1"), Int("i2"), Float("f8e8m0"))
    )
    return g.emit("math.cast", *g.emit("math.cast", x, to=narrow), to=tensor(x).elem)


def reduction(g: Growth, x: Value) -> Sequence[Value] | None:
    t = tensor(x)
    if not t.shape or not isinstance(t.elem, (Float, Int)):
        return None
    name = g.pick(("reduce_sum", "reduce_max", "reduce_mean", "argmax", "cumsum"))
    axis = g.below(len(t.shape)) - (len(t.shape) if g.flag() else 0)
    if name == "cumsum":
        return g.emit("math.cumsum", x, axis=axis, reverse=g.flag(), exclusive=g.flag())
    if name == "argmax":
        return g.emit("math.argmax", x, axis=axis, keepdims=g.flag())
    return g.emit(f"math.{name}", x, axes=g.pick((None, (axis,))), keepdims=g.flag())


def top_k(g: Growth, x: Value) -> Sequence[Value] | None:
    t = tensor(x)
    axes = _static(t.shape)
    if not axes or not isinstance(t.elem, (Float, Int)):
        return None
    axis = g.pick(axes)
    return g.emit("math.top_k", x, k=1 + g.below(t.shape[axis]), axis=axis)


def softmax(g: Growth, x: Value) -> Sequence[Value] | None:
    t = tensor(x)
    if not t.shape or not isinstance(t.elem, Float):
        return None
    return g.emit(g.pick(("nn.softmax", "nn.log_softmax")), x, axis=g.pick((-1, 0)))


def transpose(g: Growth, x: Value) -> Sequence[Value] | None:
    axes = list(range(len(tensor(x).shape)))
    return g.emit("shape.transpose", x, perm=tuple(axes.pop(g.below(len(axes))) for _ in list(axes)))


def reshape(g: Growth, x: Value) -> Sequence[Value] | None:
    shape = list(tensor(x).shape)
    if len(shape) > 1:
        at = g.below(len(shape) - 1)
        shape[at : at + 2] = [shape[at] * shape[at + 1]]
    else:
        shape.insert(g.below(len(shape) + 1), 1)
    return g.emit("shape.reshape", x, shape=tuple(shape))


def unsqueeze(g: Growth, x: Value) -> Sequence[Value] | None:
    shape = tensor(x).shape
    ones = [i for i, d in enumerate(shape) if d == 1]
    if ones and g.flag():
        return g.emit("shape.squeeze", x, axes=(g.pick(ones),))
    return g.emit("shape.unsqueeze", x, axes=(g.below(len(shape) + 1),))


def slice_(g: Growth, x: Value) -> Sequence[Value] | None:
    t = tensor(x)
    axes = _static(t.shape)
    if not axes:
        return None
    axis, step = g.pick(axes), g.pick((1, 2, -1))
    start, stop = (-1, -(1 << 31)) if step < 0 else (g.below(t.shape[axis]), 1 << 31)
    steps = None if step == 1 else (step,)
    return g.emit("shape.slice", x, starts=(start,), stops=(stop,), axes=(axis,), steps=steps)


def pad(g: Growth, x: Value) -> Sequence[Value] | None:
    t = tensor(x)
    if not t.shape:
        return None
    value = g.constant((), t.elem) if g.flag() else None
    return g.emit("shape.pad", x, value, pads=tuple(g.below(3) for _ in range(2 * len(t.shape))))


def split_concat(g: Growth, x: Value) -> Sequence[Value] | None:
    t = tensor(x)
    axes = _static(t.shape)
    if not axes:
        return None
    axis = g.pick(axes)
    if g.flag():
        other = g.partner(x, t.elem)
        same = tensor(other).shape == t.shape
        return g.emit("shape.concat", *([x, other, x] if same else [x, x]), axis=axis)
    if t.shape[axis] == 1:
        return None
    first = 1 + g.below(t.shape[axis] - 1)
    return g.emit("shape.split", x, axis=axis, sizes=(first, t.shape[axis] - first))


def gather(g: Growth, x: Value) -> Sequence[Value] | None:
    shape = tensor(x).shape
    axes = _static(shape)
    if not axes:
        return None
    axis = g.pick(axes)
    picked = [g.below(shape[axis]) for _ in range(1 + g.below(3))]
    return g.emit("shape.gather", x, g.constant((len(picked),), Int("i64"), picked), axis=axis)


def expand(g: Growth, x: Value) -> Sequence[Value] | None:
    return g.emit("shape.expand", x, shape=(1 + g.below(2), *tensor(x).shape))


def from_nothing(g: Growth, x: Value) -> Sequence[Value] | None:
    if g.flag():
        return g.emit("shape.iota", shape=(1 + g.below(4), 2), axis=g.below(2), elem=g.pick((Int("i64"), Float("f32"))))
    return g.emit("shape.extents", x) if tensor(x).shape else None


def matmul(g: Growth, x: Value) -> Sequence[Value] | None:
    t = tensor(x)
    if len(t.shape) < 2 or not isinstance(t.shape[-1], int) or not isinstance(t.elem, (Float, Int)):
        return None
    if g.flag():
        return g.emit("nn.matmul", x, g.constant((t.shape[-1], 1 + g.below(4)), t.elem))
    if not isinstance(t.elem, Float) or t.elem.dtype.itemsize < 4:
        return None
    return g.emit("math.einsum", x, x, equation="...ij,...kj->...ik")


def image(g: Growth, x: Value) -> Sequence[Value] | None:
    """Ops on `[N, C, H, W]`."""
    t = tensor(x)
    if len(t.shape) != 4 or not all(isinstance(d, int) and d for d in t.shape[1:]) or not isinstance(t.elem, Float):
        return None
    channels = t.shape[1]
    assert isinstance(channels, int)
    which = g.below(4)
    if which == 0:
        w = g.constant((1 + g.below(3), channels, 3, 3), t.elem)
        b = g.constant(tensor(w).shape[:1], t.elem) if g.flag() else None  # type: ignore[arg-type]
        return g.emit("nn.conv", x, w, b, pads=(1, 1, 1, 1), strides=g.pick((None, (2, 2))))
    if which == 1:
        w = g.constant((channels, 1, 1, 1), t.elem)
        return g.emit("nn.conv", x, w, g=channels)
    if which == 2:
        return g.emit(
            g.pick(("nn.max_pool", "nn.avg_pool")), x, kernel=(2, 2), pads=(1, 1, 1, 1), strides=g.pick((None, (2, 2)))
        )
    return g.emit("nn.batch_norm", x, *[g.constant((channels,), t.elem) for _ in range(4)], eps=g.pick((1e-5, 0.5)))


def layer_norm(g: Growth, x: Value) -> Sequence[Value] | None:
    t = tensor(x)
    if not t.shape or not isinstance(t.shape[-1], int) or not isinstance(t.elem, Float):
        return None
    scale = g.constant((t.shape[-1],), t.elem)
    return g.emit("nn.layer_norm", x, scale, g.constant((t.shape[-1],), t.elem) if g.flag() else None)


def quantise(g: Growth, x: Value) -> Sequence[Value] | None:
    """To an encoding; then perhaps to its bits and back; then to real numbers again."""
    t = tensor(x)
    if not isinstance(t.elem, Float):
        return None
    encodings: list[Elem] = [
        Affine(Int("i8"), t.elem, 0.25),
        Affine(Int("u8"), t.elem, 0.5, 128),
        Affine(Int("i4"), t.elem, 1.0),
    ]
    encodings += [Affine(Float("f8e4m3fn"), t.elem, 0.5), Sign(t.elem, 0.5), Pow2(4, t.elem, 3)]
    axes = _static(t.shape)
    if axes:
        axis = g.pick(axes)
        scales = Constant(np.arange(1, 1 + t.shape[axis], dtype=np.float32) / 8, g.pick(("scale", "s/0")))
        encodings.append(Affine(Int("i8"), t.elem, scales, 0, axis))
    (y,) = g.emit("quant.quantize", x, to=g.pick(encodings))
    if g.flag():
        elem = tensor(y).elem
        (y,) = g.emit("quant.load", *g.emit("quant.store", y, to=elem_of(elem.dtype)), to=elem)
    return g.emit("quant.dequantize", y, to=t.elem)


def kernel(g: Growth, x: Value) -> Sequence[Value] | None:
    """A closed body of a few nodes."""
    if g.inside:
        return None
    body = Growth(g.choices, g.recipes, named=g.named, inside=True)
    operands = [x, g.recent()]
    body.values = [body.editor.input(f"in{i}", v.type) for i, v in enumerate(operands)]
    for _ in range(1 + g.below(3)):
        body.step()
    made = body.finish()
    g.used.update(operands)
    node = g.editor.apply(
        "tile.kernel", operands, attributes({"body": made}), types=tuple(v.type for v in made.outputs)
    )
    return node.outputs


# pointwise ops are most of the table
RECIPES: tuple[Recipe, ...] = (
    *[pointwise] * 12, cast, through_narrow, reduction, top_k, softmax, transpose, reshape, unsqueeze, slice_, pad,
    split_concat, gather, expand, from_nothing, matmul, image, image, layer_norm, quantise, quantise, kernel,
)  # fmt: skip
