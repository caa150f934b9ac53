"""Quantised models for tests: min-max ranges from data, casts around everything that computes.

Weights are symmetric, one scale a channel; activations one scale and zero point a tensor. What is clamped at once is
quantised after the clamp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intaglio.ir import Constant, Graph, Node, Value
from intaglio.ir.edit import Editor
from intaglio.ir.interpret import evaluate
from intaglio.ir.types import Affine, Float, Int, Tensor

__all__ = ["quantised", "weight_of"]

F32 = Float("f32")
CLAMPS = {"math.relu", "math.maximum", "math.minimum"}


def weight_of(array: Any, axis: int, bits: int = 8) -> tuple[Any, Affine]:
    """Symmetric codes of a weight and their type."""
    most = (1 << (bits - 1)) - 1
    axes = tuple(i for i in range(array.ndim) if i != axis)
    scale = (np.maximum(np.abs(array).max(axes), 1e-8) / most).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    store = Int(f"i{bits}")
    codes = np.clip(np.rint(array / scale.reshape(shape)), -most, most).astype(np.int8).astype(store.dtype)
    return codes, Affine(store, F32, Constant(scale, f"scale{abs(hash(scale.tobytes())) % 10**8}"), 0, axis)


def activation(low: float, high: float, store: str) -> Affine:
    """The encoding of numbers in that range, 0 among them."""
    low, high = min(low, 0.0), max(high, 0.0)
    least, most = Int(store).range
    scale = float(np.float32(max(high - low, 1e-6) / (most - least)))
    return Affine(Int(store), F32, scale, int(np.clip(round(least - low / scale), least, most)))


def quantised(graph: Graph, data: Sequence[Mapping[str, Any]], store: str = "u8", weight_bits: int = 8) -> Graph:
    """The graph with `quantize` and `dequantize` in it; batch norms have to be gone."""
    ranges: dict[Value, tuple[float, float]] = {}

    def observe(node: Node, results: tuple[Any, ...]) -> None:
        for v, array in zip(node.outputs, results, strict=True):
            note(v, array)

    def note(v: Value, array: Any) -> None:
        if array.dtype == np.float32 and array.size:
            low, high = ranges.get(v, (np.inf, -np.inf))
            ranges[v] = (min(low, float(array.min())), max(high, float(array.max())))

    for batch in data:
        for v in graph.inputs:
            note(v, batch[v.name])
        evaluate(graph, [batch[v.name] for v in graph.inputs], observe=observe)
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for operand in node.inputs:
            if operand is not None:
                readers.setdefault(operand, []).append(node)
    editor = Editor(name=graph.name)
    now: dict[Value | None, Value | None] = {None: None}

    def cast(v: Value, made: Value) -> Value:
        clamped = [n.op.name in CLAMPS for n in readers.get(v, [])]
        if v not in ranges or not isinstance(v.type, Tensor) or not v.type.shape or (clamped and all(clamped)):
            return made
        to = activation(*ranges[v], store)
        return editor.emit("quant.dequantize", editor.emit("quant.quantize", made, to=to), to=F32)

    for v in graph.inputs:
        made = editor.input(v.name, v.type)
        now[v] = cast(v, made)
    for node in graph.nodes:
        if node.op.name == "const":
            now[node.output] = editor.constant(node.attr("value"), node.attr("value").name)
            continue
        operands = [now[v] for v in node.inputs]
        if node.op.name in ("nn.conv", "nn.matmul"):
            weight = node.inputs[1]
            assert weight is not None
            if weight.node is not None and weight.node.constant is not None:
                codes, elem = weight_of(weight.node.constant.array, 0 if node.op.name == "nn.conv" else 1, weight_bits)
                constant = editor.constant(Constant(codes, f"w{len(editor.nodes)}"), type=Tensor(codes.shape, elem))
                operands[1] = editor.emit("quant.dequantize", constant, to=F32)
        outputs = editor.apply(node.op, operands, node.attrs, names=tuple(v.name for v in node.outputs)).outputs
        for v, made in zip(node.outputs, outputs, strict=True):
            now[v] = cast(v, made)
    for v, name in zip(graph.outputs, graph.output_names, strict=True):
        result = now[v]
        assert result is not None
        editor.output(result, name)
    return editor.freeze()
