"""Codes and scales found at run time are the interpreter's, bit for bit, and so are the sums of their products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends.tvm.isa import ISA_NAMES, host_runs
from intaglio.ir import Editor, Graph, Tensor, dim
from intaglio.ir.types import Float

from .growing import pairs

F32 = Float("f32")
N, T = dim("N"), dim("T")
SHAPES = [
    ((5, 32), 16),
    ((N, 33), 7),
    ((2, 7, 384), 384),
    ((1, 1), 1),
    ((N, 2, 3, 17), 5),
    ((N, T, 96), 288),
    ((1, 1536), 384),
]


def product(shape: tuple[Any, ...], columns: int, bits: int = 8) -> Graph:
    """Codes, scales, sums, and what the sums stand for."""
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    encoder = e.emit("quant.quantize_dynamic", e.input("x", Tensor(shape, F32)), bits=bits).node
    assert encoder is not None
    codes, scale = encoder.outputs
    weights = e.constant(rng.integers(-127, 128, (shape[-1], columns)).astype(np.int8))
    sums = e.emit("quant.matmul", codes, weights)
    real = e.emit("math.mul", e.emit("math.cast", e.emit("quant.matmul", codes, weights), to=F32), scale)
    real = e.emit("math.mul", real, e.constant(rng.random(columns, np.float32)))
    for v, name in ((codes, "codes"), (scale, "scale"), (sums, "sums"), (real, "real")):
        e.output(v, name)
    return e.freeze()


def rows(shape: tuple[Any, ...]) -> Any:
    """Rows of all magnitudes, one of zeros, one with a nan, one with an infinity."""
    sizes = [d if isinstance(d, int) else {"N": 4, "T": 9}[str(d)] for d in shape]
    rng = np.random.default_rng(1)
    x = rng.standard_normal(sizes) * np.exp(rng.normal(0, 8, (*sizes[:-1], 1)))
    flat = x.astype(np.float32).reshape(-1, sizes[-1])
    for row, value in zip(range(len(flat) // 2), (0.0, np.nan, np.inf), strict=False):
        flat[row, : 1 if value else None] = value
    return flat.reshape(sizes)


def check(graph: Graph, x: Any, isa: str = "native") -> None:
    *integers, real = pairs(graph, [x], isa)
    for got, want in integers:
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(*real, rtol=1e-6)


@pytest.mark.parametrize(("shape", "columns"), SHAPES)
def test_shapes(shape: tuple[Any, ...], columns: int) -> None:
    check(product(shape, columns), rows(shape))


@pytest.mark.parametrize("isa", [isa for isa in ISA_NAMES if host_runs(isa)])
def test_instruction_sets(isa: str) -> None:
    check(product((6, 70), 40), rows((6, 70)), isa)


@pytest.mark.parametrize("bits", [4, 2])
def test_fewer_bits(bits: int) -> None:
    check(product((6, 64), 32, bits), rows((6, 64)))
