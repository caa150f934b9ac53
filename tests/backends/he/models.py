"""Small and real networks for the tests of the compiler, with random weights."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from intaglio.ir import Editor, Graph, Tensor


class Builder:
    """Layers after one another; `g` is the editor, `x` the last value."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.g, self.random = Editor(name="main"), np.random.default_rng(seed)
        self.x = self.g.input("x", Tensor((1, *shape), "f32"))

    def weights(self, *shape: int) -> Any:
        fan_in = int(np.prod(shape[1:]))
        return self.g.constant((self.random.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32))

    def dense(self, n: int) -> Builder:
        self.flat()
        w = self.weights(n, int(self.x.type.shape[-1])).node.constant.array.T
        self.x = self.g.emit("nn.matmul", self.x, self.g.constant(np.ascontiguousarray(w)))
        self.x = self.g.emit("math.add", self.x, self.g.constant(self.random.normal(size=n).astype(np.float32) / 8))
        return self

    def conv(self, maps: int, k: int, stride: int = 1, pad: int = 0, groups: int = 1, of: Any = None) -> Any:
        x = self.x if of is None else of
        w = self.weights(maps, int(x.type.shape[1]) // groups, k, k)
        b = self.g.constant(self.random.normal(size=maps).astype(np.float32) / 8)
        y = self.g.emit("nn.conv", x, w, b, strides=(stride, stride), pads=(pad,) * 4, g=groups)
        if of is None:
            self.x = y
            return self
        return y

    def flat(self) -> Builder:
        n = int(np.prod([int(d) for d in self.x.type.shape]))
        if len(self.x.type.shape) > 2:
            self.x = self.g.emit("shape.reshape", self.x, shape=(1, n))
        return self

    def square(self) -> Builder:
        self.x = self.g.emit("math.mul", self.x, self.x)
        return self

    def poly(self, *coeffs: float) -> Builder:
        self.x = self.g.emit("approx.poly", self.x, coeffs=coeffs)
        return self

    def residual(self, maps: int, stride: int = 1, coeffs: tuple[float, ...] = (0.05, 0.5, 0.25)) -> Builder:
        start = self.x
        self.conv(maps, 3, stride, 1).poly(*coeffs).conv(maps, 3, 1, 1)
        skip = start if stride == 1 else self.conv(maps, 1, stride, of=start)
        self.x = self.g.emit("math.add", self.x, skip)
        return self.poly(*coeffs)

    def graph(self) -> Graph:
        self.g.output(self.x, "y")
        return self.g.freeze()


@functools.cache
def mlp() -> Graph:
    return Builder((1, 28, 28)).dense(128).square().dense(128).square().dense(10).graph()


@functools.cache
def lola() -> Graph:
    return Builder((1, 28, 28)).conv(5, 5, 2, 2).square().dense(100).square().dense(10).graph()


@functools.cache
def lola_of_orion() -> Graph:
    """LoLA as Orion has it: 2 x 2 convolutions."""
    return Builder((1, 28, 28)).conv(5, 2, 2).square().dense(100).square().dense(10).graph()


@functools.cache
def lenet() -> Graph:
    b = Builder((1, 28, 28)).conv(32, 5, 2, 2).square().conv(64, 5, 2, 2).square()
    return b.dense(512).square().dense(10).graph()


@functools.cache
def small(degree: int = 2) -> Graph:
    """A residual network on 8 x 8 images: every kind of layer, and nothing slow."""
    coeffs = {
        2: (0.05, 0.5, 0.25),
        4: (0.05, 0.5, 0.25, 0.02, -0.03),
        8: (0.05, 0.5, 0.2, 0.01, -0.02, 0.01, 0.0, 0.001, 0.002),
    }
    b = Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(*coeffs[degree]).residual(4, 1, coeffs[degree])
    return b.residual(8, 2, coeffs[degree]).dense(10).graph()
