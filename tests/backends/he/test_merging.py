"""Linear layers after one another: one layer, the same function, fewer levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends.he import noise
from intaglio.backends.he.compile import compile_graph
from intaglio.backends.he.levels import place
from intaglio.backends.he.network import product
from intaglio.backends.he.ranges import held
from intaglio.backends.he.reading import read_network
from intaglio.ir import Graph, evaluate
from intaglio.ir.convolutions import Conv, after, plus

from . import models
from .test_compile import image, run

# --- convolutions -----------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn, source: tuple[int, int, int], seed: int, like: Conv | None = None) -> Conv:
    """One on images of that shape; with `like`, of the same strides and result."""
    few, small = st.integers(1, 3), st.integers(0, 2)
    window = [draw(few), draw(few)]
    strides = (draw(st.integers(1, 2)), draw(st.integers(1, 2))) if like is None else like.strides
    pads = (draw(small), draw(small))
    if like is None:
        ends = (draw(small), draw(small))
        size = [
            max(1, (n + a + b - k) // s + 1)
            for n, a, b, k, s in zip(source[1:], pads, ends, window, strides, strict=True)
        ]
        result = (draw(few), *size)
    else:
        result = like.result
    weights = np.random.default_rng(seed).normal(size=(result[0], source[0], *window))
    return Conv.plain(source, result, weights, strides, pads)  # type: ignore[arg-type]


@given(st.data(), st.integers(1, 8), st.integers(1, 8), st.integers(0, 1 << 20))
@settings(max_examples=60)
def test_three_convolutions_are_one(data: st.DataObject, tall: int, wide: int, seed: int) -> None:
    """Strided, padded, of any window; whichever two are joined first."""
    a = data.draw(convolutions((2, tall, wide), seed))
    b = data.draw(convolutions(a.result, seed + 1))
    c = data.draw(convolutions(b.result, seed + 2))
    x = np.random.default_rng(seed).normal(size=a.source)
    np.testing.assert_allclose(after(b, a)(x), b(a(x)), atol=1e-9)
    np.testing.assert_allclose(after(c, after(b, a))(x), c(b(a(x))), atol=1e-8)
    np.testing.assert_allclose(after(after(c, b), a)(x), c(b(a(x))), atol=1e-8)
    assert after(b, a).weights.size == a.size(b)
    d = data.draw(convolutions(a.source, seed + 3, like=a))
    np.testing.assert_allclose(plus(a, d)(x), a(x) + d(x), atol=1e-9)


def test_what_two_padded_convolutions_look_like() -> None:
    one = Conv.plain((4, 8, 8), (4, 8, 8), np.ones((4, 4, 3, 3)), (1, 1), (1, 1))
    two = after(one, one)
    assert two.weights.shape == (3, 3, 4, 4, 5, 5) and two.pads == (2, 2)
    assert two.rows == (0, 1, 1, 1, 1, 1, 1, 2)
    half = Conv.plain((4, 8, 8), (8, 4, 4), np.ones((8, 4, 3, 3)), (2, 2), (1, 1))
    again = Conv.plain((8, 4, 4), (8, 4, 4), np.ones((8, 8, 3, 3)), (1, 1), (1, 1))
    assert after(again, half).weights.shape[-2:] == (7, 7) and after(again, half).strides == (2, 2)


# --- networks ---------------------------------------------------------------------------------------------------------


def chain(stride: int = 1) -> Graph:
    """Two convolutions without an activation between, in a residual block."""
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25)
    start = b.x
    b.conv(4 * stride, 3, stride, 1).conv(4 * stride, 3, 1, 1)
    skip = start if stride == 1 else b.conv(8, 1, stride, of=start)
    b.x = b.g.emit("math.add", b.x, skip)
    return b.poly(0.05, 0.5, 0.25).dense(10).graph()


def outside() -> Graph:
    """Blocks without activations after their sums: what follows goes into the operands of the sum."""
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25)
    for _ in range(2):
        start = b.x
        b.conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25).conv(4, 3, 1, 1)
        b.x = b.g.emit("math.add", b.x, start)
        factor = b.g.constant(np.linspace(0.5, 1, 4, dtype=np.float32)[:, None, None])
        b.x = b.g.emit("math.mul", b.x, factor)
        b.x = b.g.emit("math.add", b.x, b.g.constant(np.linspace(-1, 1, 4, dtype=np.float32)[:, None, None]))
    return b.dense(10).graph()


def factors() -> Graph:
    """Factors of channels before and after a grouped convolution, pooling, a matrix after it."""
    b = models.Builder((4, 8, 8)).conv(4, 3, 1, 1, 2)
    for _ in range(2):
        b.x = b.g.emit("math.mul", b.x, b.g.constant(np.linspace(0.5, 2, 4, dtype=np.float32)[:, None, None]))
        b.conv(4, 3, 1, 1, 2)
    b.x = b.g.emit("math.mul", b.g.constant(np.float32(0.5)), b.x)
    b.x = b.g.emit("nn.avg_pool", b.x, kernel=(2, 2), strides=(2, 2))
    b.dense(6)
    b.x = b.g.emit("math.mul", b.x, b.g.constant(np.linspace(1, 2, 6, dtype=np.float32)))
    return b.square().graph()


@pytest.mark.parametrize(
    ("make", "levels"),
    [(chain, 5), (lambda: chain(2), 5), (outside, 7), (factors, 2)],
    ids=["chain", "strided", "outside", "factors"],
)
def test_a_merged_network_is_the_same_function(make: Any, levels: int) -> None:
    graph = make()
    network = read_network(graph)
    assert place(network).needed == levels
    shape = tuple(int(d) for d in graph.inputs[0].type.shape[1:])
    x = image(shape)
    (want,) = evaluate(graph, [x])
    np.testing.assert_allclose(
        network.sign * held(network, x)[network.output] + network.offset, want.reshape(-1), rtol=2e-5, atol=1e-5
    )
    c = compile_graph(graph, "sim", ring=1 << 12, insecure=True)
    got, sealed = run(c, x)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max() + noise.bound(sealed.variance))


def test_a_merged_layer_knows_its_borders() -> None:
    (layer,) = [one for one in read_network(chain()).layers if one.rows]
    assert layer.weights is not None and layer.weights.shape == (3, 3, 4, 4, 5, 5)
    x = np.random.default_rng(0).normal(size=layer.geometry.source)  # type: ignore[union-attr]
    whole = Conv(
        x.shape,
        layer.shape,
        layer.weights,
        layer.rows,
        layer.columns,
        (1, 1),
        (2, 2),  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(product(layer, x), whole(x).reshape(-1))


def test_layers_of_one_value_are_one() -> None:
    """A value, a layer of it, their sum and a layer of that: one 5x5."""
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25)
    start = b.x
    b.x = b.g.emit("math.add", start, b.conv(4, 3, 1, 1, of=start))
    network = read_network(b.conv(4, 3, 1, 1).square().dense(10).graph())
    assert [one.kind for one in network.layers] == ["input", "linear", "square", "linear", "square", "linear"]
    assert network.layers[3].rows


def test_nothing_is_copied_where_no_level_is_gained() -> None:
    """The sum is on the short way: two convolutions of its two operands would be more work for nothing."""
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25)
    first = b.x
    long = b.conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25).x
    second = b.x
    for _ in range(3):
        long = b.conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25).x
    b.x = b.g.emit("math.add", first, second)
    short = b.conv(4, 3, 1, 1).x
    b.x = b.g.emit("math.add", long, short)
    network = read_network(b.square().dense(10).graph())
    assert sum(one.kind == "sum" for one in network.layers) == 2
    assert sum(one.kind == "linear" for one in network.layers) == 7
