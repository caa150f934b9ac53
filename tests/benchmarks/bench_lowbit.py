"""Kernels on small numbers and sparse weights: beside ONNX Runtime, our dense kernels and the peak of the machine.

    make bench          or          python tests/benchmarks/bench_lowbit.py

One thread. Contestants of a line take turns, and each turn repeats a call until it is worth measuring: weights that fit
a cache are warm. Medians of process time; nothing is asserted, for the machine may be busy.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends.tvm import api, runtime
from intaglio.backends.tvm.calibrate import DOT_TILE, dot_kernel
from intaglio.backends.tvm.isa import host_isa
from intaglio.backends.tvm.kernels import VECTOR_UNITS, ExtraOperand, Kernel, matmul
from intaglio.backends.tvm.kernels.blocked.conv import conv_blocked
from intaglio.backends.tvm.kernels.conv_call import conv_call
from intaglio.backends.tvm.kernels.layout import Blocked, Halo
from intaglio.backends.tvm.kernels.lowbit.conv import conv_bf16, conv_int8
from intaglio.backends.tvm.kernels.lowbit.depthwise import depthwise_int8
from intaglio.backends.tvm.kernels.lowbit.dot import Bf16Dot, BytesDot, Dot
from intaglio.backends.tvm.kernels.lowbit.gemm import matmul_bf16, matmul_binary, matmul_int8
from intaglio.backends.tvm.kernels.lowbit.int4 import matmul_int4
from intaglio.backends.tvm.kernels.lowbit.requantize import requantize
from intaglio.backends.tvm.kernels.sparse.block import block_sparse_conv, block_sparse_matmul, count_blocks, dot_of
from intaglio.backends.tvm.kernels.sparse.csr import csr_matmul

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[], Any]

ISA = host_isa()
UNIT = VECTOR_UNITS[ISA]
ROUNDS = 15
TURN = 0.002  # seconds
STEPS = 20_000
RNG = np.random.default_rng(0)


# --- measuring ------------------------------------------------------------------------------------------------------


def seconds(runs: dict[str, Run]) -> dict[str, float]:
    """Of a call of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    repeats = {}
    for name, run in runs.items():
        run()
        begin = time.process_time()
        run()
        repeats[name] = max(1, min(1000, math.ceil(TURN / max(time.process_time() - begin, 1e-7))))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            run()
            begin = time.process_time()
            for _ in range(repeats[name]):
                run()
            times[name].append((time.process_time() - begin) / repeats[name])
    return {name: statistics.median(found) for name, found in times.items()}


def line(what: str, operations: float, runs: dict[str, Run], peak: tuple[Run, float] | None = None) -> None:
    """Ours is the first; the ratio of another one is its time by ours."""
    found = seconds({**runs, "peak": peak[0]} if peak else runs)
    ours = next(iter(runs))
    text = f"{what:40} {1e6 * found[ours]:8.1f} us {operations / found[ours] / 1e9:7.0f} G/s"
    if peak:
        text += f" {100 * (operations / found[ours]) / (peak[1] / found['peak']):4.0f} % of peak"
    print(text, *(f"  {n} x{found[n] / found[ours]:.2f}" for n in runs if n != ours), flush=True)


def tensor(array: Array) -> Any:
    return runtime.to_tensor(runtime.aligned_copy(array))


def kernel(made: Kernel | None, dtype: str, inputs: Sequence[Array], extras: Sequence[Array] = ()) -> Run:
    """A call of a compiled kernel; inputs before packing."""
    assert made is not None
    packed = [pack(a) if pack else a for pack, a in zip(made.packers, inputs, strict=True)]
    args = [tensor(a) for a in [*packed, *extras, np.zeros(made.out_shape, dtype)]]
    compiled = api.build_kernel(made.func, api.cpu_target(ISA))
    return lambda: compiled(*args)


def peak_of(dot: Dot) -> tuple[Run, float]:
    """A call that does nothing but dot products, and their number times two."""
    rows, vectors = DOT_TILE
    func = api.build_kernel(dot_kernel(dot, STEPS), api.cpu_target(ISA))
    shapes = [(rows, dot.depth), (vectors, dot.lanes * dot.depth), (rows, vectors, dot.lanes)]
    dtypes = [dot.x_dtype, dot.weight_dtype, dot.acc_dtype]
    args = [tensor(np.ones(s, d)) for s, d in zip(shapes, dtypes, strict=True)]
    return (lambda: func(*args)), 2.0 * rows * vectors * dot.lanes * dot.depth * STEPS


def onnxruntime(op: str, x: Array, constants: dict[str, Array], domain: str = "", **attributes: Any) -> Run:
    """A session of one node; its operands are x, named "x", and constants in this order ("" for a missing one)."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(op, [n.partition("#")[0] for n in ["x", *constants]], ["y"], domain=domain, **attributes)
    kinds = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    result = {"QLinearConv": TensorProto.UINT8, "MatMulNBits": TensorProto.FLOAT}.get(op, TensorProto.INT32)
    graph = helper.make_graph(
        [node],
        "bench",
        [helper.make_tensor_value_info("x", kinds[str(x.dtype)], x.shape)],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


def drawn(dtype: str, *shape: int) -> Array:
    if dtype == "float32":
        return np.asarray(RNG.standard_normal(shape), np.float32)
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


# --- what is measured -----------------------------------------------------------------------------------------------


def integer_convolutions() -> None:
    print(f"\nint8 convolutions, requantized ({ISA})")
    peak = peak_of(BytesDot(UNIT))
    for c, o, size, k, groups in (
        (64, 64, 56, 3, 1),
        (256, 256, 14, 3, 1),
        (256, 64, 56, 1, 1),
        (64, 256, 56, 1, 1),
        (144, 144, 56, 3, 144),
        (480, 480, 14, 5, 480),
    ):
        x, w = drawn("uint8", 1, c, size, size), drawn("int8", o, c // groups, k, k)
        pads = (k // 2,) * 4
        scale = np.full(o, 1e-4, np.float32)
        template = conv_int8 if groups == 1 else depthwise_int8
        call = conv_call(
            x.shape,
            w.shape,
            x_layout=Blocked(UNIT.lanes, Halo(*pads)),
            out_layout=Blocked(UNIT.lanes),
            x_dtype="uint8",
            out_dtype="uint8",
            pads=pads,
            groups=groups,
            epilogue=lambda acc, index, extras: requantize(acc, extras[0][index[1]]),
            extras=[ExtraOperand(scale.shape)],
            unit=UNIT,
        )
        assert call is not None
        made = template(call)
        assert made is not None
        one, zero = np.array(1, np.float32), np.array(0, np.uint8)
        quantities = {"sx": one, "zx": zero, "w": w, "sw": scale, "zw": np.zeros(o, np.int8), "sy": one, "zy": zero}
        options: dict[str, Any] = {"pads": pads, "group": groups}
        run = kernel(made, "uint8", [drawn("uint8", *made.packed_shapes[0]), w], [scale])
        runs = {"ours": run, "QLinearConv": onnxruntime("QLinearConv", x, quantities, **options)}
        if groups == 1:
            runs["ConvInteger"] = onnxruntime("ConvInteger", x, {"w": w}, **options)
        what = f"{c}x{size}x{size} -> {o}, {k}x{k}{', depthwise' if groups > 1 else ''}"
        line(what, 2 * w.size * size * size, runs, peak if groups == 1 else None)


def products() -> None:
    print("\nproducts M x K x N")
    for m, k, n in ((128, 384, 1536), (128, 1536, 384), (1, 1024, 4096)):
        x, w = drawn("uint8", m, k), drawn("int8", k, n)
        integer = kernel(matmul_int8(x.shape, w.shape, unit=UNIT), "int32", [x, w])
        runs = {"ours": integer, "MatMulInteger": onnxruntime("MatMulInteger", x, {"w": w})}
        line(f"int8 {m}x{k}x{n}", 2 * m * k * n, runs, peak_of(BytesDot(UNIT)))
        halves = [drawn("uint16", *s) & 0x3FFF for s in ((m, k), (k, n))]
        real = kernel(matmul((m, k), (k, n), unit=UNIT), "float32", [drawn("float32", m, k), drawn("float32", k, n)])
        runs = {"ours": kernel(matmul_bf16((m, k), (k, n), unit=UNIT), "float32", halves), "our fp32": real}
        line(f"bf16 {m}x{k}x{n}", 2 * m * k * n, runs, peak_of(Bf16Dot(UNIT)))
        signs = [drawn("int32", m, k // 32), drawn("int32", n, k // 32)]
        runs = {"ours": kernel(matmul_binary((m, k), (n, k), unit=UNIT), "int32", signs), "our int8": integer}
        line(f"signs {m}x{k}x{n}", 2 * m * k * n, {**runs, "our fp32": real})
    shape, weight, pads = (1, 64, 56, 56), (64, 64, 3, 3), (1, 1, 1, 1)
    layouts: dict[str, Any] = {"x_layout": Blocked(UNIT.lanes, Halo(*pads)), "out_layout": Blocked(UNIT.lanes)}
    call = conv_call(shape, weight, **layouts, pads=pads, unit=UNIT)
    made = None if call is None else conv_bf16(call)
    assert made is not None
    run = kernel(made, "float32", [drawn("uint16", *s) & 0x3FFF for s in (made.packed_shapes[0], weight)])
    line("bf16 64x56x56 -> 64, 3x3", 2 * math.prod(weight) * 56 * 56, {"ours": run}, peak_of(Bf16Dot(UNIT)))


def int4() -> None:
    print("\nint4 weights, symmetric: exact beside accuracy level 1, rounded activations beside level 4")
    for m, n, k, group in ((1, 4096, 4096, 32), (1, 4096, 1024, 32), (1, 4096, 1024, 128), (64, 4096, 1024, 32)):
        for exact, level in ((True, 1), (False, 4)):
            runs = int4_runs(m, n, k, group, exact, level)
            line(f"{m}x{k}x{n}, groups of {group}, level {level}", 2 * m * k * n, runs)


def int4_runs(m: int, n: int, k: int, group: int, exact: bool, level: int) -> dict[str, Run]:
    """Our product beside ONNX Runtime's at an accuracy level."""
    x, codes = drawn("float32", m, k), RNG.integers(0, 16, (n, k)).astype(np.uint8)
    scales = np.asarray(RNG.random((n, k // group)), np.float32)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).reshape(n, k // group, group // 2)
    made = matmul_int4(x.shape, codes.shape, group, exact=exact, unit=UNIT)
    constants = {"w": packed, "s": scales.reshape(-1)}
    attributes = {"K": k, "N": n, "bits": 4, "block_size": group, "accuracy_level": level}
    theirs = onnxruntime("MatMulNBits", x, constants, domain="com.microsoft", **attributes)
    return {"ours": kernel(made, "float32", [x, codes, scales]), "MatMulNBits": theirs}


def pruned(dot: Dot, density: float, *shape: int) -> Array:
    """A weight [O, C, taps..] in which that part of the blocks is left."""
    kept = RNG.random((-(-shape[0] // dot.lanes), -(-shape[1] // dot.depth), *shape[2:])) < density
    mask = kept.repeat(dot.lanes, 0)[: shape[0]].repeat(dot.depth, 1)[:, : shape[1]]
    return np.asarray(drawn(dot.weight_dtype, *shape) * mask)


def sparse_product(dtype: str, density: float, m: int, k: int, n: int) -> dict[str, Run]:
    """A product with a block-sparse weight beside our dense one."""
    dot = dot_of(dtype, UNIT)
    x, w = drawn(dtype, m, k), pruned(dot, density, n, k)
    made = block_sparse_matmul(x.shape, w.shape, count_blocks(w, dot), x_dtype=dtype, unit=UNIT)
    full = (matmul if dtype == "float32" else matmul_int8)(x.shape, w.shape, unit=UNIT, transpose_weight=True)
    assert made is not None
    ours = kernel(made, dot.acc_dtype, [x, *[w] * (len(made.packers) - 1)])
    return {"ours": ours, "dense": kernel(full, dot.acc_dtype, [x, w])}


def sparse_image(dtype: str, density: float, c: int, o: int, size: int, k: int) -> dict[str, Run]:
    """A convolution with a block-sparse weight beside our dense direct one."""
    dot, pads = dot_of(dtype, UNIT), (k // 2,) * 4
    layouts: dict[str, Any] = {"x_layout": Blocked(UNIT.lanes, Halo(*pads)), "out_layout": Blocked(UNIT.lanes)}
    layouts |= {"pads": pads, "unit": UNIT, "x_dtype": dtype}
    shape, w = (1, c, size, size), pruned(dot, density, o, c, k, k)
    made = block_sparse_conv(shape, w.shape, count_blocks(w, dot), **layouts)
    call = conv_call(shape, w.shape, allow_winograd=False, out_dtype=dot.acc_dtype, **layouts)
    assert call is not None
    full = conv_blocked(call) if dtype == "float32" else conv_int8(call)
    assert made is not None
    x = drawn(dtype, *made.packed_shapes[0])
    ours = kernel(made, dot.acc_dtype, [x, *[w] * (len(made.packers) - 1)])
    return {"ours": ours, "dense": kernel(full, dot.acc_dtype, [x, w])}


def sparse() -> None:
    print("\nblock-sparse beside our dense kernel")
    for dtype in ("float32", "uint8"):
        for m, k, n in ((128, 384, 1536), (128, 1024, 1024)):
            for density in (0.5, 0.25, 0.1):
                runs = sparse_product(dtype, density, m, k, n)
                line(f"{dtype} {m}x{k}x{n}, {1 - density:.0%} zeros", 2 * m * k * n, runs)
        for c, o, size, k in ((64, 64, 56, 3), (256, 256, 14, 3), (256, 64, 56, 1)):
            what = f"{dtype} {c}x{size}x{size} -> {o}, {k}x{k}, 75% zeros"
            line(what, 2 * c * o * k * k * size * size, sparse_image(dtype, 0.25, c, o, size, k))
    print("\nunstructured (CSR) beside our dense product, M x K x N")
    for m, k, n in ((3136, 64, 256), (784, 128, 128), (196, 512, 512)):
        x = drawn("float32", k, m)
        for density in (0.5, 0.4, 0.2, 0.1):
            w = np.asarray(drawn("float32", n, k) * (RNG.random((n, k)) < density))
            made = csr_matmul(w.shape, x.shape, int((w != 0).sum()), unit=UNIT)
            full = matmul((m, k), (k, n), unit=UNIT)
            dense = kernel(full, "float32", [np.ascontiguousarray(x.T), np.ascontiguousarray(w.T)])
            runs = {"ours": kernel(made, "float32", [x, w, w, w]), "dense": dense}
            line(f"{m}x{k}x{n}, {1 - density:.0%} zeros", 2 * m * k * n, runs)


def goals() -> dict[str, float]:
    """Ratios by the names of `cpu_table.KERNEL_GOALS`: geometric means over a few shapes."""
    runtime.set_threads(1)
    found: dict[str, float] = {}
    ratios = [compared(x) for x in (int4_runs(1, 4096, 4096, 32, False, 4), int4_runs(1, 4096, 1024, 32, False, 4))]
    found["int4 group-32 GEMV, activations as bytes"] = statistics.geometric_mean(ratios)
    for name, dtype in (("fp32", "float32"), ("int8", "uint8")):
        runs = [sparse_product(dtype, 0.25, *shape) for shape in ((128, 384, 1536), (128, 1024, 1024))]
        runs += [sparse_image(dtype, 0.25, *shape) for shape in ((64, 64, 56, 3), (256, 256, 14, 3), (256, 64, 56, 1))]
        found[f"block-sparse {name}, 75 % zeros"] = statistics.geometric_mean(map(compared, runs))
    return found


def compared(runs: dict[str, Run]) -> float:
    """How much longer the other one takes."""
    ours, other = seconds(runs).values()
    return other / ours


def run() -> None:
    runtime.set_threads(1)
    integer_convolutions()
    products()
    int4()
    sparse()


@pytest.mark.bench
def test_small_numbers_and_sparse_weights() -> None:
    run()


if __name__ == "__main__":
    if "--goals" in sys.argv:
        print(json.dumps(goals()))
    else:
        run()
