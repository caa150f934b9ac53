"""Sparse kernels against NumPy: any pattern of blocks, from none to all, and unstructured ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

from intaglio.backends.tvm import api, runtime
from intaglio.backends.tvm.isa import ISA_NAMES, host_runs
from intaglio.backends.tvm.kernels import VECTOR_UNITS, ExtraOperand
from intaglio.backends.tvm.kernels.layout import Blocked, Halo
from intaglio.backends.tvm.kernels.lowbit.dot import Dot
from intaglio.backends.tvm.kernels.sparse.block import block_sparse_conv, block_sparse_matmul, count_blocks, dot_of
from intaglio.backends.tvm.kernels.sparse.csr import csr_matmul

Array = np.ndarray[Any, np.dtype[Any]]
ISAS = [isa for isa in ISA_NAMES if host_runs(isa)]
few = settings(max_examples=5, deadline=None)
densities = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])
dtypes = st.sampled_from(["float32", "uint8", "int8"])


def run(kernel: Any, x: Array, weight: Array, extras: list[Array], isa: str, dtype: str) -> Array:
    """The weight is bound to every input after x."""
    packed = [x, *(pack(weight) for pack in kernel.packers[1:])]
    assert [a.shape for a in packed] == [tuple(s) for s in kernel.packed_shapes]
    out = runtime.to_tensor(runtime.aligned_copy(np.full(kernel.out_shape, 77, dtype)))
    args = [runtime.to_tensor(runtime.aligned_copy(a)) for a in [*packed, *extras]]
    api.build_kernel(kernel.func, api.cpu_target(isa))(*args, out)
    return np.asarray(runtime.to_numpy(out))


def drawn(rng: Any, dtype: str, *shape: int) -> Array:
    if dtype == "float32":
        return np.asarray(rng.standard_normal(shape), np.float32)
    low, high = (0, 255) if dtype == "uint8" else (-128, 127)
    extreme = rng.choice([low, high], shape)
    return np.where(rng.random(shape) < 0.3, extreme, rng.integers(low, high + 1, shape)).astype(dtype)


def drawn_weight(rng: Any, dot: Dot, density: float, *shape: int) -> Array:
    """[O, C, taps..] in which about that part of the blocks is not zero."""
    kept = rng.random((-(-shape[0] // dot.lanes), -(-shape[1] // dot.depth), *shape[2:])) < density
    mask = kept.repeat(dot.lanes, 0)[: shape[0]].repeat(dot.depth, 1)[:, : shape[1]]
    return np.asarray(drawn(rng, dot.weight_dtype, *shape) * mask)


def check(got: Array, want: Array, dtype: str) -> None:
    if dtype == "float32":
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    else:
        assert np.array_equal(got, want)


@pytest.mark.parametrize("isa", ISAS)
@few
@given(st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 70)), dtypes, densities, st.integers(0, 99))
def test_block_sparse_product(isa: str, size: tuple[int, int, int], dtype: str, density: float, seed: int) -> None:
    rng, dot, (m, steps, n) = np.random.default_rng(seed), dot_of(dtype, VECTOR_UNITS[isa]), size
    depth, zero = steps * dot.depth, 0 if dtype == "float32" else 3
    x, w = drawn(rng, dtype, m, depth), drawn_weight(rng, dot, density, n, depth)
    kernel = block_sparse_matmul(
        x.shape, w.shape, count_blocks(w, dot), x_dtype=dtype, zero_point=zero, unit=VECTOR_UNITS[isa]
    )
    check(run(kernel, x, w, [], isa, dot.acc_dtype), (x.astype(float) - zero) @ w.astype(float).T, dtype)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("isa", ISAS[:1])
def test_rows_a_page_apart_are_copied(isa: str, dtype: str) -> None:
    rng, dot = np.random.default_rng(0), dot_of(dtype, VECTOR_UNITS[isa])
    x, w = drawn(rng, dtype, 2, 17, 1024), drawn_weight(rng, dot, 0.1, 40, 1024)
    kernel = block_sparse_matmul(x.shape, w.shape, count_blocks(w, dot), x_dtype=dtype, unit=VECTOR_UNITS[isa])
    check(run(kernel, x, w, [], isa, dot.acc_dtype), x.astype(float) @ w.astype(float).T, dtype)


@pytest.mark.parametrize("isa", ISAS[:1])
def test_two_of_four_shared_by_a_vector_of_outputs_is_half_the_blocks(isa: str) -> None:
    rng, unit = np.random.default_rng(0), VECTOR_UNITS[isa]
    dot = dot_of("float32", unit)
    w = drawn(rng, "float32", 3 * unit.lanes, 64)
    strength = (w * w).reshape(3, unit.lanes, 16, 4).sum(1)
    kept = strength.argsort(2).argsort(2) >= 2
    w *= kept.reshape(3, 64).repeat(unit.lanes, 0)
    assert count_blocks(w, dot) == 3 * 32
    x, bias = drawn(rng, "float32", 9, 64), drawn(rng, "float32", len(w))
    kernel = block_sparse_matmul(
        x.shape,
        w.shape,
        3 * 32,
        epilogue=lambda acc, index, extras: acc + extras[0][index[-1]],
        extras=[ExtraOperand(bias.shape)],
        unit=unit,
    )
    check(run(kernel, x, w, [bias], isa, "float32"), x.astype(float) @ w.T.astype(float) + bias, "float32")


@st.composite
def convolutions(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    options = {
        "strides": draw(st.sampled_from([(1, 1), (2, 1)])),
        "pads": tuple(draw(st.integers(0, kernel[i % 2] // 2)) for i in range(4)),
        "dilations": draw(st.sampled_from([(1, 1), (1, 2)])),
    }
    channels = draw(st.sampled_from([3, 16, 20]))
    x = (draw(st.integers(1, 2)), channels, draw(st.integers(7, 12)), draw(st.integers(7, 12)))
    return x, (draw(st.sampled_from([1, 16, 37])), channels, *kernel), options


@pytest.mark.parametrize("isa", ISAS)
@few
@given(convolutions(), dtypes, densities, st.integers(0, 99))
def test_block_sparse_convolution(isa: str, case: Any, dtype: str, density: float, seed: int) -> None:
    x_shape, weight_shape, options = case
    rng, unit = np.random.default_rng(seed), VECTOR_UNITS[isa]
    dot, zero, pads = dot_of(dtype, unit), 0 if dtype == "float32" else 3, options["pads"]
    x, w = drawn(rng, dtype, *x_shape), drawn_weight(rng, dot, density, *weight_shape)
    layout, result = (
        Blocked(unit.lanes, Halo(pads[0] + 1, pads[2], pads[1], pads[3])),
        Blocked(unit.lanes, Halo(left=1)),
    )
    kernel = block_sparse_conv(
        x.shape,
        w.shape,
        count_blocks(w, dot),
        x_layout=layout,
        out_layout=result,
        x_dtype=dtype,
        zero_point=zero,
        fill=5,
        unit=unit,
        **options,
    )
    got = run(kernel, _blocked(x, layout, zero), w, [], isa, dot.acc_dtype)
    want = _convolved(x.astype(float) - zero, w.astype(float), **options)
    check(got, _blocked(want, result, 5), dtype)


def _blocked(x: Array, layout: Blocked, fill: float) -> Array:
    """x as it lies in memory, `fill` around the image and in the spare channels."""
    out = np.full(layout.shape(x.shape), fill, x.dtype)
    for index in np.ndindex(x.shape):
        out[layout.index(index)] = x[index]
    return out


def _convolved(x: Array, w: Array, strides: Any, pads: Any, dilations: Any) -> Array:
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, w))


@pytest.mark.parametrize("isa", ISAS)
@few
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 150)),
    densities,
    st.sampled_from([(), (2,)]),
    st.integers(0, 99),
)
def test_csr_product(isa: str, size: tuple[int, int, int], density: float, leading: tuple[int, ...], seed: int) -> None:
    rng, (n, depth, m) = np.random.default_rng(seed), size
    w = drawn(rng, "float32", n, depth) * (rng.random((n, depth)) < density)
    x = drawn(rng, "float32", *leading, depth, m)
    kernel = csr_matmul(w.shape, x.shape, int((w != 0).sum()), unit=VECTOR_UNITS[isa])
    check(run(kernel, x, w, [], isa, "float32"), w.astype(float) @ x.astype(float), "float32")


@pytest.mark.parametrize("isa", ISAS[:1])
@pytest.mark.parametrize("depth", [60, 200, 520])
def test_csr_of_long_rows_sums_several_weights_at_once(isa: str, depth: int) -> None:
    rng = np.random.default_rng(0)
    w = drawn(rng, "float32", 9, depth) * (rng.random((9, depth)) < 0.3)
    x = drawn(rng, "float32", depth, 300)
    kernel = csr_matmul(w.shape, x.shape, int((w != 0).sum()), unit=VECTOR_UNITS[isa])
    check(run(kernel, x, w, [], isa, "float32"), w.astype(float) @ x.astype(float), "float32")


def test_what_does_not_fit_is_refused() -> None:
    kernel = block_sparse_matmul((4, 8), (16, 8), 3)
    assert kernel is not None and kernel.packers[1] is not None
    with pytest.raises(ValueError, match="8 blocks"):
        kernel.packers[1](np.ones((16, 8), np.float32))
    assert block_sparse_matmul((4, 6), (16, 6), 1, x_dtype="uint8") is None  # no whole number of words
    assert block_sparse_matmul((4, 8), (16, 6), 1) is None
    assert csr_matmul((4, 8), (6, 3), 1) is None
    too_small = Blocked(16)
    assert (
        block_sparse_conv((1, 16, 8, 8), (16, 16, 3, 3), 1, x_layout=too_small, out_layout=too_small, pads=(1,) * 4)
        is None
    )
