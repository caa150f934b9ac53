"""Random integer graphs on sequences [N, T, D]: products of two activations, attention, softmax, norms, signs."""

from __future__ import annotations

from typing import Any

import numpy as np

from intaglio.ir import Graph, Tensor, Value, dim
from intaglio.ir.types import Affine, Float, Int
from intaglio.passes.definition import Context
from intaglio.passes.integer import integer

from .growing import Choices

F32 = Float("f32")


class Sequences(Choices):
    """Grows a network between casts from random choices; pass `integer` makes integers of it."""

    def graph(self) -> tuple[Graph, list[Any]]:
        """A graph in integers, and its inputs: numbers, and a mask that is added to scores."""
        batch = int(self.pick(1, 2))
        self.heads, self.depth = int(self.pick(1, 2, 3)), int(self.pick(3, 8, 16, 20, 32))
        count = int(self.rng.integers(1, 70))
        self.batch: Any = dim("N") if self.chance(0.2) else batch
        self.tokens: Any = dim("T") if self.chance(0.15) else count
        shape = (self.batch, self.tokens, self.heads * self.depth)
        x = self.e.input("x", Tensor(shape, "f32"))
        self.mask = self.e.input("mask", Tensor((self.batch, 1, 1, self.tokens), "f32"))
        y = self.coded(x)
        steps = [self.linear, self.attention, self.attention, self.softmax, self.norm, self.square]
        if isinstance(self.batch, int) and isinstance(self.tokens, int):
            steps.append(self.signs)
        for _ in range(int(self.rng.integers(1, 4))):
            y = self.pick(*steps)(y)
        self.e.output(y, "y")
        graph = integer(self.e.freeze(), Context())
        data = (self.rng.standard_normal((batch, count, self.heads * self.depth)) * self.pick(0.5, 2.0)).astype(
            np.float32
        )
        mask = np.where(self.rng.random((batch, 1, 1, count)) < 0.3, np.float32(self.pick(-1e9, -np.inf)), 0)
        mask[..., 0] = 0
        return graph, [data, mask.astype(np.float32)]

    def coded(self, x: Value) -> Value:
        """x rounded to 8 bits."""
        store = Int(self.pick("u8", "i8"))
        low, high = store.range
        zero = int(self.pick(0, low, high, self.rng.integers(low, high + 1)))
        to = Affine(store, F32, float(np.float32(self.rng.uniform(0.01, 0.05))), zero)
        return self.e.emit("quant.dequantize", self.e.emit("quant.quantize", x, to=to), to=F32)

    def weight(self, *shape: int) -> Value:
        elem = Affine(Int("i8"), F32, 0.002, 0)
        codes = self.rng.integers(-128, 128, shape).astype(np.int8)
        value = self.e.constant(codes, type=Tensor(shape, elem))
        return self.e.emit("quant.dequantize", value, to=F32)

    def linear(self, x: Value) -> Value:
        width = x.type.shape[-1]
        y = self.e.emit("nn.matmul", x, self.weight(width, self.heads * self.depth))
        if self.chance(0.5):
            bias = self.rng.standard_normal(self.heads * self.depth).astype(np.float32)
            y = self.e.emit("math.add", y, self.e.constant(bias))
        return self.coded(self.e.emit("nn.gelu", y) if self.chance(0.3) else y)

    def split(self, x: Value, perm: tuple[int, ...]) -> Value:
        y = self.e.emit("shape.reshape", x, shape=(self.batch, self.tokens, self.heads, self.depth))
        return self.e.emit("shape.transpose", y, perm=perm)

    def attention(self, x: Value) -> Value:
        """Scores may be rounded or not, scaled or not, with a mask or not."""
        q, k, v = (self.linear(x) for _ in range(3))
        q, k, v = self.split(q, (0, 2, 1, 3)), self.split(k, (0, 2, 3, 1)), self.split(v, (0, 2, 1, 3))
        scores = self.e.emit("nn.matmul", q, k)
        if self.chance(0.4):
            scores = self.coded(scores)
        if self.chance(0.5):
            scores = self.e.emit("math.mul", scores, self.e.constant(np.float32(self.rng.uniform(0.1, 3))))
        if self.chance(0.5):
            scores = self.e.emit("math.add", scores, self.mask)
        elif self.chance(0.3):
            scores = self.coded(scores)
        weights = self.coded(self.e.emit("nn.softmax", scores, axis=-1))
        y = self.e.emit("nn.matmul", weights, v)
        if self.chance(0.8):
            y = self.coded(y)
        y = self.e.emit("shape.transpose", y, perm=(0, 2, 1, 3))
        y = self.e.emit("shape.reshape", y, shape=(self.batch, self.tokens, self.heads * self.depth))
        return self.coded(y)

    def square(self, x: Value) -> Value:
        """A product of two activations and no softmax: x x^T x."""
        turned = self.e.emit("shape.transpose", self.linear(x), perm=(0, 2, 1))
        inner = self.coded(self.e.emit("nn.matmul", x, turned))
        return self.coded(self.e.emit("nn.matmul", inner, x))

    def softmax(self, x: Value) -> Value:
        return self.coded(self.e.emit("nn.softmax", x, axis=int(self.pick(1, 2))))

    def norm(self, x: Value) -> Value:
        width = x.type.shape[-1]
        gain, bias = (self.e.constant(self.rng.standard_normal(width).astype(np.float32)) for _ in range(2))
        return self.coded(self.e.emit("nn.layer_norm", x, gain, bias, axis=-1, eps=1e-5))

    def signs(self, x: Value) -> Value:
        """One bit of the codes, times signs."""
        q = self.e.emit("quant.quantize", x, to=Affine(Int("u8"), F32, 0.02, 100))
        raw = self.e.emit("quant.store", q, to=Int("u8"))
        bits = self.e.emit("quant.pack_bits", raw, bit=int(self.rng.integers(8)))
        depth, width = x.type.shape[-1], self.heads * self.depth
        assert isinstance(depth, int)
        words = self.rng.integers(-(1 << 31), 1 << 31, (width, -(-depth // 32))).astype(np.int32)
        if depth % 32:
            words[:, -1] &= np.int32((1 << depth % 32) - 1)
        sums = self.e.emit("quant.sign_matmul", bits, self.e.constant(words), depth=depth)
        real = self.e.emit("math.mul", self.e.emit("math.cast", sums, to=F32), self.e.constant(np.float32(0.0625)))
        return self.coded(real)
