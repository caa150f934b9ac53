"""A small writer of ONNX models: `onnx.helper` with names made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

__all__ = ["Builder"]

OPSET = 20  # the first with Gelu


class Builder:
    """Collects nodes and weights; `op` gives the name of a node's result."""

    def __init__(self, name: str, weights: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.initializers: dict[str, TensorProto] = {}
        for key, array in (weights or {}).items():
            self.constant(array, key)

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, elem, shape))
        return name

    def constant(self, value: Any, name: str = "", dtype: Any = None) -> str:
        name = name or f"constant{len(self.initializers)}"
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, dtype, order="C"), name)
        return name

    def ints(self, *values: int) -> str:
        """A list of integers, as shapes and axes are given."""
        return self.constant(values, dtype=np.int64)

    def op(self, kind: str, *operands: str, **attrs: Any) -> str:
        return self.ops(kind, 1, *operands, **attrs)[0]

    def ops(self, kind: str, results: int, *operands: str, **attrs: Any) -> list[str]:
        count = len(self.nodes)
        names = [f"{kind.lower()}{count}" + (f"_{i}" if results > 1 else "") for i in range(results)]
        self.nodes.append(helper.make_node(kind, operands, names, f"{kind.lower()}{count}", **attrs))
        return names

    def linear(self, x: str, layer: str, bias: bool = True) -> str:
        """`x @ weight.T + bias`, weights as torch lays them out."""
        y = self.op("MatMul", x, self.op("Transpose", f"{layer}.weight", perm=[1, 0]))
        return self.op("Add", y, f"{layer}.bias") if bias else y

    def norm(self, x: str, layer: str, epsilon: float) -> str:
        return self.op("LayerNormalization", x, f"{layer}.weight", f"{layer}.bias", epsilon=epsilon)

    def heads(self, x: str, count: int, width: int) -> str:
        """[N, T, count * width] -> [N, count, T, width]."""
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, count, width)), perm=[0, 2, 1, 3])

    def attention(self, q: str, k: str, v: str, width: int, mask: str) -> str:
        """Softmax attention on [N, H, T, width], `mask` added to the scores; the heads are joined again."""
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.constant(np.float32(width**-0.5)))
        mixed = self.op("MatMul", self.op("Softmax", self.op("Add", scores, mask), axis=-1), v)
        return self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.ints(0, 0, -1))

    def build(self, result: str, name: str, shape: Sequence[int | str]) -> ModelProto:
        """The model that gives `result` as its one output, a float tensor called `name`."""
        self.nodes.append(helper.make_node("Identity", [result], [name], name))
        used = {operand for node in self.nodes for operand in node.input}
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        weights = [t for key, t in self.initializers.items() if key in used]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, [output], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
