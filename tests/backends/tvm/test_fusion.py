"""The pass `fuse` and the kernels made of its groups."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends import backend
from intaglio.ir import Affine, Constant, Editor, Graph, Module, Tensor, dim, evaluate, verify
from intaglio.ir.types import Float, Int
from intaglio.passes.fuse import fuse

CPU = backend("cpu")
N = dim("N")


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def graph_of(make: Callable[[Editor], Any]) -> Graph:
    editor = Editor()
    results = make(editor)
    for i, v in enumerate(results if isinstance(results, (list, tuple)) else [results]):
        editor.output(v, f"y{i}")
    graph = editor.freeze()
    verify(graph)
    return graph


def groups(graph: Graph) -> list[list[str]]:
    return [[n.op.name for n in node.attrs["body"].nodes] for node in graph.nodes if node.op.name == "tile.kernel"]


def check(make: Callable[[Editor], Any], *arrays: Any, tolerance: float = 1e-5) -> list[list[str]]:
    """Fuse, verify, build, compare with the interpreter on the unfused graph; gives the groups."""
    graph = graph_of(make)
    fused = fuse(graph)
    verify(fused)
    assert fuse(graph).digest == fused.digest
    for got, want in zip(evaluate(fused, arrays), evaluate(graph, arrays), strict=True):
        np.testing.assert_array_equal(got, want)
    program = CPU.build(Module("m", {"main": fused}, {"N": (1, None)}), CPU.options())
    for got, want in zip(program.run(arrays), evaluate(graph, arrays), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return groups(fused)


def test_residual_block() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((N, 16, 12, 12), "f32"))

        def block(x: Any, seed: int) -> Any:
            y = e.emit("nn.conv", x, e.constant(random(16, 16, 3, 3, seed=seed), f"w{seed}"), pads=(1, 1, 1, 1))
            p = [e.constant(random(16, seed=seed + i), f"p{seed}{i}") for i in range(3)]
            return e.emit("nn.batch_norm", y, *p, e.constant(np.abs(random(16, seed=seed + 4)) + 0.5, f"v{seed}"))

        h = e.emit("math.relu", block(x, 1))
        return e.emit("math.relu", e.emit("math.add", block(h, 20), x))

    found = check(make, random(2, 16, 12, 12), tolerance=1e-3)
    assert found == [
        ["nn.conv", "nn.batch_norm", "math.relu"],
        ["nn.conv", "nn.batch_norm", "math.add", "math.relu"],
    ]


def test_two_branches_share_an_addition() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((8, 4), "f32"))
        a, b = (e.emit("nn.matmul", x, e.constant(random(4, 5, seed=i), f"w{i}")) for i in range(2))
        return e.emit("math.relu", e.emit("math.add", a, b))

    assert check(make, random(8, 4)) == [["nn.matmul", "math.add", "math.relu"]]


def test_a_fork_that_comes_together_is_one_group() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((N, 3, 6, 6), "f32"))
        h = e.emit("nn.conv", x, e.constant(random(5, 3, 1, 1), "w"), e.constant(random(5), "b"))
        return e.emit("math.mul", h, e.emit("math.sigmoid", h))

    assert check(make, random(2, 3, 6, 6)) == [["nn.conv", "math.sigmoid", "math.mul"]]


def test_values_read_elsewhere_end_a_group() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((8, 4), "f32"))
        h = e.emit("math.exp", e.emit("nn.matmul", x, e.constant(random(4, 4), "w")))
        s = e.emit("math.reduce_sum", h, axes=(1,))
        return [e.emit("math.neg", e.emit("math.div", h, s)), e.emit("math.relu", h)]

    assert check(make, random(8, 4)) == [["nn.matmul", "math.exp"], ["math.div", "math.neg"]]


def test_no_cycle_through_a_reduction() -> None:
    """max -> sub reads both ends: grouping exp with the subtraction after it would need its own result."""

    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((8, 4), "f32"))
        h = e.emit("math.exp", x)
        m = e.emit("math.reduce_max", h, axes=(1,))
        return e.emit("math.sub", h, m)

    assert check(make, random(8, 4)) == []


def test_graph_outputs_stay() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((8, 4), "f32"))
        a = e.emit("math.exp", x)
        return [a, e.emit("math.relu", e.emit("math.neg", a))]

    assert check(make, random(8, 4)) == [["math.neg", "math.relu"]]


def test_elementwise_chain_with_broadcasts_and_types() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((N, 6, 5, 5), "f32"))
        h = e.emit("math.add", x, e.constant(random(6, 1, 1), "b"))
        h = e.emit("math.mul", h, e.input("s", Tensor((N, 1, 5, 5), "f32")))
        c = e.emit("math.greater", h, e.constant(np.float32(0)))
        h = e.emit("math.where", c, h, e.emit("math.mul", h, e.constant(np.float32(0.1))))
        return e.emit("math.cast", h, to=Float("f64"))

    (group,) = check(make, random(3, 6, 5, 5), random(3, 1, 5, 5))
    assert len(group) == 6


def test_heavy_groups_keep_their_type() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((8, 4), "f32"))
        h = e.emit("math.relu", e.emit("nn.matmul", x, e.constant(random(4, 16), "w")))
        return e.emit("math.cast", h, to=Int("i32"))

    assert check(make, random(8, 4)) == [["nn.matmul", "math.relu"]]


def test_fake_quantisation_rides_along() -> None:
    scale = Constant(np.linspace(0.05, 0.2, 6, dtype=np.float32), "s")
    elem = Affine(Int("i8"), Float("f32"), scale, axis=1)

    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((2, 3, 8, 8), "f32"))
        h = e.emit("nn.conv", x, e.constant(random(6, 3, 3, 3), "w"), e.constant(random(6), "b"))
        return e.emit("quant.dequantize", e.emit("quant.quantize", h, to=elem), to=Float("f32"))

    # a rounding that falls on a half may go either way: one step of the coarsest scale
    assert check(make, random(2, 3, 8, 8), tolerance=0.21) == [["nn.conv", "quant.quantize", "quant.dequantize"]]


@pytest.mark.parametrize("pool", ["nn.max_pool", "nn.avg_pool"])
def test_pool_with_activation(pool: str) -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((N, 4, 9, 9), "f32"))
        h = e.emit(pool, x, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
        return e.emit("math.tanh", e.emit("math.add", h, e.input("r", Tensor((N, 4, 5, 5), "f32"))))

    assert check(make, random(2, 4, 9, 9), random(2, 4, 5, 5)) == [[pool, "math.add", "math.tanh"]]


def test_long_chains_are_cut_and_compile() -> None:
    def make(e: Editor) -> Any:
        h = e.input("x", Tensor((4, 33), "f32"))
        for _ in range(25):
            h = e.emit("math.mul", h, e.emit("math.sigmoid", h))
        return h

    found = check(make, random(4, 33))
    assert len(found) >= 2
    assert all(len(g) <= 32 for g in found)
    assert sum(map(len, found)) == 50


def test_random_graphs() -> None:
    rng = np.random.default_rng(5)
    for _ in range(12):

        def make(e: Editor) -> Any:
            values = [e.input(f"x{i}", Tensor((4, 8), "f32")) for i in range(2)]
            weight = e.constant(random(8, 8) * 0.3, "w")
            for _ in range(14):
                a, b = (values[rng.integers(max(0, len(values) - 4), len(values))] for _ in range(2))
                kind = rng.integers(6)
                values.append(
                    e.emit("nn.matmul", a, weight) if kind == 0
                    else e.emit("math.tanh", a) if kind == 1
                    else e.emit("math.sub", a, e.emit("math.reduce_mean", b, axes=(1,))) if kind == 2
                    else e.emit(("math.add", "math.mul", "math.maximum")[kind % 3], a, b)
                )  # fmt: skip
            return [values[-1], values[-3]]

        graph = graph_of(make)
        fused = fuse(graph)
        verify(fused)
        arrays = [random(4, 8, seed=i) for i in range(2)]
        program = CPU.build(Module("m", {"main": fused}), CPU.options())
        for got, want in zip(program.run(arrays), evaluate(graph, arrays), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_fusing_is_linear() -> None:
    """Counted in calls of functions, which no other load on the machine changes."""

    def calls(n: int) -> int:
        def make(e: Editor) -> Any:
            h = e.input("x", Tensor((4, 4), "f32"))
            for i in range(n):
                h = e.emit(("math.relu", "math.exp", "math.tanh", "nn.softmax")[i % 4], h)
            return h

        graph, count = graph_of(make), 0

        def counting(frame: Any, event: str, arg: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(counting)
        try:
            fuse(graph)
        finally:
            sys.setprofile(None)
        return count

    calls(500)  # what is imported when it is first needed
    assert calls(4000) < 8.5 * calls(500)
