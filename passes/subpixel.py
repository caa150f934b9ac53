"""Transposed convolutions as convolutions, which have fast kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.constants import Constant
from ..ir.edit import Editor
from ..ir.graph import Graph, Node, Value
from ..ir.types import Float, Tensor
from .definition import define_pass

__all__ = ["subpixel"]


@define_pass("subpixel", contract="real")
def subpixel(graph: Graph) -> Graph:
    """Turn transposed convolutions into convolutions that compute all sub-pixels of a pixel as channels.

    A transposed convolution of stride s is s interleaved convolutions of stride 1, each with every s-th tap of the
    kernel (Shi et al., Is the deconvolution layer the same as a convolutional layer?, 2016). Taps that a sub-pixel does
    not have are zeros. Weights have to be constant and the image of known size; dilated ones of stride above 1 stay.

    Before:

        dim N in 1..64
        graph @main(%x: f32[N, 2, 4, 4]) -> (y: f32[N, 1, 8, 8]) {
          %w = const [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] : f32[2, 1, 2, 2]
          %y = nn.conv_transpose(%x, %w) {strides = [2, 2]} : f32[N, 1, 8, 8]
          return %y
        }

    After `subpixel`:

        dim N in 1..64
        graph @main(%x: f32[N, 2, 4, 4]) -> (y: f32[N, 1, 8, 8]) {
          %0 = const [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0] : f32[4, 2, 1, 1]
          %1 = nn.conv(%x, %0) {pads = [0, 0, 0, 0]} : f32[N, 4, 4, 4]
          %2 = shape.reshape(%1) {shape = [N, 1, 2, 2, 4, 4]} : f32[N, 1, 2, 2, 4, 4]
          %3 = shape.transpose(%2) {perm = [0, 1, 4, 2, 5, 3]} : f32[N, 1, 4, 2, 4, 2]
          %y = shape.reshape(%3) {shape = [N, 1, 8, 8]} : f32[N, 1, 8, 8]
          return %y
        }
    """
    editor = Editor(graph)
    for node in list(editor.nodes):
        if node.op.name == "nn.conv_transpose":
            editor.loc = node.loc
            found = _as_convolution(editor, node)
            if found is not None:
                editor.replace(node, [found])
    return editor.freeze()


class _Axis:
    """One spatial axis: `taps` of the convolution, its padding, and where the result starts among the sub-pixels."""

    def __init__(self, extent: int, out: int, kernel: int, stride: int, before: int, dilation: int) -> None:
        self.stride, self.dilation, self.kernel = stride, dilation, kernel
        self.taps = -(-kernel // stride)
        first, last = before // stride, (out - 1 + before) // stride
        self.pixels = last - first + 1
        reach = dilation * (self.taps - 1)
        self.before = reach - first
        self.after = self.pixels - 1 + reach - extent + 1 - self.before
        self.start = before % stride


def _as_convolution(editor: Editor, node: Node) -> Value | None:
    x, w, *rest = node.inputs
    bias = rest[0] if rest else None
    weights, biases = _constant(w), _constant(bias)
    a = node.attr
    out, source = node.output.type, x.type if x is not None else None
    if weights is None or (bias is not None and biases is None) or (a("pads") is not None and min(a("pads")) < 0):
        return None
    weight = weights.array
    if not isinstance(source, Tensor) or not isinstance(out, Tensor) or not isinstance(source.elem, Float):
        return None
    sizes, results = source.shape[2:], out.shape[2:]
    if not all(isinstance(d, int) and d > 0 for d in (*source.shape[1:], *out.shape[1:])):
        return None
    rank = len(sizes)
    strides, dilations = a("strides") or (1,) * rank, a("dilations") or (1,) * rank
    pads = a("pads") or (0,) * (2 * rank)
    if any(s > 1 and d > 1 for s, d in zip(strides, dilations, strict=True)):
        return None
    axes = [
        _Axis(int(sizes[i]), int(results[i]), weight.shape[2 + i], strides[i], pads[i], dilations[i])  # type: ignore[arg-type]
        for i in range(rank)
    ]
    if any(axis.before < 0 or axis.after < 0 for axis in axes):
        return None
    phases = int(np.prod(strides))
    kernel = editor.constant(_rearranged(weight, axes, a("g")), weights.name)
    added = [] if biases is None else [editor.constant(np.repeat(biases.array, phases), biases.name)]
    made = editor.emit(
        "nn.conv",
        x,
        kernel,
        *added,
        pads=(*[axis.before for axis in axes], *[axis.after for axis in axes]),
        dilations=tuple(dilations) if any(d > 1 for d in dilations) else None,
        g=a("g"),
    )
    if phases > 1:
        made = _interleaved(editor, made, axes, out.shape[0], out.shape[1])
    cut = [i for i, axis in enumerate(axes) if (axis.start, axis.pixels * axis.stride) != (0, results[i])]
    if cut:
        starts = tuple(axes[i].start for i in cut)
        stops = tuple(axes[i].start + int(results[i]) for i in cut)  # type: ignore[arg-type]
        made = editor.emit("shape.slice", made, axes=tuple(2 + i for i in cut), starts=starts, stops=stops)
    return made


def _rearranged(weight: Any, axes: list[_Axis], groups: int) -> Any:
    """[C, M, *kernel] to [groups * M * phases, C / groups, *taps]: for each phase its taps, last one first."""
    rank = len(axes)
    padded = np.zeros((*weight.shape[:2], *[axis.taps * axis.stride for axis in axes]), weight.dtype)
    padded[(slice(None), slice(None), *[slice(0, axis.kernel) for axis in axes])] = weight
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    split = padded.reshape(groups, inputs, outputs, *[n for axis in axes for n in (axis.taps, axis.stride)])
    taps, phases = [3 + 2 * i for i in range(rank)], [4 + 2 * i for i in range(rank)]
    ordered = np.flip(split, tuple(taps)).transpose(0, 2, *phases, 1, *taps)
    return np.ascontiguousarray(ordered.reshape(-1, inputs, *[axis.taps for axis in axes]))


def _interleaved(editor: Editor, x: Value, axes: list[_Axis], batch: Any, channels: Any) -> Value:
    """[N, M * phases, *pixels] to [N, M, *(pixels * strides)]."""
    rank = len(axes)
    strides, pixels = [axis.stride for axis in axes], [axis.pixels for axis in axes]
    split = editor.emit("shape.reshape", x, shape=(batch, channels, *strides, *pixels))
    order = [d for i in range(rank) for d in (2 + rank + i, 2 + i)]
    mixed = editor.emit("shape.transpose", split, perm=(0, 1, *order))
    full = tuple(p * s for p, s in zip(pixels, strides, strict=True))
    return editor.emit("shape.reshape", mixed, shape=(batch, channels, *full))


def _constant(value: Value | None) -> Constant | None:
    return value.node.constant if value is not None and value.node is not None else None
