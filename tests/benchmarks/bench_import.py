"""Importing ONNX graphs of 10^4 nodes: processor time beyond parsing the protobuf, beside onnx-ir's deserialisation.

pytest -m bench -s tests/benchmarks/bench_import.py        or run this file
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from intaglio.compiler.frontends.onnx import load_onnx

LIMIT = 0.3  # seconds for 10^4 nodes
NODES = 10_000


def mixed(count: int) -> onnx.ModelProto:
    """A realistic mix: residual blocks of convolutions, then transformer blocks whose shapes the graph computes."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    initializers: list[Any] = []
    numbers: dict[tuple[int, ...], str] = {}

    def data(*shape: int) -> str:
        name = f"w{len(initializers)}"
        initializers.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
        return name

    def ints(*values: int) -> str:
        if values not in numbers:
            numbers[values] = name = f"i{len(initializers)}"
            initializers.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return numbers[values]

    def add(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(nodes)}"
        nodes.append(
            helper.make_node(op, list(inputs), [name], f"/block.{len(nodes) // 20}/{op}_{len(nodes)}", **attributes)
        )
        return name

    root, half, one = data(), data(), data()
    x = "image"
    while len(nodes) < count // 2:
        kept = x
        for last in (False, True):
            x = add("Conv", x, data(8, 8, 3, 3), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
            x = add("BatchNormalization", x, data(8), data(8), data(8), data(8), epsilon=1e-5)
            x = add("Add", x, kept) if last else x
            x = add("Relu", x)
    image, x = x, "tokens"
    while len(nodes) < count - 50:
        shape = add("Shape", x)
        n, s = (add("Gather", shape, ints(i), axis=0) for i in (0, 1))
        split = add(
            "Concat",
            *[add("Unsqueeze", v, ints(0)) for v in (add("Squeeze", n), add("Squeeze", s))],
            ints(4),
            ints(4),
            axis=0,
        )
        q = add(
            "Transpose", add("Reshape", add("Add", add("MatMul", x, data(16, 16)), data(16)), split), perm=[0, 2, 1, 3]
        )
        k = add(
            "Transpose", add("Reshape", add("Add", add("MatMul", x, data(16, 16)), data(16)), split), perm=[0, 2, 3, 1]
        )
        v = add(
            "Transpose", add("Reshape", add("Add", add("MatMul", x, data(16, 16)), data(16)), split), perm=[0, 2, 1, 3]
        )
        p = add("Softmax", add("Div", add("MatMul", q, k), root), axis=-1)
        mixed = add("Reshape", add("Transpose", add("MatMul", p, v), perm=[0, 2, 1, 3]), ints(0, 0, -1))
        x = add("LayerNormalization", add("Add", add("MatMul", mixed, data(16, 16)), x), data(16), data(16), axis=-1)
        up = add("Add", add("MatMul", x, data(16, 32)), data(32))
        erf = add("Add", add("Erf", add("Div", up, root)), one)
        down = add("MatMul", add("Mul", add("Mul", up, erf), half), data(32, 16))
        x = add("LayerNormalization", add("Add", down, x), data(16), data(16), axis=-1)
    while len(nodes) < count:
        x = add("Relu", x)
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 8, 16, 16]),
        helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["N", "S", 16]),
    ]
    outputs = [helper.make_empty_tensor_value_info(o) for o in (image, x)]
    graph = helper.make_graph(nodes, "mixed", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seconds(run: Callable[[], Any]) -> float:
    """Processor time of one run, garbage collection included."""
    start = time.process_time()
    kept = run()
    end = time.process_time()
    del kept
    return end - start


def measure(count: int, rounds: int = 7) -> dict[str, float]:
    """Medians of interleaved rounds: all tasks in one process, one after the other."""
    import onnx_ir

    data = mixed(count).SerializeToString()
    model = onnx.ModelProto.FromString(data)
    tasks: dict[str, Callable[[], Any]] = {
        "parse the protobuf": lambda: onnx.ModelProto.FromString(data),
        "import it": lambda: load_onnx(model),
        "load_onnx(bytes)": lambda: load_onnx(data),
        "onnx_ir.from_proto": lambda: onnx_ir.from_proto(model),
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            times[name].append(seconds(task))
    return {name: statistics.median(t) for name, t in times.items()}


@pytest.mark.bench
def test_import() -> None:
    """10^4 nodes in 0.3 s beyond the protobuf, and not slower per node at 3 * 10^4."""
    found = {count: measure(count) for count in (NODES, 3 * NODES)}
    print(f"\n{'':20}" + "".join(f"{count:>12} nodes" for count in found))
    for name in found[NODES]:
        row = "".join(f"{f[name] * 1e3:9.1f} ms {f[name] / c * 1e6:4.1f} us" for c, f in found.items())
        print(f"{name:20}{row}")
    assert found[NODES]["import it"] <= LIMIT
    assert found[3 * NODES]["import it"] <= 1.5 * 3 * found[NODES]["import it"]


if __name__ == "__main__":
    test_import()
