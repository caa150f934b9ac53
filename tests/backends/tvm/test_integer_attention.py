"""Products of two activations and attention in integers: one kernel, and what the interpreter says, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

from intaglio.backends.tvm import api, runtime
from intaglio.backends.tvm.isa import ISA_NAMES, host_runs
from intaglio.backends.tvm.kernels import VECTOR_UNITS
from intaglio.backends.tvm.kernels.emit import Emitter
from intaglio.backends.tvm.kernels.lowbit.batched import batched_int8
from intaglio.backends.tvm.kernels.lowbit.lookup import Lookup
from intaglio.backends.tvm.kernels.lowbit.product import Side
from intaglio.backends.tvm.kernels.lowbit.tables import table_bytes
from intaglio.backends.tvm.lowering import kernel
from intaglio.backends.tvm.lowering.quantized_attention import lower_integer_attention
from intaglio.ir import Editor, Graph, Tensor
from intaglio.ir.types import Int
from intaglio.passes.fuse import fuse

from .growing import check
from .sequences import Sequences
from .test_lowbit import drawn_bytes, run

ISAS = [isa for isa in ISA_NAMES if host_runs(isa)]
few = settings(max_examples=5, deadline=None)
BYTES = st.sampled_from(["uint8", "int8"])


@pytest.mark.parametrize("isa", ISAS)
@few
@given(st.tuples(st.integers(4, 40), st.integers(1, 70), st.integers(1, 70)), BYTES, BYTES, st.integers(0, 99))
def test_product_of_two_activations(isa: str, size: tuple[int, int, int], left: str, right: str, seed: int) -> None:
    rng, (m, k, n) = np.random.default_rng(seed), size
    a, b = drawn_bytes(rng, left, 2, 1, m, k), drawn_bytes(rng, right, 3, k, n)
    zeros = [int(rng.choice(drawn_bytes(rng, d, 8))) for d in (left, right)]
    sides = [Side(d, z) for d, z in zip((left, right), zeros, strict=True)]
    kernel = batched_int8(a.shape, b.shape, sides[0], sides[1], unit=VECTOR_UNITS[isa])
    assert kernel is not None
    got = run(kernel, [a, b], [], isa, "int32")
    assert np.array_equal(got, (a.astype(int) - zeros[0]) @ (b.astype(int) - zeros[1]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["octaves", "bytes", "halves", "words", "memory"])
def test_tables_in_registers(isa: str, form: str) -> None:
    rng, unit = np.random.default_rng(0), VECTOR_UNITS[isa]
    octave = np.sort(rng.integers(0, 1 << 15, 64))[::-1]
    steps = np.arange(16 * 64)
    tables = {
        "octaves": octave[steps % 64] >> steps // 64,
        "bytes": rng.integers(0, 256, 300),
        "halves": rng.integers(0, 1 << 16, 256),
        "words": rng.integers(-(1 << 31), 1 << 31, int(rng.integers(1, 128))),
        "memory": rng.integers(-(1 << 31), 1 << 31, 300),
    }
    table = tables[form]
    lookup = Lookup.of(table, unit)
    assert lookup.form == (form if unit.lanes == 16 else "memory")
    emit = Emitter()
    with emit.function():
        words, at = emit.arg("words", lookup.words.shape, "int32"), emit.arg("at", (1024,), "int32")
        out = emit.arg("out", (1024,), "int32")
        index = emit.registers(unit.lanes, dtype="int32")
        with emit.serial(1024 // unit.lanes) as i:
            here = emit.ramp(i * unit.lanes, unit.lanes)
            emit.store(index, [emit.ramp(0, unit.lanes)], at[here])
            emit.store(out, [here], lookup.vector(emit, words, index))
    x = rng.integers(0, len(table), 1024).astype(np.int32)
    args = [runtime.to_tensor(runtime.aligned_copy(a)) for a in (lookup.words, x, np.zeros(1024, np.int32))]
    api.build_kernel(emit.func, api.cpu_target(isa))(*args)
    assert np.array_equal(runtime.to_numpy(args[2]), table[x])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("x_dtype", ["uint8", "int8"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_functions_of_bytes(isa: str, x_dtype: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, table = drawn_bytes(rng, x_dtype, 3, 7001), drawn_bytes(rng, dtype, 256)
    made = table_bytes(x.shape, table, x_dtype=x_dtype, unit=VECTOR_UNITS[isa])
    if VECTOR_UNITS[isa].lanes < 16:
        assert made is None
        return
    assert made is not None
    got = run(made[0], [x, made[1]], [], isa, dtype)
    assert np.array_equal(got, table[x.astype(int) + (128 if x_dtype == "int8" else 0)])


def attention(seed: int, **fixed: Any) -> tuple[Graph, list[Any]]:
    """A graph whose only step is attention."""
    grower = Sequences(seed)
    grower.pick, original = (lambda *o: grower.attention if callable(o[0]) else original(*o)), grower.pick  # type: ignore[method-assign]
    return grower.graph()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", range(2))
def test_attention_is_the_interpreters(isa: str, seed: int) -> None:
    check(*attention(seed + 100 * ISAS.index(isa)), isa)


def test_attention_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel, not by the loops that any group falls back to."""
    taken: list[bool] = []

    def spied(*given: Any) -> bool:
        taken.append(lower_integer_attention(*given))
        return taken[-1]

    monkeypatch.setattr(kernel, "lower_integer_attention", spied)
    check(*attention(0), "native")
    assert any(taken)


@pytest.mark.parametrize(("factor", "one"), [(False, 1 << 14), (True, 1 << 14), (False, (1 << 26) + 12345)])
def test_softmax_beyond_the_kernel(factor: bool, one: int) -> None:
    """Differences scaled by another number for every key, and shares finer than floats can estimate."""
    rng, e = np.random.default_rng(0), Editor()
    shapes = ((1, 2, 24, 16), (1, 2, 16, 24), (1, 2, 24, 16))
    q, k, v = (e.input(name, Tensor(shape, "i8")) for name, shape in zip("qkv", shapes, strict=True))
    scores = e.emit("quant.matmul", q, k)
    below = e.emit("math.sub", e.emit("math.reduce_max", scores, axes=(3,), keepdims=True), scores)
    if factor:
        below = e.emit("math.mul", below, e.constant((np.arange(24) % 3 + 1).astype(np.int32)))
    index = e.emit("math.shift_right", below, e.constant(np.int32(8)))
    powers = np.round(np.exp(-np.arange(512) / 64) * (1 << 12)) if one < 1 << 20 else np.r_[7, [3] * 39, [1] * 472]
    power = e.emit("quant.table", index, e.constant(powers.astype(np.int32)), first=0)
    total = e.emit("math.reduce_sum", power, axes=(3,), keepdims=True)
    half = e.emit("math.shift_right", total, e.constant(np.int32(1)))
    scaled = e.emit("math.mul", power, e.constant(np.int32(one)))
    share = e.emit("math.div", e.emit("math.add", scaled, half), total)
    code = e.emit("math.cast", e.emit("math.bit_and", share, e.constant(np.int32(127))), to=Int("i8"))
    e.output(e.emit("quant.matmul", code, v), "y")
    check(e.freeze(), [rng.integers(-127, 128, shape).astype(np.int8) for shape in shapes], "native")


def test_attention_is_one_kernel() -> None:
    """Two products, the softmax and the transposes, whether scores are codes or floats."""
    for seed in range(6):
        fused = fuse(attention(seed)[0])
        bodies = [n.attrs["body"] for n in fused.nodes if n.op.name == "tile.kernel"]
        names = [[n.op.name for n in body.nodes] for body in bodies]  # type: ignore[union-attr]
        whole = [n for n in names if n.count("quant.matmul") == 2 and "math.reduce_max" in n]
        assert whole, f"seed {seed}"
        assert not any(n.op.name in ("math.reduce_max", "math.div") for n in fused.nodes), f"seed {seed}"


@pytest.mark.parametrize("seed", range(6))
def test_random_sequences(seed: int) -> None:
    graph, inputs = Sequences(seed).graph()
    check(graph, inputs, "native")
