"""Every kernel template against a float64 NumPy reference, over ordinary and odd shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends.tvm import api, runtime
from intaglio.backends.tvm.isa import host_isa
from intaglio.backends.tvm.kernels import (
    VECTOR_UNITS,
    ExtraOperand,
    Kernel,
    average_pool,
    batched_matmul,
    conv,
    conv_call,
    global_average_pool,
    matmul,
    max_pool,
)

Array = np.ndarray[Any, np.dtype[Any]]
TOLERANCE = 1e-5
UNIT = VECTOR_UNITS[host_isa()]


def array(*shape: int, seed: int = 0) -> Array:
    """Reproducible random data that does not depend on the order of tests."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def run(kernel: Kernel | None, inputs: Sequence[Array], extras: Sequence[Array] = (), isa: str | None = None) -> Array:
    assert kernel is not None
    packed = [pack(a) if pack else a for pack, a in zip(kernel.packers, inputs, strict=True)]
    dims: dict[int, int] = {}
    for array_, shape in zip(packed, kernel.packed_shapes, strict=True):
        assert array_.ndim == len(shape)
        for size, dim in zip(array_.shape, shape, strict=True):
            if isinstance(dim, int):
                assert size == dim
            else:
                dims[hash(dim)] = size
    out_shape = [d if isinstance(d, int) else dims[hash(d)] for d in kernel.out_shape]
    out = np.full(out_shape, np.nan, np.float32)
    out_tensor = runtime.to_tensor(out)
    compiled = api.build_kernel(kernel.func, api.cpu_target(isa))
    compiled(*[runtime.to_tensor(np.ascontiguousarray(a)) for a in [*packed, *extras]], out_tensor)
    return np.array(out_tensor.numpy())


def check(got: Array, want: Array) -> None:
    assert got.shape == want.shape
    scale = max(1e-30, float(np.abs(want).max()))
    assert float(np.abs(got - want).max()) / scale <= TOLERANCE


def patches(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    fill: float,
) -> Array:
    """[N, C, OH, OW, KH, KW] in float64."""
    padded = np.pad(
        x.astype(np.float64), ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill
    )
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    return views[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def conv_reference(x: Array, w: Array, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int],
                   groups: int) -> Array:  # fmt: skip
    windows = patches(x, w.shape[2:], strides, pads, dilations, 0.0)
    outputs, inputs = w.shape[0] // groups, w.shape[1]
    parts = [
        np.einsum(
            "nchwij,ocij->nohw",
            windows[:, g * inputs : (g + 1) * inputs],
            w[g * outputs : (g + 1) * outputs].astype(np.float64),
            optimize=True,
        )
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=1)


# (N, C, H, W), (O, KH, KW), strides, pads, dilations, groups
CONVS = [
    ((1, 3, 9, 7), (10, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((2, 16, 32, 32), (16, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((1, 64, 14, 14), (70, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((1, 130, 7, 7), (65, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((1, 3, 64, 50), (32, 3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 1),
    ((1, 3, 61, 61), (20, 7, 7), (2, 2), (3, 3, 3, 3), (1, 1), 1),
    ((1, 8, 13, 17), (10, 3, 2), (1, 1), (2, 0, 3, 1), (2, 1), 1),
    ((1, 8, 23, 25), (9, 3, 3), (2, 2), (2, 2, 2, 2), (2, 2), 1),
    ((1, 6, 31, 29), (10, 4, 5), (3, 3), (1, 2, 3, 0), (1, 1), 2),
    ((3, 12, 10, 11), (24, 3, 3), (1, 2), (1, 1, 1, 1), (1, 1), 3),
    ((1, 32, 28, 28), (48, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((2, 20, 7, 7), (33, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((1, 300, 23, 23), (40, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((1, 24, 17, 15), (8, 1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
    ((1, 4, 5, 5), (6, 1, 1), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((2, 5, 1, 1), (7, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((2, 16, 5, 4), (12, 5, 4), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((1, 5, 20, 9), (4, 9, 9), (1, 1), (4, 4, 4, 4), (1, 1), 1),
    ((1, 256, 40, 40), (8, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((1, 160, 6, 5), (96, 3, 3), (2, 1), (1, 1, 1, 1), (1, 1), 2),
    ((1, 1, 12, 12), (5, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((1, 7, 4, 2), (3, 2, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
]

DEPTHWISE = [
    ((1, 32, 20, 32), (32, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 32),
    ((2, 16, 56, 56), (16, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 16),
    ((1, 24, 28, 28), (24, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 24),
    ((1, 24, 33, 35), (24, 3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 24),
    ((1, 10, 14, 14), (10, 5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 10),
    ((1, 10, 40, 41), (10, 5, 5), (2, 2), (2, 2, 2, 2), (1, 1), 10),
    ((1, 48, 7, 7), (48, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 48),
    ((1, 48, 7, 7), (48, 7, 7), (1, 1), (0, 0, 0, 0), (1, 1), 48),
    ((1, 5, 19, 18), (15, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 5),
    ((1, 6, 30, 37), (6, 3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 6),
    ((1, 6, 30, 37), (6, 3, 3), (3, 3), (1, 0, 0, 2), (1, 1), 6),
    ((1, 3, 3, 64), (3, 1, 9), (1, 1), (0, 4, 0, 4), (1, 1), 3),
    ((1, 4, 2, 112), (4, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 4),
    ((1, 4, 50, 16), (4, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 4),
]


def plain_conv(*shapes: Any, **options: Any) -> Kernel | None:
    """The kernel of a convolution in ONNX's terms."""
    call = conv_call(*shapes, **options)
    return None if call is None else conv(call)


def conv_case(case: Any, batch: Any = None, **options: Any) -> tuple[Kernel | None, Array, Array, Array]:
    x_shape, (o, kh, kw), strides, pads, dilations, groups = case
    x, w = array(*x_shape), array(o, x_shape[1] // groups, kh, kw, seed=1)
    # Outputs of unit size: errors are measured against the output, and an epilogue may clip that.
    w /= np.float32(np.sqrt(w[0].size))
    shape = (x_shape[0] if batch is None else batch, *x_shape[1:])
    kernel = plain_conv(
        shape, w.shape, strides=strides, pads=pads, dilations=dilations, groups=groups, unit=UNIT, **options
    )
    return kernel, x, w, conv_reference(x, w, strides, pads, dilations, groups)


@pytest.mark.parametrize("case", CONVS + DEPTHWISE, ids=str)
def test_conv(case: Any) -> None:
    kernel, x, w, want = conv_case(case)
    check(run(kernel, [x, w]), want)


@pytest.mark.parametrize("case", CONVS[:4] + CONVS[10:13] + DEPTHWISE[1:5], ids=str)
def test_conv_with_bias_and_relu(case: Any) -> None:
    tirx = api.modules().tirx
    bias = array(case[1][0], seed=2)

    def epilogue(acc: Any, index: tuple[Any, ...], extras: tuple[Any, ...]) -> Any:
        return tirx.max(acc + extras[0][index[1]], tirx.const(0.0, "float32"))

    kernel, x, w, want = conv_case(case, epilogue=epilogue, extras=[ExtraOperand(bias.shape)])
    check(run(kernel, [x, w], [bias]), np.maximum(want + bias[:, None, None], 0))


@pytest.mark.parametrize("case", CONVS[:4] + CONVS[10:14] + DEPTHWISE[1:7], ids=str)
def test_conv_with_residual_and_clip(case: Any) -> None:
    tirx = api.modules().tirx

    def epilogue(acc: Any, index: tuple[Any, ...], extras: tuple[Any, ...]) -> Any:
        low, high = tirx.const(-1.0, "float32"), tirx.const(6.0, "float32")
        return tirx.min(tirx.max(acc + extras[0][index], low), high)

    shape = conv_case(case)[3].shape
    residual = array(*shape, seed=3)
    kernel, x, w, want = conv_case(case, epilogue=epilogue, extras=[ExtraOperand(shape)])
    check(run(kernel, [x, w], [residual]), np.clip(want + residual, -1, 6))


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize(
    "case", [CONVS[1], CONVS[5], CONVS[9], CONVS[11], CONVS[15], DEPTHWISE[1], DEPTHWISE[3]], ids=str
)
def test_conv_with_symbolic_batch(case: Any, n: int) -> None:
    tirx = api.modules().tirx
    batch = api.symbolic_dim("n")

    def epilogue(acc: Any, index: tuple[Any, ...], extras: tuple[Any, ...]) -> Any:
        return tirx.max(acc + extras[0][index], tirx.const(0.0, "float32"))

    case = ((n, *case[0][1:]), *case[1:])
    shape = conv_case(case)[3].shape
    residual = array(*shape, seed=3)
    kernel, x, w, want = conv_case(case, batch, epilogue=epilogue, extras=[ExtraOperand((batch, *shape[1:]))])
    check(run(kernel, [x, w], [residual]), np.maximum(want + residual, 0))


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "stride", "pads", "dilation", "groups"),
    [
        ((2, 6, 40), (9, 6, 5), 1, (2, 2), 1, 1),
        ((1, 6, 41), (8, 3, 4), 2, (0, 3), 1, 2),
        ((1, 8, 50), (8, 1, 3), 1, (2, 2), 2, 8),
        ((1, 80, 100), (24, 80, 1), 1, (0, 0), 1, 1),
        ((1, 1, 400), (4, 1, 41), 5, (20, 20), 1, 1),
        ((3, 7, 11), (5, 7, 11), 1, (0, 0), 1, 1),
    ],
)
def test_conv_1d(x_shape: Any, w_shape: Any, stride: int, pads: Any, dilation: int, groups: int) -> None:
    x, w = array(*x_shape), array(*w_shape, seed=1)
    kernel = plain_conv(x_shape, w_shape, strides=[stride], pads=pads, dilations=[dilation], groups=groups, unit=UNIT)
    want = conv_reference(x[:, :, None], w[:, :, None], (1, stride), (0, pads[0], 0, pads[1]), (1, dilation), groups)[
        :, :, 0
    ]
    check(run(kernel, [x, w]), want)


@pytest.mark.parametrize("isa", [isa for isa in ("avx2", "baseline") if host_isa() != "baseline"])
@pytest.mark.parametrize("case", [CONVS[0], CONVS[5], CONVS[11], DEPTHWISE[1], DEPTHWISE[2]], ids=str)
def test_conv_for_narrower_instruction_sets(case: Any, isa: str) -> None:
    x_shape, (o, kh, kw), strides, pads, dilations, groups = case
    x, w = array(*x_shape), array(o, x_shape[1] // groups, kh, kw, seed=1)
    kernel = plain_conv(
        x_shape,
        w.shape,
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=groups,
        unit=VECTOR_UNITS[isa],
    )
    check(run(kernel, [x, w], isa=isa), conv_reference(x, w, strides, pads, dilations, groups))


def test_conv_refuses_what_it_does_not_handle() -> None:
    n = api.symbolic_dim("n")
    assert plain_conv((1, 3, 8, 8, 8), (4, 3, 3, 3, 3)) is None
    assert plain_conv((1, 3, n, 8), (4, 3, 3, 3)) is None
    assert plain_conv((1, 3, 8, 8), (4, 2, 3, 3)) is None
    assert plain_conv((1, 3, 2, 2), (4, 3, 3, 3)) is None
    assert plain_conv((1, 4, 8, 8), (5, 2, 3, 3), groups=2) is None


# x, (K, N)
MATMULS = [
    ((1, 512), (512, 1000)),
    ((1, 7), (7, 3)),
    ((5, 40), (40, 50)),
    ((128, 96), (96, 192)),
    ((33, 17), (17, 65)),
    ((3, 64), (64, 16)),
    ((2, 3, 20), (20, 24)),
    ((1, 50, 32), (32, 100)),
    ((2, 1, 4, 30), (30, 31)),
    ((13, 1), (1, 1)),
    ((64,), (64, 48)),
    ((100, 300), (300, 10)),
]


@pytest.mark.parametrize(("x_shape", "w_shape"), MATMULS, ids=str)
def test_matmul(x_shape: Any, w_shape: Any) -> None:
    tirx = api.modules().tirx
    x, w, bias = array(*x_shape), array(*w_shape, seed=1), array(w_shape[1], seed=2)

    def epilogue(acc: Any, index: tuple[Any, ...], extras: tuple[Any, ...]) -> Any:
        return tirx.max(acc + extras[0][index[-1]], tirx.const(0.0, "float32"))

    kernel = matmul(x_shape, w_shape, epilogue=epilogue, extras=[ExtraOperand(bias.shape)], unit=UNIT)
    check(run(kernel, [x, w], [bias]), np.maximum(x.astype(np.float64) @ w + bias, 0))


@pytest.mark.parametrize(("x_shape", "w_shape"), MATMULS[:8], ids=str)
def test_matmul_with_residual_and_transposed_weight(x_shape: Any, w_shape: Any) -> None:
    x, w = array(*x_shape), array(*w_shape, seed=1)
    residual = array(*x_shape[:-1], w_shape[1], seed=2)
    kernel = matmul(
        x_shape,
        w_shape[::-1],
        epilogue=lambda acc, index, extras: acc + extras[0][index],
        extras=[ExtraOperand(residual.shape)],
        unit=UNIT,
        transpose_weight=True,
    )
    check(run(kernel, [x, np.ascontiguousarray(w.T)], [residual]), x.astype(np.float64) @ w + residual)


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("pattern", [("n", 40), ("n", 9, 40), (2, "n", 40), ("n", "m", 40), ("n", 1, 40)])
def test_matmul_with_symbolic_rows(pattern: tuple[Any, ...], n: int) -> None:
    sizes = {"n": n, "m": 11}
    dims = {name: api.symbolic_dim(name) for name in sizes}
    x = array(*[sizes.get(d, d) for d in pattern])
    w = array(40, 50, seed=1)
    residual = array(*x.shape[:-1], 50, seed=2)
    shape = tuple(dims.get(d, d) for d in pattern)
    kernel = matmul(
        shape,
        w.shape,
        epilogue=lambda acc, index, extras: acc + extras[0][index],
        extras=[ExtraOperand((*shape[:-1], 50))],
        unit=UNIT,
    )
    check(run(kernel, [x, w], [residual]), x.astype(np.float64) @ w + residual)


def test_matmul_refuses_what_it_does_not_handle() -> None:
    n = api.symbolic_dim("n")
    assert matmul((4, 5), (6, 7)) is None
    assert matmul((4, n), (6, 7)) is None
    assert matmul((4, 6), (2, 6, 7)) is None
    assert batched_matmul((4, 6), (6, n)) is None
    assert batched_matmul((6,), (6, 7)) is None
    assert batched_matmul((2, 4, 6), (3, 6, 7)) is None


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((12, 128, 64), (12, 64, 128)),
        ((2, 3, 33, 40), (2, 3, 40, 50)),
        ((2, 3, 33, 40), (3, 40, 50)),
        ((2, 1, 5, 40), (1, 3, 40, 50)),
        ((5, 40), (2, 40, 10)),
        ((4, 1, 64), (4, 64, 100)),
        ((7, 9), (9, 3)),
        ((1, 20, 20), (6, 20, 20)),
        ((2, 100, 1), (2, 1, 100)),
        ((2, 17, 33), (2, 33, 1)),
        ((1, 1, 1), (1, 1, 1)),
        ((3, 50, 64), (64, 72)),
    ],
    ids=str,
)
def test_batched_matmul(a_shape: Any, b_shape: Any) -> None:
    tirx = api.modules().tirx
    a, b = array(*a_shape), array(*b_shape, seed=1)
    want = a.astype(np.float64) @ b
    residual = array(*want.shape, seed=2)

    def epilogue(acc: Any, index: tuple[Any, ...], extras: tuple[Any, ...]) -> Any:
        return tirx.max(acc * tirx.const(0.5, "float32") + extras[0][index], tirx.const(0.0, "float32"))

    kernel = batched_matmul(a_shape, b_shape, epilogue=epilogue, extras=[ExtraOperand(residual.shape)], unit=UNIT)
    check(run(kernel, [a, b], [residual]), np.maximum(want * 0.5 + residual, 0))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 13)])
def test_batched_matmul_with_symbolic_dims(n: int, m: int) -> None:
    dn, dm = api.symbolic_dim("n"), api.symbolic_dim("m")
    a, b = array(n, 3, m, 24), array(n, 3, 24, 20, seed=1)
    kernel = batched_matmul((dn, 3, dm, 24), (dn, 3, 24, 20), unit=UNIT)
    check(run(kernel, [a, b]), a.astype(np.float64) @ b)


# (N, C, H, W), kernel, strides, pads, dilations
POOLS = [
    ((1, 64, 112, 112), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((2, 5, 9, 7), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((1, 3, 14, 14), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((1, 3, 33, 35), (3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
    ((1, 4, 20, 50), (5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    ((1, 4, 20, 31), (3, 2), (3, 1), (1, 0, 0, 1), (1, 1)),
    ((1, 10, 7, 7), (7, 7), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 10, 24, 24), (4, 4), (4, 4), (0, 0, 0, 0), (1, 1)),
    ((1, 2, 24, 26), (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    ((1, 2, 64, 64), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((3, 1, 2, 2), (2, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 17, 17, 17), (3, 3), (2, 2), (1, 1, 0, 0), (1, 1)),
]


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_max_pool(case: Any) -> None:
    shape, kernel, strides, pads, dilations = case
    x = array(*shape) - 3.0
    want = patches(x, kernel, strides, pads, dilations, -np.inf).max((-2, -1))
    check(run(max_pool(shape, kernel, strides=strides, pads=pads, dilations=dilations, unit=UNIT), [x]), want)
    x.reshape(-1)[::7] = np.nan
    got = run(max_pool(shape, kernel, strides=strides, pads=pads, dilations=dilations, unit=UNIT), [x])
    np.testing.assert_array_equal(got, patches(x, kernel, strides, pads, dilations, -np.inf).max((-2, -1)))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("case", [c for c in POOLS if c[4] == (1, 1)], ids=str)
def test_average_pool(case: Any, include: bool) -> None:
    tirx = api.modules().tirx
    shape, kernel, strides, pads, dilations = case
    x = array(*shape)
    total = patches(x, kernel, strides, pads, dilations, 0.0).sum((-2, -1))
    ones = patches(np.ones_like(x), kernel, strides, pads, dilations, float(include)).sum((-2, -1))
    got = run(
        average_pool(
            shape,
            kernel,
            strides=strides,
            pads=pads,
            count_include_pad=include,
            epilogue=lambda acc, index, extras: tirx.max(acc, tirx.const(0.0, "float32")),
            unit=UNIT,
        ),
        [x],
    )
    check(got, np.maximum(total / ones, 0))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "out"),
    [(10, 3, 2, 5), (11, 3, 2, 5), (14, 3, 3, 5), (7, 2, 2, 4), (50, 3, 2, 25)],
)
def test_max_pool_with_ceil_mode(size: int, kernel: int, stride: int, out: int) -> None:
    x = array(1, 2, size, size)
    got = run(max_pool(x.shape, (kernel, kernel), strides=(stride, stride), ceil_mode=True, unit=UNIT), [x])
    pads = (0, 0, kernel, kernel)
    want = patches(x, (kernel, kernel), (stride, stride), pads, (1, 1), -np.inf).max((-2, -1))[:, :, :out, :out]
    check(got, want)


@pytest.mark.parametrize(
    "shape", [(1, 512, 7, 7), (2, 20, 9, 5), (1, 3, 33), (1, 2, 3, 4, 5), (2, 64, 56, 56), (1, 1, 1, 1)]
)
def test_global_average_pool(shape: tuple[int, ...]) -> None:
    x = array(*shape) + 1.0
    axes = tuple(range(2, len(shape)))
    check(run(global_average_pool(shape, unit=UNIT), [x]), x.astype(np.float64).mean(axes, keepdims=True))


@pytest.mark.parametrize("n", [1, 5])
def test_pools_with_symbolic_batch(n: int) -> None:
    batch = api.symbolic_dim("n")
    x = array(n, 6, 20, 20)
    want = patches(x, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), -np.inf).max((-2, -1))
    check(run(max_pool((batch, 6, 20, 20), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1), unit=UNIT), [x]), want)
    got = run(global_average_pool((batch, 6, 20, 20), unit=UNIT), [x])
    check(got, x.astype(np.float64).mean((2, 3), keepdims=True))


def test_library_round_trip(tmp_path: Any) -> None:
    batch = api.symbolic_dim("n")
    kernel = matmul((batch, 40), (40, 50), unit=UNIT)
    assert kernel is not None and kernel.packers[1] is not None
    n = api.symbolic_dim("n")
    module = api.single_call_module(kernel.func, [(n, 40), kernel.packed_shapes[1]], (n, 50))
    api.export_library(api.build_module(module, api.cpu_target()), tmp_path / "lib.so")
    loaded = runtime.load_library(tmp_path / "lib.so")
    x, w = array(6, 40), array(40, 50, seed=1)
    aligned = runtime.aligned_empty(x.shape)
    aligned[:] = x
    packed = runtime.to_tensor(kernel.packers[1](w))
    misaligned = np.frombuffer(b"\0" * 4 + x.tobytes(), np.float32, offset=4).reshape(x.shape)
    for given in (aligned, x, misaligned):
        check(runtime.to_numpy(loaded(runtime.to_tensor(given), packed)), x.astype(np.float64) @ w)


def test_tensors_share_aligned_memory() -> None:
    a = runtime.aligned_empty((3, 5))
    a[:] = 1.0
    tensor = runtime.to_tensor(a)
    a[0, 0] = 7.0
    assert tensor.numpy()[0, 0] == 7.0
    assert runtime.is_aligned(a) and not runtime.is_aligned(a[:, 1:])


def _calls_in_assembly(kernel: Kernel | None, pattern: Callable[[str], bool]) -> int:
    assert kernel is not None
    return sum(pattern(line) for line in api.kernel_assembly(kernel.func, api.cpu_target()).splitlines())


@pytest.mark.skipif(not host_isa().startswith("avx512"), reason="counts 512-bit instructions")
def test_conv_is_vectorised_and_keeps_accumulators_in_registers() -> None:
    kernel = plain_conv((1, 64, 56, 56), (64, 64, 3, 3), pads=(1, 1, 1, 1))
    fmas = _calls_in_assembly(kernel, lambda line: "vfmadd" in line and "zmm" in line)
    reloads = _calls_in_assembly(kernel, lambda line: "vfmadd" in line and "rsp" in line)
    assert fmas >= 9 * 20
    assert reloads <= fmas // 10


def test_importing_the_templates_does_not_import_tvm() -> None:
    import subprocess
    import sys

    modules = "intaglio.backends.tvm.api, intaglio.backends.tvm.kernels"
    code = f"import sys; import {modules}; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
