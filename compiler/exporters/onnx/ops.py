"""How ops on plain numbers are written: most are an ONNX op of another name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....ir.diagnostics import error
from ....ir.dims import Extent
from ....ir.graph import Node
from ....ir.types import Tensor
from .writer import Writer, refused

__all__ = ["EXPORTS", "given", "window"]

Export = Callable[[Writer, Node], None]

SAME = {
    "math.neg": "Neg", "math.abs": "Abs", "math.sign": "Sign", "math.relu": "Relu", "math.exp": "Exp",
    "math.log": "Log", "math.sqrt": "Sqrt", "math.reciprocal": "Reciprocal", "math.sigmoid": "Sigmoid",
    "math.softplus": "Softplus", "math.erf": "Erf", "math.sin": "Sin", "math.cos": "Cos", "math.tan": "Tan",
    "math.tanh": "Tanh", "math.floor": "Floor", "math.ceil": "Ceil", "math.round": "Round", "math.not": "Not",
    "math.add": "Add", "math.sub": "Sub", "math.mul": "Mul", "math.div": "Div", "math.pow": "Pow",
    "math.minimum": "Min", "math.maximum": "Max", "math.and": "And", "math.or": "Or", "math.xor": "Xor",
    "math.equal": "Equal", "math.less": "Less", "math.less_equal": "LessOrEqual", "math.greater": "Greater",
    "math.greater_equal": "GreaterOrEqual", "math.where": "Where", "nn.matmul": "MatMul",
}  # fmt: skip
"""The same operands, no attributes."""

REDUCTIONS = {
    "math.reduce_sum": "ReduceSum", "math.reduce_mean": "ReduceMean", "math.reduce_max": "ReduceMax",
    "math.reduce_min": "ReduceMin", "math.reduce_prod": "ReduceProd",
}  # fmt: skip


def given(writer: Writer, node: Node) -> list[str]:
    """The names of a node's operands."""
    return ["" if v is None else writer[v] for v in node.inputs]


def _same(writer: Writer, node: Node) -> None:
    writer.emit(node, SAME[node.op.name], given(writer, node))


def _reduction(writer: Writer, node: Node) -> None:
    axes = node.attr("axes")
    operands = given(writer, node) + ([] if axes is None else [writer.array(np.asarray(axes, np.int64))])
    writer.emit(node, REDUCTIONS[node.op.name], operands, keepdims=int(node.attr("keepdims")))


def window(node: Node) -> dict[str, Any]:
    """What convolutions and pools have in common."""
    names = {"strides": "strides", "pads": "pads", "dilations": "dilations"}
    return {onnx: list(value) for name, onnx in names.items() if (value := node.attr(name)) is not None}


def _conv(writer: Writer, node: Node) -> None:
    writer.emit(node, "Conv", given(writer, node), group=node.attr("g"), **window(node))


def _max_pool(writer: Writer, node: Node) -> None:
    kernel = list(node.attr("kernel"))
    writer.emit(
        node, "MaxPool", given(writer, node), kernel_shape=kernel, ceil_mode=int(node.attr("ceil")), **window(node)
    )


def _avg_pool(writer: Writer, node: Node) -> None:
    attrs = {"ceil_mode": int(node.attr("ceil")), "count_include_pad": int(node.attr("count_pads"))}
    writer.emit(
        node, "AveragePool", given(writer, node), kernel_shape=list(node.attr("kernel")), **attrs, **window(node)
    )


def _cast(writer: Writer, node: Node) -> None:
    writer.emit(node, "Cast", given(writer, node), to=writer.code(node.attr("to")))


def _leaky_relu(writer: Writer, node: Node) -> None:
    writer.emit(node, "LeakyRelu", given(writer, node), alpha=node.attr("alpha"))


def _gelu(writer: Writer, node: Node) -> None:
    approximate = "tanh" if node.attr("approximate") else "none"
    writer.emit(node, "Gelu", given(writer, node), approximate=approximate)


def _softmax(writer: Writer, node: Node) -> None:
    writer.emit(
        node, "Softmax" if node.op.name == "nn.softmax" else "LogSoftmax", given(writer, node), axis=node.attr("axis")
    )


def _layer_norm(writer: Writer, node: Node) -> None:
    writer.emit(node, "LayerNormalization", given(writer, node), axis=node.attr("axis"), epsilon=node.attr("eps"))


def _batch_norm(writer: Writer, node: Node) -> None:
    writer.emit(node, "BatchNormalization", given(writer, node), epsilon=node.attr("eps"))


# --- shapes ---------------------------------------------------------------------------------------------------------


def _integers(writer: Writer, values: Any) -> str:
    return writer.array(np.asarray(values, np.int64))


def _extents(node: Node, shape: tuple[Extent, ...]) -> list[int]:
    """A shape as ONNX takes it, -1 for one extent that is no number."""
    made = [d if isinstance(d, int) else -1 for d in shape]
    if made.count(-1) > 1:
        what = f"`{node.op.name}` to a shape with several symbolic extents cannot be exported"
        raise error("IG0451", what, label=str(node.output.type), hint="fix the dimensions: `freeze{N=1}`")
    return made


def _reshape(writer: Writer, node: Node) -> None:
    writer.emit(node, "Reshape", [*given(writer, node), _integers(writer, _extents(node, node.output.type.shape))])


def _transpose(writer: Writer, node: Node) -> None:
    writer.emit(node, "Transpose", given(writer, node), perm=list(node.attr("perm")))


def _expand(writer: Writer, node: Node) -> None:
    source = node.inputs[0]
    assert source is not None
    shape = [d if isinstance(d, int) else 1 for d in node.output.type.shape]  # 1: as it is
    writer.emit(node, "Expand", [*given(writer, node), _integers(writer, shape)])


def _concat(writer: Writer, node: Node) -> None:
    writer.emit(node, "Concat", given(writer, node), axis=node.attr("axis"))


def _slice(writer: Writer, node: Node) -> None:
    starts, axes, steps = node.attr("starts"), node.attr("axes"), node.attr("steps")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    parts = [_integers(writer, part) for part in (starts, node.attr("stops"), axes, steps)]
    writer.emit(node, "Slice", [*given(writer, node), *parts])


def _pad(writer: Writer, node: Node) -> None:
    x, *value = given(writer, node)
    writer.emit(node, "Pad", [x, _integers(writer, node.attr("pads")), *value], mode=node.attr("mode"))


def _split(writer: Writer, node: Node) -> None:
    sizes = _integers(writer, [d if isinstance(d, int) else -1 for d in node.attr("sizes")])
    count = len(node.outputs)
    writer.add("Split", [*given(writer, node), sizes], count=count, axis=node.attr("axis"))
    for v, name in zip(node.outputs, writer.nodes[-1].output, strict=True):
        writer.set(v, name)


def _tile(writer: Writer, node: Node) -> None:
    writer.emit(node, "Tile", [*given(writer, node), _integers(writer, node.attr("repeats"))])


def _gather(writer: Writer, node: Node) -> None:
    x, indices = given(writer, node)
    elem = node.inputs[1].type.elem  # type: ignore[union-attr]
    if elem.dtype not in (np.int32, np.int64):
        indices = writer.add("Cast", [indices], to=7)
    writer.emit(node, "Gather", [x, indices], axis=node.attr("axis"))


def _const(writer: Writer, node: Node) -> None:
    constant = node.constant
    assert constant is not None
    if not isinstance(node.output.type, Tensor):
        raise refused(node, "it is no tensor")
    writer.constant(node.output, constant)


EXPORTS: dict[str, Export] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(REDUCTIONS, _reduction),
    "const": _const,
    "nn.conv": _conv,
    "nn.max_pool": _max_pool,
    "nn.avg_pool": _avg_pool,
    "nn.gelu": _gelu,
    "nn.softmax": _softmax,
    "nn.log_softmax": _softmax,
    "nn.layer_norm": _layer_norm,
    "nn.batch_norm": _batch_norm,
    "math.cast": _cast,
    "math.leaky_relu": _leaky_relu,
    "shape.reshape": _reshape,
    "shape.squeeze": _reshape,
    "shape.unsqueeze": _reshape,
    "shape.transpose": _transpose,
    "shape.expand": _expand,
    "shape.concat": _concat,
    "shape.slice": _slice,
    "shape.pad": _pad,
    "shape.split": _split,
    "shape.tile": _tile,
    "shape.gather": _gather,
}
