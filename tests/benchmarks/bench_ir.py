"""Reading, printing and verifying 10^4 nodes: ours beside xDSL and onnx-ir, in one run, turn about.

    make bench          or          python tests/benchmarks/bench_ir.py [nodes]

The program is a chain of additions, products and maxima of tensors, each of the two values before it, because all three
have that: xDSL in MLIR's generic form, onnx-ir in ONNX's textual form (which onnx parses, in C++). Medians of process
time; nothing is asserted, for the machine may be busy.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from intaglio.ir import Editor, Graph, Tensor, dim, verify
from intaglio.ir.testing import random_graph
from intaglio.ir.text import constants_of, parse_graph, print_graph

NODES = 10_000
ROUNDS = 5

Task = Callable[[], Any]
Tasks = dict[str, Task]  # "parse", "print", "verify"


def chain(nodes: int) -> Graph:
    e = Editor()
    a = b = e.input("x", Tensor((8, 16), "f32"))
    for i in range(nodes):
        a, b = b, e.emit(("math.add", "math.mul", "math.maximum")[i % 3], a, b)
    e.output(b, "y")
    return e.freeze()


def network(nodes: int) -> Graph:
    """Convolutions with attributes, names, locations and a symbolic batch, as an importer makes them."""
    from intaglio.ir import Location

    e = Editor()
    x = e.input("x", Tensor((dim("N"), 8, 16, 16), "f32"))
    w = e.constant(np.ones((8, 8, 3, 3), np.float32), "weight")
    while len(e.nodes) < nodes:
        i = len(e.nodes)
        e.loc = Location((f"layer{i}.conv",))
        y = e.emit("nn.conv", x, w, name=f"layer{i}.conv.out", pads=(1, 1, 1, 1))
        e.loc = Location((f"layer{i}.relu",))
        x = e.emit("math.add", x, e.emit("math.relu", y, name=f"/layer{i}/relu"), name=f"layer{i}.sum")
    e.output(x, "y")
    return e.freeze()


def ours(graph: Graph) -> Tasks:
    text, weights = print_graph(graph), constants_of(graph)
    assert parse_graph(text, weights) == graph
    return {
        "parse": lambda: parse_graph(text, weights),
        "print": lambda: print_graph(graph),
        "verify": lambda: verify(graph),
    }


def xdsl(nodes: int) -> Tasks:
    from xdsl.context import Context
    from xdsl.dialects import arith, builtin, func
    from xdsl.parser import Parser
    from xdsl.printer import Printer

    context = Context()
    for dialect in (arith.Arith, builtin.Builtin, func.Func):
        context.load_dialect(dialect)
    t, names = "tensor<8x16xf32>", ["%x", "%x"]
    head = f'"func.func"() <{{sym_name = "main", function_type = ({t}) -> {t}}}> ({{\n^bb0(%x: {t}):'
    lines = ['"builtin.module"() ({', head]
    for i in range(nodes):
        op = ("addf", "mulf", "maximumf")[i % 3]
        properties = "<{fastmath = #arith.fastmath<none>}>"
        lines.append(f'%{i} = "arith.{op}"({names[-2]}, {names[-1]}) {properties} : ({t}, {t}) -> {t}')
        names.append(f"%{i}")
    lines.append(f'"func.return"({names[-1]}) : ({t}) -> ()\n}}) : () -> ()\n}}) : () -> ()')
    text = "\n".join(lines)
    module = Parser(context, text).parse_module()
    module.verify()

    def write() -> None:
        Printer(io.StringIO(), print_generic_format=True).print_op(module)

    return {"parse": lambda: Parser(context, text).parse_module(), "print": write, "verify": module.verify}


def onnx_ir(nodes: int) -> Tasks:
    import onnx_ir as ir

    t, names = "float[8,16]", ["x", "x"]
    lines = [f'<ir_version: 10, opset_import: ["" : 21]>\nmain ({t} x) => ({t} v{nodes - 1}) {{']
    for i in range(nodes):
        lines.append(f"v{i} = {('Add', 'Mul', 'Max')[i % 3]}({names[-2]}, {names[-1]})")
        names.append(f"v{i}")
    text = "\n".join([*lines, "}"])
    model = ir.from_onnx_text(text)
    return {"parse": lambda: ir.from_onnx_text(text), "print": lambda: ir.to_onnx_text(model)}


def measure(contestants: dict[str, tuple[int, Tasks]]) -> dict[str, dict[str, float]]:
    """Nodes a second by contestant and task; everybody once, then everybody again."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in contestants}
    for _ in range(ROUNDS):
        for name, (_, tasks) in contestants.items():
            for what, task in tasks.items():
                begin = time.process_time()
                task()
                seconds[name].setdefault(what, []).append(time.process_time() - begin)
    return {
        name: {what: contestants[name][0] / statistics.median(times) for what, times in tasks.items()}
        for name, tasks in seconds.items()
    }


def table(found: dict[str, dict[str, float]]) -> str:
    tasks = ("parse", "print", "verify")
    rows = [f"{'nodes/s':34}" + "".join(f"{what:>12}" for what in tasks)]
    for name, speeds in found.items():
        cells = (f"{speeds[what]:12,.0f}" if what in speeds else f"{'-':>12}" for what in tasks)
        rows.append(f"{name:34}" + "".join(cells))
    return "\n".join(rows)


def run(nodes: int) -> str:
    graphs = {"chain": chain(nodes), "network": network(nodes), "random": random_graph(np.random.default_rng(0), nodes)}
    contestants = {f"intaglio, {name}": (len(g.nodes), ours(g)) for name, g in graphs.items()}
    for name, make in (("xDSL, chain, generic form", xdsl), ("onnx-ir, chain, ONNX text", onnx_ir)):
        try:
            contestants[name] = (nodes, make(nodes))
        except ImportError as e:
            print(f"{name}: {e}")
    return table(measure(contestants))


@pytest.mark.bench
def test_text_and_verifier() -> None:
    print("\n" + run(NODES))


if __name__ == "__main__":
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else NODES))
