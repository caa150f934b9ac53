"""Pass `integer`: within a step of the simulated network, exact where that can be told, and honest about what stays."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.ir import Constant, Graph, Module, Tensor, evaluate, parse, verify
from intaglio.ir.edit import Editor
from intaglio.ir.ops.quant_integer import fixed_point, rescaled
from intaglio.ir.types import Affine, Float, Int
from intaglio.passes.definition import Context
from intaglio.passes.integer import integer

from .qdq import quantised, weight_of

F32 = Float("f32")


# --- the rule -------------------------------------------------------------------------------------------------------


@given(st.floats(2.0**-31, 2.0**29, exclude_max=True))
def test_fixed_point_is_near(factor: float) -> None:
    multiplier, shift = (int(v) for v in fixed_point(factor))
    assert 1 <= shift <= 62
    assert 1 << 30 <= multiplier < 1 << 31
    assert abs(Fraction(multiplier, 1 << shift) / Fraction(factor) - 1) <= Fraction(1, 1 << 31)


def test_fixed_point_at_its_ends() -> None:
    multiplier, shift = fixed_point(np.array([0.0, 1e-30, 1e30, 0.5]))
    assert list(rescaled(np.array([2**31 - 1] * 4), multiplier, shift) > 0) == [False, False, True, True]
    assert rescaled(3, multiplier[3], shift[3]) == 2  # halves go up
    assert rescaled(-3, multiplier[3], shift[3]) == -1


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, (1 << 31) - 1), st.integers(1, 62))
def test_rule_rounds_once_halves_up(x: int, multiplier: int, shift: int) -> None:
    exact = Fraction(x * multiplier, 1 << shift) + Fraction(1, 2)
    assert int(rescaled(x, multiplier, shift)) == exact.__floor__()


# --- whole graphs ---------------------------------------------------------------------------------------------------


def run(graph: Graph, x: Any) -> Any:
    (y,) = evaluate(graph, [x], check=True)
    return y


def converted(graph: Graph) -> tuple[Graph, str]:
    context = Context()
    made = integer(graph, context)
    verify(Module("m", {"main": made}, {}))
    return made, " ".join(context.notes)


def ops(graph: Graph) -> set[str]:
    return {n.op.name for n in graph.nodes if n.op.name != "const"}


def network(seed: int, store: str = "u8", bits: int = 8) -> tuple[Graph, Any]:
    """A residual network of convolutions, pools, a clamp and a product, quantised."""
    rng = np.random.default_rng(seed)
    e = Editor()
    x = e.input("x", Tensor((2, 3, 12, 12), "f32"))

    def conv(v: Any, in_: int, out: int, k: int, **attrs: Any) -> Any:
        w = e.constant(rng.standard_normal((out, in_ // attrs.get("g", 1), k, k)).astype(np.float32) / k)
        b = e.constant(rng.standard_normal(out).astype(np.float32))
        return e.emit("nn.conv", v, w, b, pads=(k // 2,) * 4, **attrs)

    y = e.emit("math.relu", conv(x, 3, 8, 3))
    z = conv(e.emit("math.relu", conv(y, 8, 8, 3, g=8)), 8, 8, 1)
    y = e.emit("math.relu", e.emit("math.add", y, z))
    y = e.emit("nn.max_pool", y, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    low, high = e.constant(np.float32(0)), e.constant(np.float32(6))
    y = e.emit("math.minimum", e.emit("math.maximum", conv(y, 8, 16, 3, strides=(2, 2)), low), high)
    y = e.emit("shape.concat", y, e.emit("math.sigmoid", y), axis=1)
    y = e.emit("shape.reshape", e.emit("math.reduce_mean", y, axes=(2, 3)), shape=(2, 32))
    w = e.constant(rng.standard_normal((32, 10)).astype(np.float32))
    e.output(e.emit("math.add", e.emit("nn.matmul", y, w), e.constant(rng.standard_normal(10).astype(np.float32))), "y")
    graph = e.freeze()
    data = rng.standard_normal((2, 3, 12, 12)).astype(np.float32)
    return quantised(graph, [{"x": data}], store, bits), data


@pytest.mark.parametrize(("store", "bits"), [("u8", 8), ("i8", 8), ("u4", 4), ("i4", 8), ("u8", 2)])
@pytest.mark.parametrize("seed", range(3))
def test_network_is_what_was_simulated(seed: int, store: str, bits: int) -> None:
    graph, x = network(seed, store, bits)
    made, note = converted(graph)
    assert "float stay" not in note
    floats = {n.op.name for n in made.nodes for v in n.outputs if isinstance(v.type, Tensor) and v.type.elem is F32}
    assert floats == {"quant.dequantize"}
    want, got = run(graph, x), run(made, x)
    elem = next(n for n in reversed(graph.nodes) if n.op.name == "quant.quantize").attr("to")
    steps = np.abs(want - got) / elem.scale
    assert steps.max() <= (2.01 if elem.store.bits == 8 else 1.01)
    assert integer(made) is made or ops(integer(made)) == ops(made)  # nothing is left to do


def test_printed_form_reads_back() -> None:
    small = """
    ig 1
    module @m {
      graph @main(%x: u8[1, 2]) -> (y: i8[1, 2]) {
        %m = const [1073741824, 1500000000] : i32[2]
        %s = const [35, 40] : i32[2]
        %w = const [1, 2, 3, 4] : i8[2, 2]
        %a = quant.matmul(%x, %w) {a_zero = 3} : i32[1, 2]
        %y = quant.requantize(%a, %m, %s) {to = i8, zero = -3, low = -3} : i8[1, 2]
        return %y
      }
    }
    """
    module = parse(small.strip() + "\n")
    verify(module)
    (y,) = evaluate(module.main, [np.array([[200, 7]], np.uint8)])
    assert y.tolist() == [[max(-3, (209 * 2**30 + 2**34 >> 35) - 3), max(-3, (410 * 15 * 10**8 + 2**39 >> 40) - 3)]]


def simple(body: Any, shape: tuple[int, ...] = (1, 64), to: str = "u8", scale: float = 0.02, zero: int = 128) -> Graph:
    """quantize -> body -> quantize -> dequantize."""
    e = Editor()
    code = Affine(Int(to), F32, scale, zero)
    q = e.emit("quant.quantize", e.input("x", Tensor(shape, "f32")), to=code)
    y = body(e, e.emit("quant.dequantize", q, to=F32))
    out = Affine(Int("u8"), F32, 0.01, 10)
    e.output(e.emit("quant.dequantize", e.emit("quant.quantize", y, to=out), to=F32), "y")
    return e.freeze()


X = np.linspace(-4, 4, 64, dtype=np.float32)[None]


@pytest.mark.parametrize("name", ["math.sigmoid", "math.tanh", "math.exp", "math.abs", "nn.gelu", "math.relu"])
def test_functions_of_a_code_are_exact_tables(name: str) -> None:
    graph = simple(lambda e, x: e.emit(name, x))
    made, _ = converted(graph)
    assert name not in ops(made)
    assert np.array_equal(run(graph, X), run(made, X))


def test_chain_of_functions_is_one_table() -> None:
    graph = simple(lambda e, x: e.emit("math.mul", x, e.emit("math.sigmoid", e.emit("math.neg", x))))
    made, _ = converted(graph)
    assert ops(made) == {"quant.quantize", "quant.store", "quant.table", "quant.load", "quant.dequantize"}
    assert np.array_equal(run(graph, X), run(made, X))


@pytest.mark.parametrize("name", ["nn.gelu", "math.sigmoid", "math.tanh", "swish"])
def test_functions_of_sums_are_finer_tables(name: str) -> None:
    """Without a cast between the product and the function: nothing is float, and few results are a step off."""
    rng = np.random.default_rng(5)
    codes, elem = weight_of(rng.standard_normal((64, 48)).astype(np.float32) / 4, 1)

    def body(e: Editor, x: Any) -> Any:
        w = e.emit("quant.dequantize", e.constant(Constant(codes, "w"), type=Tensor(codes.shape, elem)), to=F32)
        y = e.emit("math.add", e.emit("nn.matmul", x, w), e.constant(rng.standard_normal(48).astype(np.float32)))
        return e.emit("math.mul", y, e.emit("math.sigmoid", y)) if name == "swish" else e.emit(name, y)

    graph = simple(body, (40, 64))
    made, note = converted(graph)
    assert "float stay" not in note
    assert ops(made) >= {"quant.matmul", "quant.requantize", "quant.table"}
    x = rng.standard_normal((40, 64)).astype(np.float32)
    difference = np.abs(run(graph, x) - run(made, x))
    assert difference.max() <= 0.0101
    assert np.mean(difference > 0.005) < 0.1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [0.02, 0.3])
def test_softmax_is_within_a_step(axis: int, scale: float) -> None:
    def body(e: Editor, x: Any) -> Any:
        y = e.emit("nn.softmax", x, axis=axis)
        return e.emit("math.mul", y, e.constant(np.float32(2.5)))

    graph = simple(body, (30, 64), scale=scale)
    made, note = converted(graph)
    assert "float stay" not in note
    x = (np.random.default_rng(1).standard_normal((30, 64)) * 2).astype(np.float32)
    assert np.abs(run(graph, x) - run(made, x)).max() <= 0.0101


@pytest.mark.parametrize("shape", [(3, 64), (2, 5, 384)])
def test_layer_norm_is_within_a_step(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    gain, bias = (rng.standard_normal(shape[-1]).astype(np.float32) for _ in range(2))

    def body(e: Editor, x: Any) -> Any:
        return e.emit("nn.layer_norm", x, e.constant(gain), e.constant(bias), axis=-1, eps=1e-5)

    graph = simple(body, shape)
    made, note = converted(graph)
    assert "float stay" not in note
    x = rng.standard_normal(shape).astype(np.float32)
    x[0] = 0.5  # no deviation at all
    difference = np.abs(run(graph, x) - run(made, x))
    assert difference.max() <= 0.0101
    assert np.mean(difference > 0.005) < 0.1


def test_function_of_sums_that_nobody_rounds_stays_as_it_was() -> None:
    codes, elem = weight_of(np.eye(64, dtype=np.float32), 1)
    e = Editor()
    q = e.emit("quant.quantize", e.input("x", Tensor((1, 64), "f32")), to=Affine(Int("u8"), F32, 0.02, 128))
    w = e.emit("quant.dequantize", e.constant(Constant(codes, "w"), type=Tensor(codes.shape, elem)), to=F32)
    y = e.emit("nn.matmul", e.emit("quant.dequantize", q, to=F32), w)
    e.output(e.emit("math.mul", y, e.emit("math.sigmoid", y)), "y")
    graph = e.freeze()
    made, note = converted(graph)
    assert "math.sigmoid" in note
    np.testing.assert_allclose(run(made, X), run(graph, X), atol=1e-6)


def test_scales_of_what_is_joined_may_differ() -> None:
    graph = simple(_joined)
    made, note = converted(graph)
    assert "float stay" not in note
    assert np.array_equal(run(graph, X), run(made, X))


def _joined(e: Editor, x: Any) -> Any:
    other = Affine(Int("u8"), F32, 0.05, 100)
    again = e.emit("quant.dequantize", e.emit("quant.quantize", x, to=other), to=F32)
    return e.emit("shape.concat", x, again, axis=1)


def test_sum_without_rounding_between() -> None:
    """A convolution that is added to before anything is quantised keeps more than eight bits until then."""
    rng = np.random.default_rng(3)
    codes, elem = weight_of(rng.standard_normal((4, 4, 1, 1)).astype(np.float32), 0)

    def body(e: Editor, x: Any) -> Any:
        w = e.emit("quant.dequantize", e.constant(Constant(codes, "w"), type=Tensor(codes.shape, elem)), to=F32)
        return e.emit("math.relu", e.emit("math.add", e.emit("nn.conv", x, w), x))

    graph = simple(body, (1, 4, 4, 4))
    made, note = converted(graph)
    assert "float stay" not in note
    x = rng.standard_normal((1, 4, 4, 4)).astype(np.float32)
    assert np.abs(run(graph, x) - run(made, x)).max() <= 0.0101


def test_sums_that_may_exceed_32_bits_are_split() -> None:
    depth = 140_000
    codes = np.full((depth, 1), 127, np.int8)
    elem = Affine(Int("i8"), F32, 1e-6)

    def body(e: Editor, x: Any) -> Any:
        w = e.emit("quant.dequantize", e.constant(Constant(codes, "w"), type=Tensor(codes.shape, elem)), to=F32)
        return e.emit("nn.matmul", x, w)

    graph = simple(body, (1, depth), scale=0.001, zero=0)
    made, _ = converted(graph)
    assert sum(n.op.name == "quant.matmul" for n in made.nodes) == 4  # halves exceed them, too
    x = np.random.default_rng(0).random((1, depth), np.float32) * 0.25
    x[0, :70_000] = 0.255
    assert np.abs(run(graph, x) - run(made, x)).max() <= 0.0101


def test_bias_of_a_channel_without_weight() -> None:
    """Its scale makes 10**12 steps of the bias: the channel gets another scale."""
    codes, elem = weight_of(np.array([[[[1.0]]], [[[1e-12]]]], np.float32), 0)
    assert isinstance(elem.scale, Constant)
    elem = Affine(Int("i8"), F32, Constant(np.array([1 / 127, 1e-14], np.float32), "tiny"), 0, 0)

    def body(e: Editor, x: Any) -> Any:
        w = e.emit("quant.dequantize", e.constant(Constant(codes, "w"), type=Tensor(codes.shape, elem)), to=F32)
        return e.emit("nn.conv", x, w, e.constant(np.array([0.5, 0.75], np.float32)))

    graph = simple(body, (1, 1, 4, 4))
    made, note = converted(graph)
    assert "float stay" not in note
    x = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32)
    assert np.abs(run(graph, x) - run(made, x)).max() <= 0.0101


def test_shortcut_of_small_resnets_is_a_convolution() -> None:
    def body(e: Editor, x: Any) -> Any:
        y = e.emit("shape.slice", x, axes=(2, 3), starts=(0, 0), stops=(9, 9), steps=(2, 2))
        return e.emit("shape.pad", y, pads=(0, 2, 0, 0, 0, 3, 0, 0))

    graph = simple(body, (1, 4, 9, 9))
    made, _ = converted(graph)
    assert "shape.pad" not in ops(made)
    x = np.random.default_rng(0).standard_normal((1, 4, 9, 9)).astype(np.float32)
    assert np.array_equal(run(graph, x), run(made, x))


def test_what_stays_float_is_named() -> None:
    def body(e: Editor, x: Any) -> Any:
        w = e.constant(np.eye(64, dtype=np.float32))
        return e.emit("nn.matmul", e.emit("nn.log_softmax", x), w)

    graph = simple(body)
    made, note = converted(graph)
    assert "nn.log_softmax" in note
    assert "nn.matmul" in note
    assert np.array_equal(run(graph, X), run(made, X))

    def unquantised(e: Editor, x: Any) -> Any:
        return e.emit("nn.matmul", x, e.constant(np.eye(64, dtype=np.float32)))

    assert "its weights are not quantised constants" in converted(simple(unquantised))[1]


def test_floats_are_left_alone() -> None:
    e = Editor()
    e.output(e.emit("math.relu", e.input("x", Tensor((3,), "f32"))), "y")
    graph = e.freeze()
    assert integer(graph) is graph
