"""Convolution, pooling, elementwise and copying kernels on blocked tensors, against float64 NumPy.

Results are compared in memory, so that the zeros of halos and of lanes beyond the last channel count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest

pytest.importorskip("tvm")

from hypothesis import HealthCheck, assume, given, settings

from intaglio.backends.tvm import api, runtime
from intaglio.backends.tvm.isa import host_runs
from intaglio.backends.tvm.kernels import VECTOR_UNITS, ExtraOperand, Kernel
from intaglio.backends.tvm.kernels.blocked.conv import conv_blocked
from intaglio.backends.tvm.kernels.blocked.depthwise import depthwise_conv
from intaglio.backends.tvm.kernels.blocked.elementwise import elementwise_blocked
from intaglio.backends.tvm.kernels.blocked.pointwise import pointwise_conv
from intaglio.backends.tvm.kernels.blocked.pool import (
    average_pool_blocked,
    global_average_pool_blocked,
    max_pool_blocked,
)
from intaglio.backends.tvm.kernels.blocked.relayout import concat_blocked, relayout
from intaglio.backends.tvm.kernels.blocked.transforms import transforms
from intaglio.backends.tvm.kernels.blocked.window import needed_halo
from intaglio.backends.tvm.kernels.blocked.winograd import winograd_conv
from intaglio.backends.tvm.kernels.blocked.winograd_plan import candidates, ranked_winograd
from intaglio.backends.tvm.kernels.conv_call import ConvCall, conv_call
from intaglio.backends.tvm.kernels.conv_plan import ConvShape
from intaglio.backends.tvm.kernels.geometry import Window, make_window
from intaglio.backends.tvm.kernels.layout import NO_HALO, PLAIN, Blocked, Halo, Layout

Array = np.ndarray[Any, np.dtype[Any]]
TOLERANCE = 1e-5
ISAS = [isa for isa in ("avx512", "avx2", "baseline") if host_runs(isa)]


def made(template: Callable[[ConvCall], Kernel | None], *shapes: Any, **options: Any) -> Kernel | None:
    """The kernel of a convolution in ONNX's terms."""
    call = conv_call(*shapes, **options)
    return None if call is None else template(call)


FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def in_memory(x: Array, layout: Layout) -> Array:
    """[N, C, H, W] as it lies in memory."""
    if not isinstance(layout, Blocked):
        return np.ascontiguousarray(x)
    n, c, h, w = x.shape
    blocks, halo = layout.blocks(c), layout.halo
    full = np.zeros((n, blocks * layout.lanes, h, w), x.dtype)
    full[:, :c] = x
    edges = ((0, 0), (0, 0), (halo.top, halo.bottom), (halo.left, halo.right), (0, 0))
    return np.ascontiguousarray(np.pad(full.reshape(n, blocks, layout.lanes, h, w).transpose(0, 1, 3, 4, 2), edges))


def check(kernel: Kernel | None, inputs: Sequence[Array], extras: Sequence[Array], want: Array, isa: str) -> None:
    """Run on inputs as they lie in memory, weights apart, and compare the whole result in memory."""
    assert kernel is not None
    packed = [pack(a) if pack else a for pack, a in zip(kernel.packers, inputs, strict=True)]
    for a, shape in zip(packed, kernel.packed_shapes, strict=True):
        assert all(not isinstance(d, int) or size == d for size, d in zip(a.shape, shape, strict=True))
    out = runtime.aligned_empty(want.shape)
    out[:] = np.nan
    tensor = runtime.to_tensor(out)
    api.build_kernel(kernel.func, api.cpu_target(isa))(*[runtime.to_tensor(a) for a in [*packed, *extras]], tensor)
    scale = max(1.0, float(np.nanmax(np.abs(want))))  # sums are of order one, and may cancel
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE * scale)
    np.testing.assert_array_equal(out[want == 0], 0)


def relu_of_sum(acc: Any, index: tuple[Any, ...], extras: tuple[Any, ...], layout: Layout) -> Any:
    """max(acc + bias + residual, 0): extras are a bias of the channels and a residual in some layout."""
    tirx = api.modules().tirx
    return tirx.max(acc + extras[0][index[1]] + extras[1][layout.index(index)], tirx.const(0.0, "float32"))


class Case:
    """A kernel's surroundings: instruction set, layouts, batch, bias and residual."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.isa = draw(st.sampled_from(ISAS))
        self.unit = VECTOR_UNITS[self.isa]
        self.n = draw(st.integers(1, 2))
        self.batch = api.symbolic_dim("n") if draw(st.booleans()) else self.n
        self.out_layout = self.layout(draw)
        self.residual_layout = self.layout(draw)

    def layout(self, draw: st.DrawFn, least: Halo = NO_HALO) -> Layout:
        if least == NO_HALO and draw(st.integers(0, 3)) == 0:
            return PLAIN
        return self.blocked(draw, least)

    def blocked(self, draw: st.DrawFn, least: Halo = NO_HALO) -> Blocked:
        sides = Halo(*(draw(st.sampled_from([0, 0, 1, 2])) for _ in range(4)))
        return Blocked(self.unit.lanes, least.union(sides))

    def epilogue(self, shape: Sequence[int]) -> dict[str, Any]:
        """The options for a kernel whose result has this logical shape."""
        layout = self.residual_layout
        return {
            "out_layout": self.out_layout,
            "unit": self.unit,
            "epilogue": lambda acc, index, extras: relu_of_sum(acc, index, extras, layout),
            "extras": [ExtraOperand((shape[1],)), ExtraOperand(layout.shape((self.batch, *shape[1:])))],
        }

    def check(self, kernel: Kernel | None, inputs: Sequence[Array], want: Array) -> None:
        """`want` is what comes before the epilogue."""
        bias, residual = random(2, want.shape[1]), random(3, *want.shape)
        want = np.maximum(want + bias[:, None, None] + residual, 0)
        extras = [bias, in_memory(residual, self.residual_layout)]
        check(kernel, inputs, extras, in_memory(want, self.out_layout), self.isa)


cases = st.composite(Case)()
sizes = st.integers(1, 19)


def patches(x: Array, kernel: Any, strides: Any, pads: Any, dilations: Any, fill: float) -> Array:
    """[N, C, OH, OW, KH, KW] in float64; the last window of an axis may reach into `fill` as far as it wants."""
    window = make_window(x.shape[2:], kernel, strides, pads, dilations)
    assert window is not None
    padded = np.pad(
        x.astype(np.float64), ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill
    )
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    return views[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


@FEW
@given(
    st.data(), cases, st.integers(1, 40), st.integers(1, 70), sizes, sizes, st.sampled_from([(1, 1), (2, 2), (1, 3)])
)
def test_pointwise(data: Any, case: Case, c: int, o: int, h: int, w: int, strides: tuple[int, int]) -> None:
    x_layout = case.layout(data.draw)
    x, weight = random(0, case.n, c, h, w), random(1, o, c, 1, 1) / np.float32(c**0.5)
    want = np.einsum("nchw,oc->nohw", x[:, :, :: strides[0], :: strides[1]].astype(np.float64), weight[:, :, 0, 0])
    kernel = made(
        pointwise_conv,
        (case.batch, c, h, w),
        weight.shape,
        x_layout=x_layout,
        strides=strides,
        **case.epilogue(want.shape),
    )
    case.check(kernel, [in_memory(x, x_layout), weight], want)


@pytest.mark.parametrize(("c", "o", "size"), [(24, 144, 28), (144, 24, 56), (576, 160, 7), (64, 1280, 7)])
@pytest.mark.parametrize("halo", [0, 1])
def test_pointwise_of_real_networks(c: int, o: int, size: int, halo: int) -> None:
    unit, layout = VECTOR_UNITS[ISAS[0]], Blocked(VECTOR_UNITS[ISAS[0]].lanes)
    out_layout = Blocked(unit.lanes, Halo(halo, halo, halo, halo))
    x, weight = random(0, 1, c, size, size), random(1, o, c, 1, 1) / np.float32(c**0.5)
    want = np.einsum("nchw,oc->nohw", x.astype(np.float64), weight[:, :, 0, 0])
    kernel = made(pointwise_conv, x.shape, weight.shape, x_layout=layout, out_layout=out_layout, unit=unit)
    check(kernel, [in_memory(x, layout), weight], [], in_memory(want, out_layout), ISAS[0])


@st.composite
def windows(draw: st.DrawFn, dilated: bool, ceil: bool) -> dict[str, Any]:
    """Attributes of a window, and the image `size` it slides over; pads are smaller than the kernel."""
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (2, 2), (5, 5), (1, 3), (7, 7)]))
    strides = draw(st.sampled_from([(1, 1), (2, 2), (2, 1), (3, 2)]))
    dilations = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3)])) if dilated else (1, 1)
    pads = [draw(st.integers(0, k // 2)) for k in (*kernel, *kernel)]
    size = [(k - 1) * d + draw(st.integers(1, 20)) for k, d in zip(kernel, dilations, strict=True)]
    options = {"ceil_mode": True} if ceil and draw(st.booleans()) else {}
    return {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads, "size": size, **options}


@FEW
@given(st.data(), cases, windows(dilated=True, ceil=False), st.integers(1, 40))
def test_depthwise(data: Any, case: Case, window: dict[str, Any], c: int) -> None:
    kernel_size, size = window.pop("kernel"), window.pop("size")
    geometry = make_window(size, kernel_size, **window)
    assert geometry is not None
    x_layout = case.blocked(data.draw, needed_halo(geometry))
    x, weight = random(0, case.n, c, *size), random(1, c, 1, *kernel_size)
    want = np.einsum(
        "nchwij,cij->nchw",
        patches(x, kernel_size, window["strides"], window["pads"], window["dilations"], 0.0),
        weight[:, 0].astype(np.float64),
    )
    options = {**window, **case.epilogue(want.shape)}
    kernel = made(depthwise_conv, (case.batch, c, *size), weight.shape, x_layout=x_layout, groups=c, **options)
    case.check(kernel, [in_memory(x, x_layout), weight], want)


def conv_reference(x: Array, weight: Array, window: dict[str, Any], groups: int = 1) -> Array:
    views = patches(x, weight.shape[2:], window["strides"], window["pads"], window["dilations"], 0.0)
    inputs, outputs = x.shape[1] // groups, weight.shape[0] // groups
    parts = []
    for g in range(groups):
        part = views[:, g * inputs : (g + 1) * inputs], weight[g * outputs : (g + 1) * outputs].astype(np.float64)
        parts.append(np.einsum("nchwij,ocij->nohw", *part, optimize=True))
    return np.concatenate(parts, axis=1)


@FEW
@given(st.data(), cases, windows(dilated=True, ceil=False), st.integers(1, 40), st.integers(1, 70))
def test_direct_convolution(data: Any, case: Case, window: dict[str, Any], c: int, o: int) -> None:
    """Blocked and plain images (those of a first layer), groups of whole blocks."""
    kernel_size, size = window.pop("kernel"), window.pop("size")
    geometry = make_window(size, kernel_size, **window)
    assert geometry is not None
    groups = data.draw(st.sampled_from([1, 1, 1, 2]))
    if groups > 1:
        c, o = case.unit.lanes, 2 * case.unit.lanes
    plain = groups == 1 and data.draw(st.booleans())
    x_layout = PLAIN if plain else case.blocked(data.draw, needed_halo(geometry))
    x = random(0, case.n, c * groups, *size)
    weight = random(1, o * groups, c, *kernel_size) / np.float32((c * kernel_size[0] * kernel_size[1]) ** 0.5)
    want = conv_reference(x, weight, window, groups)
    kernel = made(
        conv_blocked,
        (case.batch, *x.shape[1:]),
        weight.shape,
        x_layout=x_layout,
        groups=groups,
        allow_winograd=False,
        **{**window, **case.epilogue(want.shape)},
    )
    case.check(kernel, [in_memory(x, x_layout), weight], want)


@FEW
@given(st.data(), cases, st.integers(2, 30), st.integers(2, 30), st.integers(1, 40), st.integers(1, 70))
def test_winograd(data: Any, case: Case, h: int, w: int, c: int, o: int) -> None:
    """Every plan there is for a shape may be drawn, not only the one that would be chosen."""
    pads = [data.draw(st.integers(0, 1)) for _ in range(4)]
    assume(h + pads[0] + pads[2] >= 4 and w + pads[1] + pads[3] >= 4)
    window = {"strides": (1, 1), "pads": pads, "dilations": (1, 1)}
    geometry = make_window((h, w), (3, 3), **window)
    assert geometry is not None
    shape = ConvShape(1, c, o, geometry)
    plans = list(candidates(shape, case.unit))
    assume(plans)
    plan = data.draw(st.sampled_from(plans))
    x_layout = case.blocked(data.draw, needed_halo(geometry))
    x, weight = random(0, case.n, c, h, w), random(1, o, c, 3, 3) / np.float32((9 * c) ** 0.5)
    want = conv_reference(x, weight, window)
    options = case.epilogue(want.shape)
    call = conv_call((case.batch, *x.shape[1:]), weight.shape, x_layout=x_layout, **window, **options)
    assert call is not None
    kernel = winograd_conv(call, plan)
    case.check(kernel, [in_memory(x, x_layout), weight], want)


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_transforms_are_exact(m: int) -> None:
    forward, weight, back = transforms(m)
    signal, taps = random(0, m + 2).astype(np.float64), random(1, 3).astype(np.float64)
    got = back @ ((forward @ signal) * (weight @ taps))
    np.testing.assert_allclose(got, np.correlate(signal, taps, "valid"), rtol=1e-12)


@pytest.mark.parametrize(("c", "size"), [(64, 56), (128, 28), (256, 14), (16, 32), (64, 8)])
def test_convolutions_of_real_networks(c: int, size: int) -> None:
    unit = VECTOR_UNITS[ISAS[0]]
    layout = Blocked(unit.lanes, Halo(1, 1, 1, 1))
    window = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    geometry = make_window((size, size), (3, 3), **window)
    assert geometry is not None
    assert ranked_winograd(ConvShape(1, c, c, geometry), unit)
    x, weight = random(0, 1, c, size, size), random(1, c, c, 3, 3) / np.float32((9 * c) ** 0.5)
    want = conv_reference(x, weight, window)
    kernel = made(conv_blocked, x.shape, weight.shape, x_layout=layout, out_layout=layout, unit=unit, **window)
    check(kernel, [in_memory(x, layout), weight], [], in_memory(want, layout), ISAS[0])


def pool_window(x: Array, attrs: dict[str, Any]) -> Window:
    options = {k: v for k, v in attrs.items() if k != "size"}
    window = make_window(x.shape[2:], **options)
    assert window is not None
    return window


def pool_reference(x: Array, attrs: dict[str, Any], include: bool | None) -> Array:
    """Max (`include` None) or average pooling as ONNX defines it, window by window in float64."""
    window = pool_window(x, attrs)
    out = np.empty((*x.shape[:2], *window.out_spatial))
    for i in range(window.rows.out):
        for j in range(window.columns.out):
            taps = []
            counted = 1
            for axis, at in ((window.rows, i), (window.columns, j)):
                start = at * axis.stride - axis.before
                places = range(start, start + axis.reach + 1, axis.dilation)
                taps.append([p for p in places if 0 <= p < axis.size])
                counted *= sum(p < axis.size + axis.after for p in places)
            values = x[:, :, taps[0]][:, :, :, taps[1]].astype(np.float64)
            if include is None:
                out[:, :, i, j] = values.max((2, 3))
            else:
                out[:, :, i, j] = values.sum((2, 3)) / (counted if include else len(taps[0]) * len(taps[1]))
    return out


@FEW
@given(st.data(), cases, windows(dilated=False, ceil=True), st.integers(1, 40))
def test_max_pool(data: Any, case: Case, window: dict[str, Any], c: int) -> None:
    x = random(0, case.n, c, *window["size"]) - 3
    want = pool_reference(x, window, None)
    x_layout = case.blocked(data.draw)
    attrs = {k: v for k, v in window.items() if k != "size"}
    kernel = max_pool_blocked((case.batch, *x.shape[1:]), x_layout=x_layout, **attrs, **case.epilogue(want.shape))
    case.check(kernel, [in_memory(x, x_layout)], want)


@FEW
@given(st.data(), cases, windows(dilated=True, ceil=True), st.integers(1, 40), st.booleans())
def test_average_pool(data: Any, case: Case, window: dict[str, Any], c: int, include: bool) -> None:
    x = random(0, case.n, c, *window.pop("size"))
    want = pool_reference(x, window, include)
    x_layout = case.blocked(data.draw, needed_halo(pool_window(x, window)))
    kernel = average_pool_blocked(
        (case.batch, *x.shape[1:]), x_layout=x_layout, count_include_pad=include, **window, **case.epilogue(want.shape)
    )
    case.check(kernel, [in_memory(x, x_layout)], want)


@pytest.mark.parametrize("at", [0, 3, 5])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_max_pool_keeps_nan_and_infinity(at: int, sign: float) -> None:
    unit = VECTOR_UNITS[ISAS[0]]
    x = random(0, 1, 5, 6, 20)
    x[0, 0, at, at] = np.copysign(np.nan, sign)
    x[0, 1] = -np.inf
    x[0, 2, at, 1] = np.inf
    want = patches(x, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), -np.inf).max((-2, -1))
    kernel = max_pool_blocked(
        x.shape, (3, 3), x_layout=Blocked(unit.lanes), out_layout=PLAIN, strides=(2, 2), pads=(1, 1, 1, 1), unit=unit
    )
    assert kernel is not None
    out = runtime.aligned_empty(want.shape)
    tensor = runtime.to_tensor(out)
    api.build_kernel(kernel.func, api.cpu_target(ISAS[0]))(runtime.to_tensor(in_memory(x, Blocked(unit.lanes))), tensor)
    np.testing.assert_array_equal(out, want.astype(np.float32))


@FEW
@given(st.data(), cases, st.integers(1, 40), sizes, sizes)
def test_global_average_pool(data: Any, case: Case, c: int, h: int, w: int) -> None:
    x = random(0, case.n, c, h, w) + 1
    x_layout = case.blocked(data.draw)
    want = x.astype(np.float64).mean((2, 3), keepdims=True)
    kernel = global_average_pool_blocked((case.batch, c, h, w), x_layout=x_layout, **case.epilogue(want.shape))
    case.check(kernel, [in_memory(x, x_layout)], want)


@FEW
@given(st.data(), cases, st.integers(1, 40), sizes, sizes)
def test_elementwise(data: Any, case: Case, c: int, h: int, w: int) -> None:
    x, x_layout = random(0, case.n, c, h, w), case.blocked(data.draw)
    kernel = elementwise_blocked((case.batch, c, h, w), x_layout=x_layout, **case.epilogue(x.shape))
    case.check(kernel, [in_memory(x, x_layout)], x.astype(np.float64))


@FEW
@given(st.data(), cases, st.lists(st.integers(1, 3), max_size=3), st.integers(1, 40), sizes, sizes)
def test_concat(data: Any, case: Case, blocks: list[int], last: int, h: int, w: int) -> None:
    channels = [b * case.unit.lanes for b in blocks] + [last]
    layouts = [case.blocked(data.draw) for _ in channels]
    parts = [random(i, case.n, c, h, w) for i, c in enumerate(channels)]
    want = np.concatenate(parts, axis=1).astype(np.float64)
    kernel = concat_blocked([(case.batch, c, h, w) for c in channels], x_layouts=layouts, **case.epilogue(want.shape))
    case.check(kernel, [in_memory(x, layout) for x, layout in zip(parts, layouts, strict=True)], want)


@FEW
@given(st.data(), cases, st.integers(1, 40), sizes, sizes)
def test_relayout(data: Any, case: Case, c: int, h: int, w: int) -> None:
    x, x_layout = random(0, case.n, c, h, w), case.layout(data.draw)
    kernel = relayout((case.batch, c, h, w), x_layout=x_layout, out_layout=case.out_layout, unit=case.unit)
    if x_layout is PLAIN and case.out_layout is PLAIN:
        assert kernel is None
    else:
        check(kernel, [in_memory(x, x_layout)], [], in_memory(x, case.out_layout), case.isa)


def test_what_is_refused() -> None:
    unit, blocked = VECTOR_UNITS["avx512"], Blocked(16)
    n = api.symbolic_dim("n")
    options: dict[str, Any] = {"x_layout": blocked, "out_layout": blocked, "unit": unit}
    assert made(pointwise_conv, (1, 8, n, 5), (4, 8, 1, 1), **options) is None
    assert made(pointwise_conv, (1, 8, 5, 5), (4, 8, 3, 3), **options) is None
    assert made(pointwise_conv, (1, 8, 5, 5), (4, 8, 1, 1), pads=(1, 1, 1, 1), **options) is None
    assert made(pointwise_conv, (1, 8, 5, 5), (4, 4, 1, 1), groups=2, **options) is None
    assert made(depthwise_conv, (1, 8, 5, 5), (16, 1, 3, 3), groups=8, **options) is None
    assert made(depthwise_conv, (1, 8, 5, 5), (8, 1, 3, 3), groups=8, pads=(1, 1, 1, 1), **options) is None
    assert average_pool_blocked((1, 8, 5, 5), (3, 3), pads=(1, 1, 1, 1), **options) is None
    assert max_pool_blocked((1, 8, 5, 5), (3, 3), pads=(1, 1, 1, 1), dilations=(2, 2), **options) is None
    assert max_pool_blocked((1, 8, 50, 50), (15, 15), **options) is None
    assert concat_blocked([(1, 8, 5, 5), (1, 16, 5, 5)], x_layouts=[blocked] * 2, out_layout=blocked, unit=unit) is None
    plain: dict[str, Any] = {**options, "x_layout": PLAIN}
    assert made(depthwise_conv, (1, 8, 5, 5), (8, 1, 3, 3), groups=8, **plain) is None
    assert max_pool_blocked((1, 8, 5, 5), (3, 3), **plain) is None
    assert global_average_pool_blocked((1, 8, 5, 5), **plain) is None
    assert elementwise_blocked((1, 8, 5, 5), **plain) is None
