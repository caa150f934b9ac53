"""Integer graphs of transformers and of work on rows, for tests of programs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from intaglio.ir import Graph, Tensor
from intaglio.ir.edit import Editor
from intaglio.ir.graph import Value
from intaglio.ir.ops.quant_integer import fixed_point
from intaglio.ir.types import Int

__all__ = ["attention", "drawn_rows", "inputs_of"]

I32, I64, U8 = Int("i32"), Int("i64"), Int("u8")


def attention(tokens: int, width: int, heads: int, seed: int = 0) -> Graph:
    """Attention with a mask, its output product and a layer norm of the sum with what came in, all of integers."""
    rng = np.random.default_rng(seed)
    e = Editor()
    x = e.input("x", Tensor((1, tokens, width), "u8"))
    mask = e.input("mask", Tensor((1, 1, 1, tokens), "i32"))
    depth = width // heads

    def product(v: Value, columns: int, a_zero: int, factor: float, to: Int = U8, zero: int = 0) -> Value:
        w = e.constant(rng.integers(-127, 128, (v.type.shape[-1], columns)).astype(np.int8))
        bias = e.constant(rng.integers(-500, 500, columns).astype(np.int32))
        factors = fixed_point(factor * rng.uniform(0.5, 1.5, columns))
        sums = e.emit("quant.matmul", v, w, bias, a_zero=a_zero)
        return e.emit("quant.requantize", sums, *map(e.constant, factors), to=to, axis=2, zero=zero)

    def scaled(v: Value, factor: float, to: Int = U8, zero: int = 0) -> Value:
        return e.emit("quant.requantize", v, *map(e.constant, fixed_point(factor)), to=to, zero=zero)

    def heads_of(v: Value, perm: tuple[int, ...]) -> Value:
        return e.emit("shape.transpose", e.emit("shape.reshape", v, shape=(1, tokens, heads, depth)), perm=perm)

    small = 0.02 / width**0.5
    q = heads_of(product(x, width, 120, small, zero=128), (0, 2, 1, 3))
    k = heads_of(product(x, width, 120, small, zero=125), (0, 2, 3, 1))
    v = heads_of(product(x, width, 120, small, zero=131), (0, 2, 1, 3))
    scores = scaled(e.emit("quant.matmul", q, k, a_zero=128, b_zero=125), 0.05 / depth**0.5, I32)
    scores = e.emit("math.add", scores, mask)
    below = e.emit("math.sub", e.emit("math.reduce_max", scores, axes=(3,)), scores)
    powers = np.rint(np.exp(-np.arange(256) / 16) * (1 << 15)).astype(np.int32)
    power = e.emit("quant.table", below, e.constant(powers), first=0)
    total = e.emit("math.reduce_sum", power, axes=(3,))
    half = e.emit("math.shift_right", total, e.constant(np.int32(1)))
    share = e.emit("math.mul", power, e.constant(np.int32(1 << 14)))
    share = scaled(e.emit("math.div", e.emit("math.add", share, half), total), 1 / 64)
    mixed = scaled(e.emit("quant.matmul", share, v, b_zero=131), 1 / 256, zero=127)
    joined = e.emit("shape.reshape", e.emit("shape.transpose", mixed, perm=(0, 2, 1, 3)), shape=(1, tokens, width))
    y = product(joined, width, 127, 10 * small, I32)
    wide = scaled(e.emit("math.cast", x, to=I32), 16.0, I32)
    y = e.emit("quant.add", y, wide, to=I32, a_multiplier=256, b_multiplier=250, shift=8, b_zero=16 * 120)
    e.output(norm(e, y, width), "y")
    e.output(y, "sum")
    return e.freeze()


def norm(e: Editor, x: Value, width: int) -> Value:
    """A layer norm of rows of i32, to codes."""
    axis = x.type.rank - 1
    sums = e.emit("math.reduce_sum", x, axes=(axis,))
    apart = e.emit("math.sub", e.emit("math.mul", x, e.constant(np.int32(width))), sums)
    wide = e.emit("math.cast", apart, to=I64)
    squares = e.emit("math.reduce_sum", e.emit("math.mul", wide, wide), axes=(axis,))
    mean = e.emit("math.add", e.emit("math.div", squares, e.constant(np.int64(width))), e.constant(np.int64(1)))
    root = e.emit("quant.isqrt", mean)
    signs = np.where(np.arange(width) % 3, 1, -1).astype(np.int64) << 12
    found = e.emit("math.cast", e.emit("math.div", e.emit("math.mul", wide, e.constant(signs)), root), to=I32)
    factors = fixed_point(np.linspace(0.004, 0.012, width))
    return e.emit("quant.requantize", found, *map(e.constant, factors), to=U8, axis=axis, zero=130)


def drawn_rows(seed: int) -> Graph:
    """Any ops on rows after each other: operands of the whole shape, one a row, one a column, one for all."""
    rng = random.Random(seed)
    values = np.random.default_rng(seed)
    e = Editor()
    lead = tuple(rng.randint(1, 5) for _ in range(rng.choice([1, 2, 3])))
    length = rng.randint(1, 40)
    shape = (*lead, length)
    kinds = ["u8", "i8", "i16", "i32"]
    pool = [e.input(f"x{i}", Tensor(shape, rng.choice(kinds))) for i in range(2)]
    pool.append(e.input("row", Tensor((*lead, 1), "i32")))
    pool.append(e.input("column", Tensor((length,), "i32")))
    start = len(pool)
    for _ in range(rng.randint(3, 12)):
        v = rng.choice(pool)
        elem: Any = v.type.elem
        op = rng.choice(OPS)
        if op == "math.cast":
            made = e.emit(op, v, to=Int(rng.choice(["i8", "u8", "i16", "u16", "i32", "i64"])))
        elif op == "quant.isqrt":
            made = e.emit(op, v)
        elif op == "quant.table":
            entries = rng.randint(1, 300)
            table = values.integers(-(1 << 20), 1 << 20, entries).astype(np.int32)
            made = e.emit(op, v, e.constant(table), first=rng.randint(-200, 10))
        elif op == "quant.requantize":
            count = v.type.shape[-1]
            many = values.uniform(0.001, 3, count) if rng.random() < 0.5 else rng.uniform(0.001, 3)
            to = Int(rng.choice(["u8", "i8", "i16", "i32"]))
            made = e.emit(
                op, v, *map(e.constant, fixed_point(many)), to=to, axis=v.type.rank - 1, zero=rng.randint(0, 9)
            )
        elif op in ("math.reduce_sum", "math.reduce_max", "math.reduce_min"):
            made = e.emit(op, v, axes=(v.type.rank - 1,))
        elif op == "quant.add":
            to = Int(rng.choice(["u8", "i32"]))
            numbers = {"a_multiplier": rng.randint(1, 500), "b_multiplier": rng.randint(-500, 500)}
            other = rng.choice([u for u in pool if fits(u, v)])
            made = e.emit(op, v, other, to=to, shift=rng.randint(1, 20), b_zero=rng.randint(-9, 9), **numbers)
        else:
            others = [u for u in pool if u.type.elem is elem and fits(u, v)]
            scalar = e.constant(
                np.array(rng.randint(0, 5) if op == "math.shift_right" else rng.randint(-9, 9)).astype(elem.dtype)
            )
            other = scalar if op == "math.shift_right" else rng.choice([*others, scalar])
            made = e.emit(op, *((v, other) if rng.random() < 0.7 or op == "math.shift_right" else (other, v)))
        pool.append(made)
    made_values = pool[start:]
    for i, v in enumerate(dict.fromkeys([made_values[-1], *rng.sample(made_values, min(2, len(made_values)))])):
        e.output(v, f"y{i}")
    return e.freeze()


OPS = (
    *("math.add", "math.sub", "math.mul", "math.div", "math.maximum", "math.minimum", "math.shift_right", "math.cast"),
    *("quant.isqrt", "quant.table", "quant.requantize", "quant.add", "math.reduce_sum", "math.reduce_max"),
    "math.reduce_min",
)


def fits(u: Value, v: Value) -> bool:
    """Whether the sum of two values has the shape of one of them."""
    rank = v.type.rank
    mine = (*[1] * (rank - u.type.rank), *u.type.shape)
    return u.type.rank <= rank and all(a in (1, b) for a, b in zip(mine, v.type.shape, strict=True))


def inputs_of(graph: Graph, seed: int) -> list[Any]:
    """Numbers of the whole range of codes, moderate ones of wider integers."""
    rng = np.random.default_rng(seed)
    found = []
    for v in graph.inputs:
        elem: Any = v.type.elem  # type: ignore[union-attr]
        low, high = elem.range if elem.bits <= 16 else (-3000, 3000)
        found.append(rng.integers(low, high + 1, v.type.shape).astype(elem.dtype))
    return found
