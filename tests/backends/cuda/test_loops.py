"""Loops shared out among threads: reductions, norms, softmax, pools, elementwise and structural ops, over generated
shapes; once as the CPU function that they are before binding, once as kernels on the emulator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

from intaglio.backends.cuda.bind import SIMT, bind_threads
from intaglio.backends.cuda.lower import Lowering
from intaglio.backends.tvm import api
from intaglio.backends.tvm.lowering.graph import lower_module
from intaglio.backends.tvm.program import TvmProgram
from intaglio.ir import Editor, Module, Tensor, dim, evaluate
from intaglio.ir.types import Int
from intaglio.passes.fuse import fuse

from .emulator import Emulated, emulator_problem

CUDA = Emulated()
batches = settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
needs_emulator = pytest.mark.skipif(bool(emulator_problem()), reason=emulator_problem())


def before_binding(module: Module) -> Any:
    """The functions that become kernels, run as they are, one thread for all."""
    plan = lower_module(module, SIMT, exact=True, lower=Lowering(exact=True))
    for name, func in plan.module.functions.items():
        if type(func).__name__ == "PrimFunc":
            plan.module.update_func(name, func.with_body(in_turn(func.body)))
    return TvmProgram(module, plan, "baseline", executable=api.build_module(plan.module, api.cpu_target("baseline")))


def in_turn(stmt: Any) -> Any:
    """Loops whose iterations come one after the other: TVM's CPU has no parallel loops inside parallel loops."""
    tirx, kind = api.modules().tirx, type(stmt).__name__
    if kind == "For":
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, 0, in_turn(stmt.body))
    if kind == "SeqStmt":
        return tirx.SeqStmt([in_turn(s) for s in stmt.seq])
    if kind == "IfThenElse":
        other = None if stmt.else_case is None else in_turn(stmt.else_case)
        return tirx.IfThenElse(stmt.condition, in_turn(stmt.then_case), other)
    return stmt


def emulated(module: Module) -> Any:
    return CUDA.build(module, CUDA.options(exact=True))


ways = pytest.mark.parametrize(
    "build", [before_binding, pytest.param(emulated, marks=needs_emulator)], ids=["before binding", "kernels"]
)

Make = Callable[[Editor, Any], Any]

# Of one input [A, B, C]; constants are named by their place.
OPS: dict[str, Make] = {
    "softmax": lambda e, x: e.emit("nn.softmax", x),
    "softmax of the first axis": lambda e, x: e.emit("nn.softmax", x, axis=0),
    "log_softmax": lambda e, x: e.emit("nn.log_softmax", x, axis=1),
    "layer_norm": lambda e, x: e.emit("nn.layer_norm", x, ramp(e, x.type.shape[-1]), ramp(e, x.type.shape[-1])),
    "sum": lambda e, x: e.emit("math.reduce_sum", x, axes=(2,)),
    "sum of all": lambda e, x: e.emit("math.reduce_sum", x),
    "mean of rows": lambda e, x: e.emit("math.reduce_mean", x, axes=(0, 1), keepdims=True),
    "max": lambda e, x: e.emit("math.reduce_max", x, axes=(1,)),
    "argmax": lambda e, x: e.emit("math.argmax", x, axis=2),
    "chain": lambda e, x: e.emit("math.mul", e.emit("nn.gelu", x), e.emit("math.sigmoid", e.emit("math.exp", x))),
    "tanh, erf": lambda e, x: e.emit("math.add", e.emit("math.tanh", x), e.emit("math.erf", x)),
    "broadcast": lambda e, x: e.emit("math.sub", x, ramp(e, x.type.shape[-1])),
    "transpose": lambda e, x: e.emit("shape.transpose", x, perm=(2, 0, 1)),
    "concat": lambda e, x: e.emit("shape.concat", x, e.emit("math.neg", x), axis=1),
    "reverse": lambda e, x: e.emit("shape.reverse", x, axes=(2,)),
    "max_pool": lambda e, x: e.emit("nn.max_pool", x, kernel=(2,), strides=(1,), pads=(1, 0)),
    "avg_pool": lambda e, x: e.emit("nn.avg_pool", x, kernel=(3,), strides=(2,), pads=(1, 1)),
    "cumsum": lambda e, x: e.emit("math.cumsum", x, axis=1),
    "cast": lambda e, x: e.emit("math.cast", e.emit("math.round", x), to=Int("i32")),
}


def ramp(e: Editor, length: int) -> Any:
    return e.constant(np.linspace(-1, 1, length).astype(np.float32), f"ramp{len(e.nodes)}")


@ways
@batches
@given(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 600)), st.integers(0, 99))
def test_loops(build: Callable[[Module], Any], shape: tuple[int, ...], seed: int) -> None:
    e = Editor()
    x = e.input("x", Tensor(shape, "f32"))
    for name, make in OPS.items():
        e.output(make(e, x), name.replace(" ", "_").replace(",", ""))
    graph = e.freeze()
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    results = build(Module("m", {"main": fuse(graph)}, {})).run([array])
    for name, got, want in zip(OPS, results, evaluate(graph, [array]), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-5 * max(1, np.abs(want).max()), err_msg=name)


@ways
@batches
@given(st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(3, 11), st.integers(3, 9)), st.integers(1, 2))
def test_images(build: Callable[[Module], Any], shape: tuple[int, int, int, int], stride: int) -> None:
    """Depthwise convolution, pools and resize of images."""
    rng, channels = np.random.default_rng(shape), shape[1]
    e = Editor()
    x = e.input("x", Tensor(shape, "f32"))
    w = e.constant(rng.standard_normal((channels, 1, 3, 3)).astype(np.float32), "w")
    e.output(e.emit("nn.conv", x, w, g=channels, pads=(1, 1, 1, 1), strides=(stride, stride)), "depthwise")
    e.output(e.emit("nn.max_pool", x, kernel=(3, 2), strides=(stride, 1)), "max_pool")
    e.output(e.emit("nn.avg_pool", x, kernel=shape[2:]), "global")
    e.output(e.emit("math.reduce_mean", x, axes=(2, 3), keepdims=True), "mean")
    graph = e.freeze()
    array = rng.standard_normal(shape).astype(np.float32)
    results = build(Module("m", {"main": fuse(graph)}, {})).run([array])
    for got, want in zip(results, evaluate(graph, [array]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@ways
def test_symbolic_extents_and_serial_updates(build: Callable[[Module], Any]) -> None:
    """Grids of symbolic size; a scatter, whose updates have an order, is one thread's."""
    n = dim("N")
    e = Editor()
    x, at = e.input("x", Tensor((n, 40), "f32")), e.input("at", Tensor((n, 40), "i64"))
    e.output(e.emit("nn.softmax", e.emit("math.relu", x)), "rows")
    e.output(e.emit("shape.scatter_elements", x, at, x, axis=1, reduction="add"), "scattered")
    graph = e.freeze()
    program = build(Module("m", {"main": fuse(graph)}, {"N": (1, None)}))
    for rows in (1, 7):
        rng = np.random.default_rng(rows)
        arrays = [rng.standard_normal((rows, 40)).astype(np.float32), rng.integers(0, 40, (rows, 40))]
        for got, want in zip(program.run(arrays), evaluate(graph, arrays), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_nest_becomes_a_grid() -> None:
    """One thread an element, 256 a block; the reduction of a row is a block's."""
    e = Editor()
    x = e.input("x", Tensor((6, 1000), "f32"))
    e.output(e.emit("math.relu", x), "y")
    e.output(e.emit("math.reduce_sum", x, axes=(1,)), "z")
    plan = lower_module(Module("m", {"main": e.freeze()}, {}), SIMT, exact=True, lower=Lowering(exact=True))
    launches: dict[str, list[int]] = {}
    for var, func in plan.module.functions.items():
        if type(func).__name__ == "PrimFunc":
            launches[var.name_hint] = extents(bind_threads(func))
    assert launches == {"math_relu": [24, 256], "math_reduce_sum": [6, 256]}


def extents(func: Any) -> list[int]:
    """Of the axes of a kernel's launch: blocks and threads."""
    found, stmt = [], func.body
    while (kind := type(stmt).__name__) in ("SeqStmt", "AttrStmt"):
        if kind == "SeqStmt":  # declarations come before the kernel
            stmt = stmt.seq[-1]
            continue
        found.append(int(stmt.value))
        stmt = stmt.body
    return found
