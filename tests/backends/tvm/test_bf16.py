"""Graphs in bf16 on the CPU: what the interpreter says, but for the order of sums; and what the pass `bf16` makes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

from intaglio.backends.tvm.isa import ISA_NAMES, host_runs
from intaglio.backends.tvm.kernels import VECTOR_UNITS, conv_call
from intaglio.backends.tvm.kernels.layout import Blocked, Halo
from intaglio.backends.tvm.kernels.lowbit.conv import conv_halves
from intaglio.backends.tvm.lowering.graph import lower_module
from intaglio.backends.tvm.lowering.table import PICKING
from intaglio.compiler.api import compile as compile_model
from intaglio.ir import OPS, Editor, Graph, IntaglioError, Module, Tensor, Value, evaluate
from intaglio.ir.types import Affine, Float, Int
from intaglio.passes.bf16 import FOLLOW, PRODUCTS, bf16
from intaglio.passes.definition import Context

from .growing import Choices, pairs

ISAS = [isa for isa in ISA_NAMES if host_runs(isa)]
BF16, F32 = Float("bf16"), Float("f32")


def check(graph: Graph, inputs: list[Any], isa: str = "native", exact: bool = False) -> None:
    """A sum in another order may round to the neighbour, and a later layer carries that on."""
    for got, want in pairs(graph, inputs, isa, exact):
        got, want = got.astype(np.float32), want.astype(np.float32)
        scale = np.abs(want).max(initial=1e-3)
        assert np.abs(got - want).max(initial=0) <= 2**-6 * scale
        assert (np.abs(got - want) > 2**-11 * scale).mean() < 0.05


def drawn(rng: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)


class Grower(Choices):
    """Grows a network of bf16 on an image from random choices."""

    def graph(self) -> tuple[Graph, Any]:
        batch, channels = self.pick(1, 2), self.pick(1, 3, 8, 16, 20, 32)
        shape = (batch, channels, *(int(self.rng.integers(5, 15)) for _ in range(2)))
        x = self.e.input("x", Tensor(shape, "f32"))
        images = [self.e.emit("math.cast", x, to=BF16)]
        for _ in range(int(self.rng.integers(2, 6))):
            images.append(self.pick(self.conv, self.conv, self.residual, self.pool, self.join)(images))
        y = images[-1]
        self.e.output(y, "narrow")
        self.e.output(self.e.emit("math.cast", y, to=F32), "wide")
        mean = self.e.emit("math.reduce_mean", y, axes=(2, 3), keepdims=False)
        w = self.e.constant(drawn(self.rng, y.type.shape[1], int(self.pick(1, 10, 40))))
        self.e.output(self.e.emit("nn.matmul", mean, w), "answers")
        return self.e.freeze(), self.rng.standard_normal(shape).astype(np.float32)

    def conv(self, images: list[Value]) -> Value:
        x = self.pick(*images[-2:])
        channels, *size = x.type.shape[1:]
        kernel = [min(self.pick(1, 3, 3, 5), d) for d in size]
        outputs, groups, inputs = int(self.pick(1, 7, 16, 32)), 1, channels
        if self.pick(False, False, True):
            outputs, groups, inputs = channels, channels, 1
        w = drawn(self.rng, outputs, inputs, *kernel) * ml_dtypes.bfloat16((inputs * kernel[0] * kernel[1]) ** -0.5)
        bias = [self.e.constant(drawn(self.rng, outputs))] if self.pick(True, False) else []
        attrs = {"g": groups, "strides": (self.pick(1, 1, 2),) * 2, "pads": tuple(k // 2 for k in kernel) * 2}
        y = self.e.emit("nn.conv", x, self.e.constant(w.astype(ml_dtypes.bfloat16)), *bias, **attrs)
        return self.e.emit("math.relu", y) if self.pick(True, False) else y

    def residual(self, images: list[Value]) -> Value:
        x = images[-1]
        same = [v for v in images if v.type is x.type]
        return self.e.emit("math.relu", self.e.emit("math.add", x, self.pick(*same)))

    def pool(self, images: list[Value]) -> Value:
        x = images[-1]
        if min(x.type.shape[2:]) < 3:
            return x
        op = self.pick("nn.max_pool", "nn.avg_pool")
        return self.e.emit(op, x, kernel=(3, 3), strides=(self.pick(1, 2),) * 2, pads=(1, 1, 1, 1))

    def join(self, images: list[Value]) -> Value:
        x = images[-1]
        other = [v for v in images if v.type.shape[2:] == x.type.shape[2:]]  # type: ignore[union-attr]
        return self.e.emit("shape.concat", x, self.pick(*other), axis=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.sampled_from(ISAS), st.sampled_from([False, False, False, True]))
def test_networks(seed: int, isa: str, exact: bool) -> None:
    graph, x = Grower(seed).graph()
    check(graph, [x], isa, exact)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.sampled_from(ISAS), st.integers(0, 99)
)
def test_products(m: int, k: int, n: int, bias: bool, isa: str, seed: int) -> None:
    rng, e = np.random.default_rng(seed), Editor()
    x = e.input("x", Tensor((2, m, k), "bf16"))
    y = e.emit("nn.matmul", x, e.constant(drawn(rng, k, n)))
    e.output(e.emit("math.relu", e.emit("math.add", y, e.constant(drawn(rng, n)))) if bias else y, "y")
    check(e.freeze(), [drawn(rng, 2, m, k)], isa)


@pytest.mark.parametrize("size", [56, 7])
def test_the_cheaper_convolution(size: int) -> None:
    """Winograd saves more than bf16 on large images, and dot products are better where its weights leave the cache."""
    unit, pads = VECTOR_UNITS["avx512_bf16"], (1, 1, 1, 1)
    channels = 64 * 56 // size
    layouts: dict[str, Any] = {"x_layout": Blocked(unit.lanes, Halo(*pads)), "out_layout": Blocked(unit.lanes)}
    dtypes = {"x_dtype": "uint16", "out_dtype": "uint16"}
    shapes = (1, channels, size, size), (channels, channels, 3, 3)
    call = conv_call(*shapes, pads=pads, unit=unit, **layouts, **dtypes)
    assert call is not None
    kernel = conv_halves(call)
    assert kernel is not None
    assert ("dpbf16ps" in kernel.func.script()) == (size == 7)


def network() -> Graph:
    rng, e = np.random.default_rng(0), Editor()
    x = e.input("x", Tensor((1, 3, 12, 12), "f32"))
    y = x
    for channels in (16, 16):
        w = rng.normal(0, 0.1, (channels, y.type.shape[1], 3, 3)).astype(np.float32)  # type: ignore[union-attr]
        y = e.emit("math.relu", e.emit("nn.conv", y, e.constant(w), pads=(1, 1, 1, 1)))
        y = e.emit("math.minimum", y, e.constant(np.float32(6)))
    y = e.emit("math.add", y, e.emit("math.sigmoid", y))
    y = e.emit("math.reduce_mean", y, axes=(2, 3), keepdims=False)
    e.output(e.emit("nn.matmul", y, e.constant(rng.standard_normal((16, 5)).astype(np.float32))), "y")
    return e.freeze()


def test_ops_that_are_named_exist() -> None:
    assert {*FOLLOW, *PRODUCTS, *PICKING} <= set(OPS)


def test_the_pass() -> None:
    """Convolutions and what is between them become bf16; the sigmoid, and the last product, do not."""
    graph = network()
    made = bf16(graph)
    elems = [(n.op.name, str(n.output.type).partition("[")[0]) for n in made.nodes if n.constant is None]
    assert elems == [
        ("math.cast", "bf16"),
        ("nn.conv", "bf16"),
        ("math.relu", "bf16"),
        ("math.minimum", "bf16"),
        ("nn.conv", "bf16"),
        ("math.relu", "bf16"),
        ("math.minimum", "bf16"),
        ("math.cast", "f32"),
        ("math.sigmoid", "f32"),
        ("math.add", "f32"),
        ("math.reduce_mean", "f32"),
        ("nn.matmul", "f32"),
    ]
    last = bf16(graph, last=True)
    assert [str(n.output.type) for n in last.nodes if n.op.name == "nn.matmul"] == ["bf16[1, 5]"]
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)
    (want,), (got,) = (evaluate(g, [x]) for g in (graph, made))
    assert 0 < np.abs(want - got).max() < 2**-7 * np.abs(want).max()
    check(made, [x])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("channels", "returned"), [(3, False), (4, False), (1, False), (3, True)])
def test_few_channels(isa: str, channels: int, returned: bool) -> None:
    """The image that a network starts with, read by two convolutions of different reach."""
    rng, e = np.random.default_rng(channels), Editor()
    x = e.input("x", Tensor((2, channels, 13, 19), "f32"))
    narrow = e.emit("math.cast", x, to=BF16)
    for i, size in enumerate((7, 3)):
        w = e.constant(drawn(rng, 20, channels, size, size))
        e.output(e.emit("nn.conv", narrow, w, strides=(2, 2), pads=(size // 2,) * 4), f"y{i}")
    if returned:
        e.output(narrow, "narrow")
    check(e.freeze(), [rng.standard_normal((2, channels, 13, 19)).astype(np.float32)], isa)


def test_keep() -> None:
    graph = network()
    names = [n.output.name for n in graph.nodes if n.op.name == "nn.conv"]
    made = bf16(graph, keep=tuple(names))
    assert all(n.output.type.elem is not BF16 for n in made.nodes)  # type: ignore[union-attr]


class Narrow:
    """A target without bf16."""

    name = "narrow"

    def legal(self, node: Any) -> str:
        return "no unit for it" if node.output.type.elem is BF16 else ""


def test_targets_without_bf16() -> None:
    with pytest.raises(IntaglioError, match="IG0452") as found:
        bf16.run(network(), bf16.options(), Context(target=Narrow()))  # type: ignore[arg-type]
    assert "leave out" in str(found.value)


# --- int4 -----------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 20),
    st.sampled_from([32, 64, 96]),
    st.integers(1, 70),
    st.sampled_from([8, 32]),
    st.booleans(),
    st.sampled_from(ISAS),
)
def test_products_with_codes(m: int, k: int, n: int, group: int, symmetric: bool, isa: str) -> None:
    """A weight of 4-bit codes in groups, with few rows and many, symmetric or with zeros, and an epilogue."""
    rng, e = np.random.default_rng(m * n), Editor()
    scale = e.constant(rng.uniform(0.5, 2, (k // group, n)).astype(np.float32)).node.constant  # type: ignore[union-attr]
    zero: Any = 0
    if not symmetric:
        zero = e.constant(rng.integers(0, 16, (k // group, n)).astype(np.int32)).node.constant  # type: ignore[union-attr]
    store = Int("i4" if symmetric else "u4")
    low, high = store.range
    elem = Affine(store, F32, scale, zero, 0, group)  # type: ignore[arg-type]
    codes = rng.integers(low, high + 1, (k, n)).astype(store.dtype)
    x = e.input("x", Tensor((m, k), "f32"))
    w = e.emit("quant.dequantize", e.constant(codes, type=Tensor((k, n), elem)), to=F32)
    bias = e.constant(rng.standard_normal(n).astype(np.float32))
    e.output(e.emit("math.relu", e.emit("math.add", e.emit("nn.matmul", x, w), bias)), "y")
    graph = e.freeze()
    data = rng.standard_normal((m, k)).astype(np.float32)
    compiled = compile_model(Module("m", {"main": graph}), "cpu", isa=isa, threads=1)
    (got,), (want,) = compiled.program.run([data]), evaluate(graph, [data])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4 * np.abs(want).max(initial=1))


@pytest.mark.parametrize("zero", [-9, 20])
def test_zeros_that_are_no_codes(zero: int) -> None:
    rng, e = np.random.default_rng(0), Editor()
    scale = e.constant(np.ones((2, 16), np.float32)).node.constant  # type: ignore[union-attr]
    elem = Affine(Int("i4"), F32, scale, zero, 0, 32)  # type: ignore[arg-type]
    codes = e.constant(rng.integers(-8, 8, (64, 16)).astype(ml_dtypes.int4), type=Tensor((64, 16), elem))
    x = e.input("x", Tensor((1, 64), "f32"))
    e.output(e.emit("nn.matmul", x, e.emit("quant.dequantize", codes, to=F32)), "y")
    graph, data = e.freeze(), rng.standard_normal((1, 64)).astype(np.float32)
    compiled = compile_model(Module("m", {"main": graph}), "cpu", threads=1)
    np.testing.assert_allclose(compiled.program.run([data])[0], evaluate(graph, [data])[0], rtol=1e-5, atol=1e-3)


def test_codes_stay_codes() -> None:
    """The program of a product with few rows gets codes, that with many an f32 weight."""
    rng, e = np.random.default_rng(0), Editor()
    scale = e.constant(np.ones((16, 512), np.float32)).node.constant  # type: ignore[union-attr]
    elem = Affine(Int("i4"), F32, scale, 0, 0, 32)  # type: ignore[arg-type]
    codes = e.constant(rng.integers(-8, 8, (512, 512)).astype(ml_dtypes.int4), type=Tensor((512, 512), elem))
    for rows in (1, 64):
        x = e.input(f"x{rows}", Tensor((rows, 512), "f32"))
        e.output(e.emit("nn.matmul", x, e.emit("quant.dequantize", codes, to=F32)), f"y{rows}")
    plan = lower_module(Module("m", {"main": e.freeze()}), VECTOR_UNITS["avx512"])
    sizes = [a.nbytes for a in plan.weights]
    assert sorted(sizes)[-1] == 512 * 512 * 4
    assert sizes.count(512 * 512 // 2) == 1
