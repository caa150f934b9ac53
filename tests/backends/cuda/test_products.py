"""Products, convolutions and attention on the emulator, against NumPy over generated shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

from intaglio.backends.cuda import products, tiles
from intaglio.ir import Editor, Module, Tensor, evaluate
from intaglio.ir.types import elem_of
from intaglio.passes.fuse import fuse

from .emulator import Emulated, emulator_problem

pytestmark = pytest.mark.skipif(bool(emulator_problem()), reason=emulator_problem())

CUDA = Emulated()
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i8": np.int8, "u8": np.uint8}
# Each is one build of many kernels, the first a trivial one; there is no time to shrink.
batches = settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])

Case = Callable[[Editor, "Inputs"], Any]


class Inputs:
    """Random inputs of a graph; with `fp16` such that rounding to f16 changes nothing."""

    def __init__(self, seed: int, fp16: bool = False) -> None:
        self.rng, self.fp16 = np.random.default_rng(seed), fp16
        self.arrays: list[Any] = []

    def array(self, dtype: str, *shape: int) -> Any:
        if dtype in ("i8", "u8"):
            info = np.iinfo(DTYPES[dtype])  # type: ignore[arg-type]
            return self.rng.integers(info.min, info.max, shape, endpoint=True).astype(DTYPES[dtype])
        made = self.rng.standard_normal(shape).astype(np.float16 if self.fp16 else np.float32)
        return made.astype(np.float32).astype(DTYPES[dtype])

    def value(self, e: Editor, dtype: str, *shape: int) -> Any:
        made = self.array(dtype, *shape)
        self.arrays.append(made)
        return e.input(f"x{len(self.arrays)}", Tensor(shape, elem_of(made.dtype)))

    def weight(self, e: Editor, dtype: str, *shape: int) -> Any:
        return e.constant(self.array(dtype, *shape), f"w{self.rng.integers(1 << 60)}")


def check(seed: int, cases: list[Case], fp16: bool = False, bound: float | None = None) -> list[str]:
    """One program of all cases, compared with the interpreter; gives the names of its templates."""
    e, inputs = Editor(), Inputs(seed, fp16)
    for i, case in enumerate(cases):
        e.output(case(e, inputs), f"y{i}")
    graph = e.freeze()
    program = CUDA.build(Module("m", {"main": fuse(graph)}, {}), CUDA.options(fp16=fp16))
    for i, (got, want) in enumerate(zip(program.run(inputs.arrays), evaluate(graph, inputs.arrays), strict=True)):
        assert got.shape == want.shape, i
        close(got, want, bound)
    return CUDA.templates


def close(got: Any, want: Any, bound: float | None = None) -> None:
    """Integers are equal; of floats the error is measured against the largest, for they are sums of products."""
    assert got.dtype == want.dtype
    if want.dtype.kind in "iu":
        np.testing.assert_array_equal(got, want)
        return
    step = bound or {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}[want.dtype.name]
    scale = max(1.0, np.abs(want.astype(np.float64)).max(initial=0))
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=0, atol=step * scale)


# --- matrix products --------------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 150), st.integers(16, 90), st.integers(1, 140))
epilogues = st.sampled_from(["none", "relu", "bias", "residual"])


def finish(e: Editor, inputs: Inputs, y: Any, dtype: str, epilogue: str) -> Any:
    shape = y.type.shape
    if epilogue == "bias":
        y = e.emit("math.add", y, inputs.weight(e, dtype, shape[-1]))
    if epilogue == "residual":
        y = e.emit("math.add", y, inputs.value(e, dtype, *shape))
    return y if epilogue == "none" else e.emit("math.relu", y)


def matmul(dtype: str, size: tuple[int, int, int], batch: tuple[int, ...], constant: bool, epilogue: str) -> Case:
    m, k, n = size

    def case(e: Editor, inputs: Inputs) -> Any:
        a = inputs.value(e, dtype, *batch, m, k)
        b = inputs.weight(e, dtype, k, n) if constant else inputs.value(e, dtype, *batch[1:], k, n)
        return finish(e, inputs, e.emit("nn.matmul", a, b), dtype, epilogue)

    return case


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", pytest.param("f32 as f16", marks=pytest.mark.deep)])
@batches
@given(
    st.lists(
        st.tuples(sizes, st.sampled_from([(), (1,), (3,), (2, 2)]), st.booleans(), epilogues), min_size=6, max_size=6
    ),
    st.integers(0, 99),
)
def test_matrix_products(dtype: str, cases: list[Any], seed: int) -> None:
    name, _, fp16 = dtype.partition(" ")
    used = check(seed, [matmul(name, *case) for case in cases], fp16=bool(fp16))
    assert used == ["matrix_product"] * len(cases)


@pytest.mark.parametrize("dtype", ["f16", "i8", "f32"])
def test_every_tile(dtype: str) -> None:
    """Each of an element's tiles, with edges; sizes this small would get the smallest."""
    for tile in tiles.PLAIN_TILES if dtype == "f32" else tiles.TILES:
        with patch.object(products, "choose_tile", return_value=tile):
            if dtype == "i8":
                check(0, [quantized_matmul("u8", (140, 200, 150), 3, True)])
            else:
                check(0, [matmul(dtype, (140, 72, 150), (), True, "none")])


def test_choice_of_tiles() -> None:
    """The largest of which every multiprocessor gets one; in between, the batch counts."""
    large, middle, small = tiles.TILES
    assert tiles.choose_tile(tiles.F16, 4096, 4096) == large
    assert tiles.choose_tile(tiles.F16, 1024, 1024) == middle
    assert tiles.choose_tile(tiles.F16, 1024, 1024, 4) == large
    assert tiles.choose_tile(tiles.I8, 64, 1000) == small
    assert tiles.choose_tile(tiles.F32, 4096, 4096) == tiles.PLAIN_TILES[0]


def quantized_matmul(dtype: str, size: tuple[int, int, int], zero: int, bias: bool) -> Case:
    m, k, n = size

    def case(e: Editor, inputs: Inputs) -> Any:
        operands = [inputs.value(e, dtype, 2, m, k), inputs.weight(e, "i8", k, n)]
        if bias:
            operands.append(e.constant(inputs.rng.integers(-(1 << 20), 1 << 20, n).astype(np.int32), f"b{m}_{k}_{n}"))
        return e.emit("quant.matmul", *operands, a_zero=zero - 128 if dtype == "i8" else zero)

    return case


bytes_like = st.sampled_from(["i8", "u8"])
zeros = st.sampled_from([0, 3, 128, 255])


@batches
@given(st.lists(st.tuples(bytes_like, sizes, zeros, st.booleans()), min_size=6, max_size=6), st.integers(0, 99))
def test_matrix_products_of_bytes(cases: list[Any], seed: int) -> None:
    assert check(seed, [quantized_matmul(*case) for case in cases]) == ["matrix_product"] * len(cases)


# --- convolutions -----------------------------------------------------------------------------------------------------

windows = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2))
images = st.tuples(st.integers(1, 3), st.integers(5, 12), st.integers(6, 13))
channels = st.tuples(st.sampled_from([1, 2]), st.integers(4, 20), st.integers(8, 30))


def conv_operands(image: Any, channel: Any, window: Any) -> tuple[Any, Any, dict[str, Any]]:
    (n, h, w), (g, c, m), (kh, kw, stride, pad, dilation) = image, channel, window
    attrs = {"strides": (stride, 1), "pads": (pad, 0, pad, 1), "dilations": (1, dilation), "g": g}
    return (n, g * c, h, w), (g * m, c, kh, kw), attrs


def conv(dtype: str, image: Any, channel: Any, window: Any, bias: bool, residual: bool) -> Case:
    x, w, attrs = conv_operands(image, channel, window)

    def case(e: Editor, inputs: Inputs) -> Any:
        operands = [inputs.value(e, dtype, *x), inputs.weight(e, dtype, *w)]
        if bias:
            operands.append(inputs.weight(e, dtype, w[0]))
        y = e.emit("nn.conv", *operands, **attrs)
        return finish(e, inputs, y, dtype, "residual" if residual else "relu")

    return case


@pytest.mark.parametrize("dtype", ["f16", pytest.param("bf16", marks=pytest.mark.deep), "f32", "f32 as f16"])
@batches
@given(
    st.lists(st.tuples(images, channels, windows, st.booleans(), st.booleans()), min_size=5, max_size=5),
    st.integers(0, 99),
)
def test_convolutions(dtype: str, cases: list[Any], seed: int) -> None:
    name, _, fp16 = dtype.partition(" ")
    used = check(seed, [conv(name, *case) for case in cases], fp16=bool(fp16))
    assert used == ["convolution"] * len(cases)


def quantized_conv(dtype: str, image: Any, channel: Any, window: Any, zero: int, requantized: bool) -> Case:
    x, w, attrs = conv_operands(image, channel, window)

    def case(e: Editor, inputs: Inputs) -> Any:
        bias = e.constant(inputs.rng.integers(-5000, 5000, w[0]).astype(np.int32), f"b{inputs.rng.integers(1 << 60)}")
        z = zero - 128 if dtype == "i8" else zero
        y = e.emit("quant.conv", inputs.value(e, dtype, *x), inputs.weight(e, "i8", *w), bias, zero=z, **attrs)
        if not requantized:
            return y
        multiplier = e.constant(inputs.rng.integers(1 << 30, (1 << 31) - 1, w[0]).astype(np.int32), f"m{y.name}")
        shift = e.constant(inputs.rng.integers(36, 42, w[0]).astype(np.int32), f"s{y.name}")
        return e.emit("quant.requantize", y, multiplier, shift, to=elem_of(np.dtype(np.uint8)), zero=7, low=7)

    return case


@batches
@given(
    st.lists(st.tuples(bytes_like, images, channels, windows, zeros, st.booleans()), min_size=5, max_size=5),
    st.integers(0, 99),
)
def test_convolutions_of_bytes(cases: list[Any], seed: int) -> None:
    assert check(seed, [quantized_conv(*case) for case in cases]) == ["convolution"] * len(cases)


def test_signals_and_symbolic_batches() -> None:
    def signal(e: Editor, inputs: Inputs) -> Any:
        return e.emit("nn.conv", inputs.value(e, "f16", 2, 16, 50), inputs.weight(e, "f16", 24, 16, 5), pads=(2, 2))

    assert check(1, [signal]) == ["convolution"]


# --- attention --------------------------------------------------------------------------------------------------------


def attention(heads: int, queries: int, keys: int, depth: int, mask: str) -> Case:
    def case(e: Editor, inputs: Inputs) -> Any:
        q, k, v = (inputs.value(e, "f32", 2, heads, t, depth) for t in (queries, keys, keys))
        scores = e.emit("nn.matmul", q, e.emit("shape.transpose", k, perm=(0, 1, 3, 2)))
        scores = e.emit("math.mul", scores, e.constant(np.float32(depth**-0.5), f"s{q.name}"))
        if mask == "causal":
            hidden = np.triu(np.full((queries, keys), -np.inf, np.float32), 1)
            scores = e.emit("math.add", scores, e.constant(hidden, f"m{q.name}"))
        if mask == "given":
            scores = e.emit("math.add", scores, inputs.value(e, "f32", 2, 1, 1, keys))
        return e.emit("nn.matmul", e.emit("nn.softmax", scores), v)

    return case


@batches
@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.integers(1, 140),
            st.integers(1, 150),
            st.integers(8, 128),
            st.sampled_from(["none", "causal", "given"]),
        ),
        min_size=4,
        max_size=4,
    ),
    st.integers(0, 99),
)
def test_attention(cases: list[Any], seed: int) -> None:
    assert check(seed, [attention(*case) for case in cases], fp16=True, bound=1e-3) == ["attention"] * len(cases)


@batches
@given(
    st.lists(
        st.tuples(
            st.integers(1, 2),
            st.integers(1, 90),
            st.integers(1, 140),
            st.integers(4, 64),
            st.sampled_from(["none", "causal", "given"]),
        ),
        min_size=3,
        max_size=3,
    ),
    st.integers(0, 99),
)
def test_attention_in_f32(cases: list[Any], seed: int) -> None:
    assert check(seed, [attention(*case) for case in cases]) == ["attention"] * len(cases)
