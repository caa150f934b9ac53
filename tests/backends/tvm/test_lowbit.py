"""Kernels on bytes, bf16 and single bits: what NumPy computes, bit for bit, on every instruction set at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

import ml_dtypes

from intaglio.backends.tvm import api, runtime
from intaglio.backends.tvm.isa import ISA_NAMES, host_runs
from intaglio.backends.tvm.kernels import VECTOR_UNITS, ExtraOperand, conv_call
from intaglio.backends.tvm.kernels.layout import Blocked, Halo
from intaglio.backends.tvm.kernels.lowbit.conv import conv_bf16, conv_int8
from intaglio.backends.tvm.kernels.lowbit.depthwise import depthwise_int8
from intaglio.backends.tvm.kernels.lowbit.gemm import matmul_bf16, matmul_binary, matmul_int8, pack_signs
from intaglio.backends.tvm.kernels.lowbit.int4 import matmul_int4
from intaglio.backends.tvm.kernels.lowbit.requantize import requantize

ISAS = [isa for isa in ISA_NAMES if host_runs(isa)]
few = settings(max_examples=6, deadline=None)


def run(kernel: Any, inputs: list[Any], extras: list[Any], isa: str, dtype: str) -> Any:
    packed = [pack(a) if pack else a for pack, a in zip(kernel.packers, inputs, strict=True)]
    assert [a.shape for a in packed] == [tuple(s) for s in kernel.packed_shapes]
    out = runtime.to_tensor(runtime.aligned_copy(np.full(kernel.out_shape, 77, dtype)))
    args = [runtime.to_tensor(runtime.aligned_copy(a)) for a in [*packed, *extras]]
    api.build_kernel(kernel.func, api.cpu_target(isa))(*args, out)
    return runtime.to_numpy(out)


def drawn_bytes(rng: Any, dtype: str, *shape: int) -> Any:
    """Bytes among which the extreme ones are frequent: those are what saturates."""
    low, high = (0, 255) if dtype == "uint8" else (-128, 127)
    return np.where(rng.random(shape) < 0.3, rng.choice([low, high], shape), rng.integers(low, high + 1, shape)).astype(
        dtype
    )


# --- products -------------------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 20), st.integers(1, 70), st.integers(1, 70))


@pytest.mark.parametrize("isa", ISAS)
@few
@given(sizes, st.sampled_from(["uint8", "int8"]), st.sampled_from([0, 3, None]), st.integers(0, 99))
def test_product_of_bytes(isa: str, size: tuple[int, int, int], dtype: str, zero: int | None, seed: int) -> None:
    rng, (m, k, n) = np.random.default_rng(seed), size
    x, w = drawn_bytes(rng, dtype, m, k), drawn_bytes(rng, "int8", k, n)
    kernel = matmul_int8((m, k), (k, n), x_dtype=dtype, zero_point=zero, unit=VECTOR_UNITS[isa])
    assert kernel is not None
    got = run(kernel, [x, w, *([np.array([7], dtype)] if zero is None else [])], [], isa, "int32")
    assert np.array_equal(got, (x.astype(int) - (7 if zero is None else zero)) @ w.astype(int))


@pytest.mark.parametrize("isa", ISAS)
@few
@given(sizes, st.integers(0, 99))
def test_product_of_bf16(isa: str, size: tuple[int, int, int], seed: int) -> None:
    rng, (m, k, n) = np.random.default_rng(seed), size
    x, w = (rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((m, k), (k, n)))
    kernel = matmul_bf16((m, k), (k, n), unit=VECTOR_UNITS[isa])
    assert kernel is not None
    got = run(kernel, [x.view("uint16"), w.view("uint16")], [], isa, "float32")
    np.testing.assert_allclose(got, x.astype(float) @ w.astype(float), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@few
@given(sizes, st.integers(0, 99))
def test_product_of_signs(isa: str, size: tuple[int, int, int], seed: int) -> None:
    rng, (m, k, n) = np.random.default_rng(seed), size
    x, w = rng.choice([-1, 1], (m, k)), rng.choice([-1, 1], (n, k))
    kernel = matmul_binary((m, k), (n, k), unit=VECTOR_UNITS[isa])
    assert kernel is not None
    got = run(kernel, [pack_signs(x), pack_signs(w)], [], isa, "int32")
    assert np.array_equal(got, x @ w.T)


def rounded_to_bytes(x: Any, group: int) -> Any:
    """Rows of x as the int4 kernel sees them if it is not exact: whole multiples of a scale for each group."""
    parts = x.reshape(len(x), -1, group)
    largest = np.abs(parts).max(2, keepdims=True)
    inverse = np.where(largest > 0, np.float32(127) / np.maximum(largest, np.float32(1e-30)), np.float32(0))
    return (np.rint(parts * inverse) * (largest * np.float32(1 / 127)).astype(float)).reshape(x.shape)


@pytest.mark.parametrize("isa", ISAS)
@few
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 70)),
    st.sampled_from([32, 64, 128]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_product_of_int4(
    isa: str, size: tuple[int, int, int], group: int, symmetric: bool, exact: bool, seed: int
) -> None:
    rng, (m, groups, n) = np.random.default_rng(seed), size
    depth = groups * group
    x = rng.standard_normal((m, depth)).astype(np.float32)
    x[0, :group] = 0
    codes = rng.integers(0, 16, (n, depth)).astype(np.uint8)
    scales = rng.random((n, groups)).astype(np.float32)
    zeros = np.full((n, groups), 8, np.uint8) if symmetric else rng.integers(0, 16, (n, groups)).astype(np.uint8)
    kernel = matmul_int4((m, depth), (n, depth), group, symmetric=symmetric, exact=exact, unit=VECTOR_UNITS[isa])
    assert kernel is not None
    got = run(kernel, [x, codes, scales, *([] if symmetric else [zeros])], [], isa, "float32")
    steps = (codes.reshape(n, groups, group) - zeros[..., None].astype(float)) * scales[..., None]
    want = (x if exact else rounded_to_bytes(x, group)).astype(float) @ steps.reshape(n, depth).T
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_int4_groups_that_do_not_fit_are_refused() -> None:
    assert matmul_int4((1, 64), (8, 64), 12) is None
    assert matmul_int4((1, 96), (8, 96), 64) is None
    assert matmul_int4((1, 64), (8, 32), 32) is None
    assert matmul_int4((1, 64), (8, 64), 8, exact=False) is None  # less than a vector


# --- convolutions ---------------------------------------------------------------------------------------------------


def reference(x: Any, w: Any, strides: Any, pads: Any, dilations: Any, groups: int) -> Any:
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = tuple((k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    inputs, outputs = x.shape[1] // groups, w.shape[0] // groups
    parts = [
        np.einsum(
            "nchwij,ocij->nohw",
            windows[:, g * inputs : (g + 1) * inputs],
            w[g * outputs : (g + 1) * outputs],
        )
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=1)


def block(x: Any, layout: Blocked, fill: Any) -> Any:
    """x as it lies in memory, `fill` around the image and in the spare channels."""
    (n, c, h, w), halo, blocks = x.shape, layout.halo, layout.blocks(x.shape[1])
    out = np.full(layout.shape(x.shape), fill, x.dtype)
    padded = np.full((n, blocks * layout.lanes, h, w), fill, x.dtype)
    padded[:, :c] = x
    inside = padded.reshape(n, blocks, layout.lanes, h, w).transpose(0, 1, 3, 4, 2)
    out[:, :, halo.top : halo.top + h, halo.left : halo.left + w] = inside
    return out


@st.composite
def convolutions(draw: Any, depthwise: bool) -> dict[str, Any]:
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilations = draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    pads = tuple(draw(st.integers(0, kernel[i % 2] // 2)) for i in range(4))
    channels = draw(st.sampled_from([3, 16, 20, 32]))
    return {
        "shape": (draw(st.integers(1, 2)), channels, draw(st.integers(9, 14)), draw(st.integers(9, 14))),
        "weight": (channels, 1, *kernel) if depthwise else (draw(st.sampled_from([1, 16, 37])), channels, *kernel),
        "strides": draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])),
        "pads": pads,
        "dilations": dilations,
        "groups": channels if depthwise else 1,
    }


def check_bytes(template: Any, isa: str, case: dict[str, Any], dtype: str, zero: int, seed: int) -> None:
    rng, lanes, pads = np.random.default_rng(seed), VECTOR_UNITS[isa].lanes, case["pads"]
    options = {k: case[k] for k in ("strides", "pads", "dilations", "groups")}
    layout = Blocked(lanes, Halo(pads[0] + 1, pads[2], pads[1], pads[3] + 1))
    result = Blocked(lanes, Halo(1, 0, 1, 1))
    x, w = drawn_bytes(rng, dtype, *case["shape"]), drawn_bytes(rng, "int8", *case["weight"])
    call = conv_call(
        x.shape,
        w.shape,
        x_layout=layout,
        out_layout=result,
        x_dtype=dtype,
        out_dtype="int32",
        fill=9,
        unit=VECTOR_UNITS[isa],
        **options,
    )
    assert call is not None
    kernel = template(call, zero_point=zero)
    assert kernel is not None
    got = run(kernel, [block(x, layout, zero), w], [], isa, "int32")
    want = reference(x.astype(int) - zero, w.astype(int), *options.values())
    assert np.array_equal(got, block(want.astype("int32"), result, 9))


@pytest.mark.parametrize("isa", ISAS)
@few
@given(convolutions(False), st.sampled_from(["uint8", "int8"]), st.integers(-5, 5), st.integers(0, 99))
def test_convolution_of_bytes(isa: str, case: dict[str, Any], dtype: str, zero: int, seed: int) -> None:
    check_bytes(conv_int8, isa, case, dtype, abs(zero) if dtype == "uint8" else zero, seed)


@pytest.mark.parametrize("isa", ISAS)
@few
@given(convolutions(True), st.sampled_from(["uint8", "int8"]), st.integers(-5, 5), st.integers(0, 99))
def test_depthwise_convolution_of_bytes(isa: str, case: dict[str, Any], dtype: str, zero: int, seed: int) -> None:
    check_bytes(depthwise_int8, isa, case, dtype, abs(zero) if dtype == "uint8" else zero, seed)


@pytest.mark.parametrize("isa", ISAS)
@few
@given(convolutions(False), st.integers(0, 99))
def test_convolution_of_bf16(isa: str, case: dict[str, Any], seed: int) -> None:
    rng, lanes, pads = np.random.default_rng(seed), VECTOR_UNITS[isa].lanes, case["pads"]
    options = {k: case[k] for k in ("strides", "pads", "dilations", "groups")}
    layout, result = Blocked(lanes, Halo(pads[0], pads[2], pads[1], pads[3])), Blocked(lanes)
    x, w = (rng.standard_normal(case[k]).astype(ml_dtypes.bfloat16) for k in ("shape", "weight"))
    call = conv_call(x.shape, w.shape, x_layout=layout, out_layout=result, unit=VECTOR_UNITS[isa], **options)
    assert call is not None
    kernel = conv_bf16(call)
    assert kernel is not None
    got = run(kernel, [block(x, layout, 0).view("uint16"), w.view("uint16")], [], isa, "float32")
    want = reference(x.astype(float), w.astype(float), *options.values())
    np.testing.assert_allclose(got, block(want, result, 0), rtol=1e-5, atol=1e-4)


# --- requantization -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("isa", ISAS)
def test_requantize_is_numpy_s(isa: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, w = drawn_bytes(rng, "uint8", 40, 90), drawn_bytes(rng, "int8", 90, 50)
    scale = (rng.random(50) * np.float32(10.0) ** rng.integers(-5, 1, 50)).astype(np.float32)
    scale[:4] = 0.5  # ties
    low, high, zero = (0, 255, 128) if dtype == "uint8" else (-128, 127, -3)
    kernel = matmul_int8(
        x.shape,
        w.shape,
        out_dtype=dtype,
        epilogue=lambda acc, index, extras: requantize(acc, extras[0][index[-1]], zero, dtype),
        extras=[ExtraOperand((50,))],
        unit=VECTOR_UNITS[isa],
    )
    assert kernel is not None
    got = run(kernel, [x, w], [scale], isa, dtype)
    sums = (x.astype(int) @ w.astype(int)).astype(np.float32)
    assert np.array_equal(got, np.clip(np.rint(sums * scale) + zero, low, high).astype(dtype))
