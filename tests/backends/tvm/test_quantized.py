"""Integer graphs on the CPU are what the interpreter says, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

from intaglio.backends.tvm.isa import ISA_NAMES, host_runs
from intaglio.ir import Editor, Graph, Tensor, Value, dim
from intaglio.ir.ops.quant_integer import fixed_point
from intaglio.ir.types import Affine, Float, Int

from .growing import Choices, check
from .sequences import Sequences

ISAS = [isa for isa in ISA_NAMES if host_runs(isa)]


# --- random graphs --------------------------------------------------------------------------------------------------


class Grower(Choices):
    """Grows an integer graph on an image from random choices."""

    def graph(self) -> tuple[Graph, Any]:
        elem = self.pick("u8", "i8")
        batch, channels = self.pick(1, 2), self.pick(1, 3, 4, 8, 16, 20, 32)
        size = [int(self.rng.integers(4, 12)) for _ in range(2)]
        symbolic = self.chance(0.2)
        x = self.e.input("x", Tensor((dim("N") if symbolic else batch, channels, *size), elem))
        images = [x]
        for _ in range(int(self.rng.integers(2, 7))):
            step = self.pick(
                self.conv, self.conv, self.conv, self.residual, self.pool, self.table, self.clamp, self.join
            )
            images.append(step(images))
        y = images[-1]
        self.e.output(y, "image")
        if self.chance(0.5):
            self.e.output(self.head(y), "y")
        if self.chance(0.2):
            self.e.output(images[-2], "inner") if images[-2] is not x else None
        graph = self.e.freeze()
        low, high = Int(elem).range
        data = np.where(
            self.rng.random((batch, channels, *size)) < 0.3,
            self.rng.choice([low, high], (batch, channels, *size)),
            self.rng.integers(low, high + 1, (batch, channels, *size)),
        )
        return graph, data.astype(Int(elem).dtype)

    def zero(self, v: Value) -> int:
        low, high = v.type.elem.range  # type: ignore[union-attr]
        return int(self.pick(0, low, high, self.rng.integers(low, high + 1)))

    def conv(self, images: list[Value]) -> Value:
        x = self.pick(*images[-2:])
        _, channels, height, width = x.type.shape
        kernel = [
            int(min(self.rng.integers(1, 6) if self.chance(0.5) else self.pick(1, 3), d)) for d in (height, width)
        ]
        outputs, groups, inputs = int(self.pick(1, 7, 16, 24, 32)), 1, channels
        if self.chance(0.3):
            outputs = groups = channels
            inputs = 1
        elif channels % 16 == 0 and channels > 16 and self.chance(0.3):
            groups, inputs, outputs = channels // 16, 16, channels
        w = self.rng.integers(-128, 128, (outputs, inputs, *kernel))
        w = np.where(self.rng.random(w.shape) < 0.2, self.rng.choice([-128, 127], w.shape), w).astype(np.int8)
        attrs: dict[str, Any] = {"g": groups, "zero": self.zero(x)}
        attrs["strides"] = (int(self.pick(1, 1, 2)), int(self.pick(1, 1, 2)))
        attrs["pads"] = tuple(int(self.rng.integers(0, kernel[i % 2] // 2 + 1)) for i in range(4))
        bias = self.rng.integers(-100_000, 100_000, outputs).astype(np.int32)
        given = [self.e.constant(bias)] if self.chance(0.7) else []
        return self.rescaled(self.e.emit("quant.conv", x, self.e.constant(w), *given, **attrs), outputs, 1, inputs)

    def rescaled(self, sums: Value, channels: int, axis: int, depth: int) -> Value:
        count = channels if self.chance(0.6) else None
        factor = np.exp2(self.rng.uniform(-14, -5 if self.chance(0.8) else 1, count)) / depth**0.5
        multiplier, shift = fixed_point(factor)
        to = self.pick("u8", "i8")
        low, high = Int(to).range
        zero = int(self.rng.integers(low, high + 1))
        bounds: dict[str, Any] = {"low": zero} if self.chance(0.5) else {}
        if self.chance(0.3):
            bounds["high"] = int(self.rng.integers(zero, high + 1))
        operands = [self.e.constant(multiplier), self.e.constant(shift)]
        return self.e.emit("quant.requantize", sums, *operands, to=Int(to), zero=zero, axis=axis, **bounds)

    def residual(self, images: list[Value]) -> Value:
        x = self.conv(images)
        same = [v for v in images if v.type.shape == x.type.shape]
        other = self.pick(*same) if same else self.pick(x, self.table([x]))
        shift = int(self.rng.integers(8, 20))
        a, b = (int(self.rng.integers(0, 1 << shift + 1)) for _ in range(2))
        zeros = {"a_zero": self.zero(x), "b_zero": self.zero(other)}
        to = self.pick("u8", "i8")
        return self.e.emit(
            "quant.add",
            x,
            other,
            to=Int(to),
            a_multiplier=a,
            b_multiplier=b,
            shift=shift,
            zero=self.pick(0, 5),
            **zeros,
        )

    def pool(self, images: list[Value]) -> Value:
        x = images[-1]
        kernel = tuple(int(min(self.pick(2, 3), d)) for d in x.type.shape[2:])
        pads = tuple(int(self.rng.integers(0, kernel[i % 2] // 2 + 1)) for i in range(4))
        attrs = {"kernel": kernel, "strides": (int(self.pick(1, 2)), int(self.pick(1, 2))), "pads": pads}
        if self.chance(0.5):
            return self.e.emit("nn.max_pool", x, **attrs)
        sums = self.e.emit("quant.sum_pool", x, zero=self.zero(x), **attrs)
        return self.rescaled(sums, x.type.shape[1], 1, 1)

    def table(self, images: list[Value]) -> Value:
        to = self.pick(np.uint8, np.int8)
        return self.e.emit("quant.table", images[-1], self.e.constant(self.rng.integers(0, 100, 256).astype(to)))

    def clamp(self, images: list[Value]) -> Value:
        x = images[-1]
        return self.e.emit("math.maximum", x, self.e.constant(np.array(3, x.type.elem.dtype)))  # type: ignore[union-attr]

    def join(self, images: list[Value]) -> Value:
        x = images[-1]
        same = [v for v in images if v.type.shape[2:] == x.type.shape[2:] and v.type.elem is x.type.elem]  # type: ignore[union-attr]
        return self.e.emit("shape.concat", *same[:3], axis=1)

    def head(self, x: Value) -> Value:
        _, channels, height, width = x.type.shape
        sums = self.e.emit("quant.sum_pool", x, kernel=(height, width), zero=self.zero(x))
        y = self.e.emit("shape.squeeze", self.rescaled(sums, channels, 1, height * width), axes=(2, 3))
        w = self.rng.integers(-128, 128, (channels, 10)).astype(np.int8)
        bias = [self.e.constant(self.rng.integers(-999, 999, 10).astype(np.int32))] if self.chance(0.5) else []
        y = self.e.emit("quant.matmul", y, self.e.constant(w), *bias, a_zero=self.zero(y))
        if self.chance(0.5):
            return self.rescaled(y, 10, 1, channels)
        return self.e.emit("math.mul", self.e.emit("math.cast", y, to=Float("f32")), self.e.constant(np.float32(0.01)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", range(8))
def test_random_graphs(isa: str, seed: int) -> None:
    check(*grown(seed + 1000 * ISAS.index(isa)), isa=isa)


def grown(seed: int) -> tuple[Graph, list[Any]]:
    graph, x = Grower(seed).graph()
    return graph, [x]


@pytest.mark.deep
@pytest.mark.parametrize("part", range(20))
def test_many_random_graphs(part: int) -> None:
    for seed in range(50 * part, 50 * part + 50):
        graph = grown(10_000 + seed) if seed % 2 else Sequences(10_000 + seed).graph()
        try:
            check(*graph, isa=ISAS[seed // 2 % 2 and seed // 2 % len(ISAS)])
        except AssertionError as e:
            raise AssertionError(f"seed {10_000 + seed}") from e


def test_loops_of_our_own() -> None:
    for seed in range(3):
        check(*grown(seed), exact=True)


# --- single ops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 99))
def test_requantize_for_every_shift(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    e = Editor()
    x = e.input("x", Tensor((3, 62, 37), "i32"))
    shift = np.arange(1, 63).astype(np.int32)
    multiplier = rng.integers(1 << 30, 1 << 31, 62).astype(np.int32)
    for rows in (slice(0, 62), slice(31, 62), slice(32, 62)):  # whatever the shift; those with the fast form
        part = e.emit("shape.slice", x, axes=(1,), starts=(rows.start,), stops=(rows.stop,))
        scales = [e.constant(multiplier[rows]), e.constant(shift[rows])]
        for to, zero, low in (("u8", 7, 9), ("i8", -128, None)):
            e.output(e.emit("quant.requantize", part, *scales, to=Int(to), zero=zero, low=low))
    for one in (5, 40, 33):
        scales = [e.constant(multiplier[one]), e.constant(shift[one])]
        e.output(e.emit("quant.requantize", x, *scales, to=Int("i32"), low=-1000, high=1000))
    data = rng.integers(-(1 << 31), 1 << 31, (3, 62, 37))
    ties = (rng.integers(-200, 200, data.shape) * 2 + 1) << np.minimum(shift[None, :, None] >> 1, 20)
    data = np.where(rng.random(data.shape) < 0.5, data, ties)
    data[0, :, :2] = [-(1 << 31), (1 << 31) - 1]
    check(e.freeze(), [data.astype(np.int32)], isa)


@pytest.mark.parametrize("to", ["u8", "i8", "u16", "i16", "i32"])
@pytest.mark.parametrize("op", ["quant.matmul", "quant.conv"])
def test_results_of_every_width(op: str, to: str) -> None:
    rng, e = np.random.default_rng(0), Editor()
    shape, weight = ((8, 32), (32, 16)) if op == "quant.matmul" else ((1, 16, 8, 8), (16, 16, 3, 3))
    x = e.input("x", Tensor(shape, "u8"))
    sums = e.emit(op, x, e.constant(rng.integers(-127, 128, weight).astype(np.int8)))
    shift = 38 if Int(to).bits == 8 else 30  # sums spread over the range of the result
    scale = [e.constant(np.int32(1 << 30)), e.constant(np.int32(shift))]
    e.output(e.emit("quant.requantize", sums, *scale, to=Int(to)), "y")
    check(e.freeze(), [rng.integers(0, 256, shape).astype(np.uint8)])


@pytest.mark.parametrize("isa", ISAS)
def test_ties_in_registers_and_out(isa: str) -> None:
    """Halves go up where sums are rescaled in registers, too."""
    e = Editor()
    x = e.input("x", Tensor((40, 4), "i8"))
    w = e.constant(np.repeat(np.array([[8], [16], [4], [0]], np.int8), 40, 1))
    multiplier, shift = fixed_point(np.full(40, 1 / 8))
    y = e.emit("quant.matmul", x, w)
    e.output(e.emit("quant.requantize", y, e.constant(multiplier), e.constant(shift), to=Int("i8"), zero=-1))
    e.output(e.emit("quant.requantize", y, e.constant(multiplier[0]), e.constant(shift[0] + 2), to=Int("u8")))
    data = np.random.default_rng(0).integers(-128, 128, (40, 4)).astype(np.int8)
    check(e.freeze(), [data], isa)


def test_sums_that_are_read_twice() -> None:
    """Sums are rescaled in registers only where nothing else needs them."""
    e = Editor()
    x = e.input("x", Tensor((40, 16), "u8"))
    w = e.constant(np.random.default_rng(0).integers(-128, 128, (16, 32)).astype(np.int8))
    y = e.emit("quant.matmul", x, w)
    scaled = e.emit("quant.requantize", y, *map(e.constant, fixed_point(0.001)), to=Int("i32"))
    e.output(e.emit("math.add", scaled, y))
    check(e.freeze(), [np.random.default_rng(1).integers(0, 256, (40, 16)).astype(np.uint8)])


def test_products_of_activations_and_odd_ranks() -> None:
    rng = np.random.default_rng(0)
    e = Editor()
    a, b = e.input("a", Tensor((2, 5, 7), "u8")), e.input("b", Tensor((2, 7, 3), "i8"))
    e.output(e.emit("quant.matmul", a, b, a_zero=130, b_zero=-4))
    x = e.input("x", Tensor((1, 3, 4, 5, 6), "u8"))
    w = e.constant(rng.integers(-128, 128, (4, 3, 2, 2, 2)).astype(np.int8))
    y = e.emit("quant.conv", x, w, pads=(1, 0, 1, 0, 1, 1), zero=9)
    e.output(e.emit("quant.sum_pool", e.emit("math.cast", y, to=Int("i8")), kernel=(2, 2, 2), pads=(1,) * 6, zero=3))
    table = e.constant(rng.standard_normal(256).astype(np.float32))
    e.output(e.emit("quant.table", a, table))
    inputs = [
        rng.integers(0, 256, (2, 5, 7)),
        rng.integers(-128, 128, (2, 7, 3)),
        rng.integers(0, 256, (1, 3, 4, 5, 6)),
    ]
    check(e.freeze(), [i.astype(t) for i, t in zip(inputs, (np.uint8, np.int8, np.uint8), strict=True)])


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 20])
def test_images_are_quantised_into_blocks(channels: int) -> None:
    rng = np.random.default_rng(channels)
    e = Editor()
    x = e.input("x", Tensor((2, channels, 9, 19), "f32"))
    q = e.emit("quant.quantize", x, to=Affine(Int("u8"), Float("f32"), 0.03, 131))
    raw = e.emit("quant.store", q, to=Int("u8"))
    w = e.constant(rng.integers(-128, 128, (20, channels, 3, 3)).astype(np.int8))
    multiplier, shift = fixed_point(0.001)
    y = e.emit("quant.conv", raw, w, pads=(1, 1, 1, 1), zero=131, strides=(2, 1))
    y = e.emit("quant.requantize", y, e.constant(multiplier), e.constant(shift), to=Int("i8"))
    e.output(y)
    check(e.freeze(), [(rng.standard_normal((2, channels, 9, 19)) * 2).astype(np.float32)])
