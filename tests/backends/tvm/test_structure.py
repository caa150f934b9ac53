"""Structural, indexed and image ops, convolutions, pools and normalisations against the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends import backend
from intaglio.ir import OPS, Editor, Module, Tensor, evaluate, verify
from intaglio.ir.graph import attributes
from intaglio.ir.types import Float, Int, elem_named, elem_of

CPU = backend("cpu")


def data(shape: Sequence[int], elem: str = "f32", seed: int = 0) -> Any:
    rng = np.random.default_rng([seed, len(shape), *shape])
    if elem[0] in "iu":
        return rng.integers(0, 50, shape).astype(elem_named(elem).dtype)
    return (
        rng.integers(0, 2, shape).astype(bool)
        if elem == "bool"
        else rng.standard_normal(shape).astype(elem_named(elem).dtype)
    )


def ints(values: Any, elem: str = "i64") -> Any:
    return np.array(values, dtype=elem_named(elem).dtype)


def check(op: str, *arrays: Any, constant: Sequence[int] = (), tolerance: float = 1e-5, **attrs: Any) -> None:
    """One op; operands are graph inputs, those in `constant` constants, None absent."""
    e = Editor()
    arrays = tuple(None if a is None else np.asarray(a) for a in arrays)
    operands: list[Any] = []
    given: list[Any] = []
    for i, a in enumerate(arrays):
        if a is None:
            operands.append(None)
        elif i in constant:
            operands.append(e.constant(a, f"c{i}"))
        else:
            operands.append(e.input(f"x{i}", Tensor(a.shape, elem_of(a.dtype))))
            given.append(a)
    for i, v in enumerate(e.apply(op, operands, attributes(OPS[op].normal(attrs))).outputs):
        e.output(v, f"y{i}")
    graph = e.freeze()
    verify(graph)
    got = CPU.build(Module("m", {"main": graph}), CPU.options()).run(given)
    for g, w in zip(got, evaluate(graph, given), strict=True):
        assert g.dtype == w.dtype
        assert g.shape == w.shape
        if w.dtype.kind in "iub":
            np.testing.assert_array_equal(g, w)
        else:
            bound = {"float16": 2e-3, "bfloat16": 2e-2}.get(w.dtype.name, tolerance)
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=bound, atol=bound)


# --- structure ------------------------------------------------------------------------------------------------------


def test_shapes() -> None:
    x = data((2, 3, 4))
    check("shape.reshape", x, shape=(4, 6))
    check("shape.reshape", data((2, 6), "f8e4m3fn"), shape=(3, 4))
    check("shape.reshape", data((0, 3, 4)), shape=(3, 4, 0))
    check("shape.squeeze", data((1, 3, 1, 2)), axes=(0, -2))
    check("shape.unsqueeze", x, axes=(0, 4))
    check("shape.expand", data((3, 1)), shape=(2, 3, 4))
    check("shape.tile", x, repeats=(1, 2, 3))
    check("shape.reverse", x, axes=(0, -1))
    for perm in ((2, 0, 1), (0, 2, 1), (1, 0, 2)):
        check("shape.transpose", data((2, 3, 37)), perm=perm)
    for elem in ("i8", "f16", "bf16", "bool", "f64", "u4", "f8e5m2"):
        check("shape.transpose", data((3, 5), "u4" if elem == "u4" else elem), perm=(1, 0))


def test_slices() -> None:
    x = data((5, 6, 7))
    check("shape.slice", x, starts=(1, -3), stops=(4, 1 << 40), axes=(0, 2))
    check("shape.slice", x, starts=(5, -1), stops=(-(1 << 40), -100), axes=(0, 1), steps=(-2, -1))
    check("shape.slice", x, starts=(3,), stops=(3,))
    check("shape.split", x, axis=1, sizes=(1, 3, 2))
    check("shape.concat", x, data((5, 2, 7), seed=1), data((5, 1, 7), seed=2), axis=1)
    check("shape.concat", x, data((5, 6, 2)), axis=-1)
    check("shape.concat", data((0, 3)), data((2, 3)), axis=0)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(mode: str) -> None:
    x = data((3, 4, 20))
    check("shape.pad", x, pads=(1, 0, 2, 0, 2, 1), mode=mode)
    check("shape.pad", x, pads=(-1, 0, 2, 0, -2, -3), mode=mode)
    if mode == "constant":
        check("shape.pad", x, np.float32(7.5), pads=(0, 1, 0, 1, 0, 0))
        check("shape.pad", x, np.float32(7.5), pads=(0, 1, 0, 1, 0, 0), constant=(1,))
        check("shape.pad", data((0, 2)), np.float32(1), pads=(1, 0, 1, 0))


def test_made_up() -> None:
    check("shape.iota", shape=(3, 4), axis=1, elem=Int("i64"))
    check("shape.iota", shape=(5,), elem=Float("f16"))
    check("shape.full", np.float32(3), shape=(2, 5))
    check("shape.extents", data((2, 3)))
    check("shape.trilu", data((2, 4, 5)))
    check("shape.trilu", data((4, 5)), ints(-1), upper=False)
    check("shape.trilu", data((4, 5), "i32"), ints(2), upper=True)


def test_gathers() -> None:
    x = data((5, 6, 4))
    check("shape.gather", x, ints([[0, -1], [4, 2]]), axis=0)
    check("shape.gather", x, ints([3, -6], "i32"), axis=1)
    check("shape.gather", x, ints(2), axis=-1)
    check("shape.gather_elements", x, np.random.default_rng(0).integers(-5, 5, (3, 6, 4)), axis=0)
    check("shape.gather_nd", x, ints([[0, 1], [-1, 5]]))
    check("shape.gather_nd", x, ints([[[1], [2]], [[0], [-1]], [[0], [0]], [[1], [1]], [[3], [3]]]), batch=1)
    check("shape.reverse_sequence", x, ints([1, 3, 5, 0, 2, 4]))
    check("shape.reverse_sequence", x, ints([1, 6, 0, 3, 2]), time_axis=1, batch_axis=0)
    check("shape.one_hot", ints([[0, -1], [2, 9]]), data((2,)), depth=4)
    check("shape.one_hot", data((3,), "f32"), ints([5, 7], "i32"), depth=3, axis=0)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatters(reduction: str) -> None:
    rng = np.random.default_rng(0)
    x, updates = data((4, 5)), data((3, 5), seed=1)
    rows = (
        np.stack([rng.permutation(4)[:3] for _ in range(5)], axis=1)
        if reduction == "none"
        else rng.integers(-4, 4, (3, 5))
    )
    check("shape.scatter_elements", x, rows, updates, axis=0, reduction=reduction)
    check("shape.scatter_elements", data((4, 5), "i32"), rows, data((3, 5), "i32"), axis=0, reduction=reduction)
    places = ints([[1], [3]] if reduction == "none" else [[1], [1]])
    check("shape.scatter_nd", x, places, data((2, 5)), reduction=reduction)
    check("shape.scatter_nd", x, ints([[0, 0], [3, -1]]), data((2,)), reduction=reduction)


# --- products and convolutions --------------------------------------------------------------------------------------

MATRICES = [
    ((5, 7), (7, 9)), ((7,), (7, 9)), ((5, 7), (7,)), ((7,), (7,)), ((3, 5, 7), (7, 20)),
    ((2, 1, 5, 7), (3, 7, 4)), ((2, 3, 33, 17), (2, 3, 17, 40)), ((1, 3), (3, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), MATRICES, ids=str)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check("nn.matmul", data(a), data(b, seed=1))
    check("nn.matmul", data(a), data(b, seed=1), constant=(1,))


def test_matmul_dtypes() -> None:
    for elem in ("f64", "f16", "bf16", "i32", "i64", "u8"):
        check("nn.matmul", data((3, 5), elem), data((5, 18), elem))


CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 9, 8), (4, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 4, 9, 20), (6, 2, 3, 2), {"g": 2, "strides": (2, 1), "dilations": (1, 2), "pads": (1, 0, 2, 1)}),
    ((1, 3, 15), (5, 3, 4), {"strides": (2,)}),
    ((1, 2, 5, 6, 18), (3, 2, 2, 3, 2), {"pads": (1, 0, 1, 0, 1, 0)}),
    ((2, 4, 6, 6), (4, 1, 3, 3), {"g": 4, "pads": (1, 1, 1, 1)}),
]


@pytest.mark.parametrize(("x", "w", "attrs"), CONVS, ids=str)
def test_conv(x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> None:
    bias = data((w[0],), seed=2)
    check("nn.conv", data(x), data(w, seed=1), **attrs)
    check("nn.conv", data(x), data(w, seed=1), bias, constant=(1, 2), **attrs)
    check("nn.conv", data(x), data(w, seed=1), bias, constant=(1,), **attrs)
    check("nn.conv", data(x, "f16"), data(w, "f16", 1), **attrs)
    check("nn.conv", data(x, "i32"), data(w, "i32", 1), **attrs)


def test_conv_transpose() -> None:
    x, w = data((2, 4, 5, 6)), data((4, 3, 3, 2), seed=1)
    check("nn.conv_transpose", x, w)
    check(
        "nn.conv_transpose", x, w, data((3,)), strides=(2, 3), pads=(1, 0, 0, 1), output_pads=(1, 0), dilations=(1, 2)
    )
    check("nn.conv_transpose", x, data((4, 3, 3, 2)), g=2, strides=(2, 2))
    check("nn.conv_transpose", data((1, 2, 7)), data((2, 3, 4)), strides=(3,))


def test_col2im_and_det() -> None:
    check("nn.col2im", data((2, 12, 12)), image=(5, 5), block=(2, 2), strides=(1, 2), pads=(0, 0, 0, 1))
    check("nn.col2im", data((1, 4, 9)), image=(5, 5), block=(2, 2), dilations=(2, 2))
    for n in (1, 2, 3, 7):
        check("nn.det", data((3, n, n)), tolerance=1e-4)
    check("nn.det", np.array([[0.0, 1.0], [0.0, 2.0]], np.float32))


def test_deform_conv() -> None:
    x, w = data((2, 4, 6, 6)), data((3, 4, 3, 3), seed=1)
    offset = data((2, 18, 4, 4), seed=2)
    check("nn.deform_conv", x, w, offset)
    check(
        "nn.deform_conv", x, data((4, 2, 3, 3)), data((2, 36, 6, 6)), data((4,)), data((2, 18, 6, 6)),
        g=2, offset_groups=2, pads=(1, 1, 1, 1),
    )  # fmt: skip


# --- pools ----------------------------------------------------------------------------------------------------------

POOLS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 9, 18), {"kernel": (2, 3)}),
    ((1, 2, 9, 8), {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 2, 10, 9), {"kernel": (3, 2), "strides": (2, 2), "ceil": True}),
    ((1, 2, 9, 9), {"kernel": (2, 2), "dilations": (2, 3), "pads": (1, 0, 0, 1)}),
    ((1, 2, 9), {"kernel": (3,), "strides": (2,), "pads": (1, 1), "ceil": True}),
    ((1, 2, 4, 5, 6), {"kernel": (2, 2, 2)}),
    ((1, 4, 7, 7), {"kernel": (7, 7)}),
]


@pytest.mark.parametrize(("shape", "attrs"), POOLS, ids=str)
def test_pools(shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    check("nn.max_pool", data(shape), **attrs)
    check("nn.max_pool", data(shape, "u8"), **attrs)
    check("nn.max_pool_indices", data(shape), **attrs)
    check("nn.max_pool_indices", data(shape), column_major=True, **attrs)
    check("nn.avg_pool", data(shape), **attrs)
    check("nn.avg_pool", data(shape), count_pads=True, **attrs)
    check("nn.lp_pool", data(shape), p=3, **attrs)
    check("nn.lp_pool", data(shape), **attrs)


def test_max_unpool() -> None:
    places = np.array([[[[5, 7], [13, 15]]]], np.int64)
    check("nn.max_unpool", data((1, 1, 2, 2)), places, shape=(1, 1, 4, 4))


# --- normalisation --------------------------------------------------------------------------------------------------


def test_batch_norm() -> None:
    x = data((2, 3, 4, 5))
    p = [data((3,), seed=i) for i in range(3)] + [np.abs(data((3,), seed=4))]
    check("nn.batch_norm", x, *p)
    check("nn.batch_norm", x, *p, constant=(1, 2, 3, 4), eps=1e-3)
    check("nn.batch_norm", data((2, 3)), *p, constant=(1, 2, 3, 4))


@pytest.mark.parametrize("op", ["nn.softmax", "nn.log_softmax", "nn.hardmax"])
def test_softmax(op: str) -> None:
    for axis in (0, 1, -1):
        check(op, data((3, 5, 19)) * 10, axis=axis)
    check(op, data((3, 5), "f64"), axis=1)
    check(op, data((3, 5), "f16"), axis=1)


def test_layer_norm_and_lrn() -> None:
    x = data((2, 5, 19))
    check("nn.layer_norm", x, data((19,)), data((19,), seed=1))
    check("nn.layer_norm", x, data((5, 19)), axis=1, eps=1e-3)
    check("nn.layer_norm", data((2, 7), "f16"), data((7,), "f16"))
    check("nn.lrn", data((2, 6, 3, 5)), size=3, alpha=0.1, beta=0.5, bias=2.0)
    check("nn.lrn", data((1, 4, 5)), size=4)


# --- images ---------------------------------------------------------------------------------------------------------


def test_resize() -> None:
    x = data((1, 2, 5, 6))
    up = {"shape": (1, 2, 10, 9), "scales": (1.0, 1.0, 2.0, 1.5)}
    for mode in ("nearest", "linear", "cubic"):
        for rule in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
            check("nn.resize", x, mode=mode, coordinates=rule, **up)
    down = {"shape": (1, 2, 3, 4), "scales": (1.0, 1.0, 0.6, 4 / 6)}
    check("nn.resize", x, mode="linear", antialias=True, **down)
    check("nn.resize", x, mode="cubic", exclude_outside=True, **down)
    check("nn.resize", data((1, 2, 5, 6), "u8"), mode="linear", **up)
    check("nn.resize", data((1, 2, 5, 6), "i8"), mode="nearest", nearest="floor", **up)
    roi = (0.0, 0.0, 0.2, 0.3, 1.0, 1.0, 1.4, 0.7)
    check("nn.resize", x, mode="linear", coordinates="tf_crop_and_resize", roi=roi, extrapolation=9.0, **up)


def test_grid_sample() -> None:
    x = data((2, 3, 5, 6))
    grid = np.random.default_rng(0).uniform(-1.4, 1.4, (2, 4, 7, 2)).astype(np.float32)
    for mode in ("nearest", "linear", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            check("nn.grid_sample", x, grid, mode=mode, padding=padding, align_corners=mode != "linear", tolerance=1e-4)
    volume = np.random.default_rng(1).uniform(-1, 1, (1, 2, 3, 4, 3)).astype(np.float32)
    check("nn.grid_sample", data((1, 2, 4, 5, 6)), volume)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mode: str) -> None:
    rois = np.array([[0, 0, 5, 5], [1.5, 2.5, 7, 9], [-2, -1, 3, 20]], np.float32)
    for sampling, half in ((2, True), (0, True), (0, False)):
        check(
            "nn.roi_align", data((2, 3, 10, 8)), rois, ints([0, 1, 1]),
            shape=(3, 2), mode=mode, sampling=sampling, scale=0.8, half_pixel=half,
        )  # fmt: skip
