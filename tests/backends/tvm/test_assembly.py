"""The loops that do the work, as compiled: multiply-adds against loads, full vectors, nothing spilled, no calls.

A wrong loop in a template is silently twenty times slower. Here it changes a count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends.tvm import api
from intaglio.backends.tvm.isa import ISAS
from intaglio.backends.tvm.kernels import VECTOR_UNITS, Kernel, VectorUnit, batched_matmul, matmul
from intaglio.backends.tvm.kernels.blocked.conv import conv_blocked
from intaglio.backends.tvm.kernels.blocked.pool import max_pool_blocked
from intaglio.backends.tvm.kernels.blocked.winograd_plan import ranked_winograd
from intaglio.backends.tvm.kernels.conv_call import ConvCall, conv_call
from intaglio.backends.tvm.kernels.conv_plan import ConvShape
from intaglio.backends.tvm.kernels.geometry import make_window
from intaglio.backends.tvm.kernels.layout import Blocked, Halo
from intaglio.backends.tvm.kernels.lowbit.conv import conv_bf16, conv_int8
from intaglio.backends.tvm.kernels.lowbit.gemm import matmul_bf16, matmul_int8
from intaglio.backends.tvm.lowering.kernel import lower_node
from intaglio.ir import Editor, Tensor, Value
from intaglio.passes.fuse import fuse

from .assembly import Loop, hot_loop, loops

HALO = Halo(1, 1, 1, 1)
X86 = ("avx512", "avx2")
ALL = (*X86, "neon")
VNNI = ("avx512_vnni", "avx2_vnni")


def code(func: Any, isa: str) -> str:
    return api.kernel_assembly(func, api.cpu_target(isa))


def made(kernel: Kernel | None) -> Any:
    assert kernel is not None
    return kernel.func


def called(*shapes: tuple[int, ...], **options: Any) -> ConvCall:
    call = conv_call(*shapes, **options)
    assert call is not None
    return call


def vector(isa: str) -> str:
    """How the widest registers of an instruction set are written."""
    return {16: "%zmm", 8: "%ymm", 4: r"v\d+\.4s"}[VECTOR_UNITS[isa].lanes]


def check(loop: Loop, isa: str, *, least: int, ratio: float, spills: int = 0) -> None:
    """At least so many multiply-adds in a pass, so many for each access to memory, all on full vectors."""
    assert loop.products >= least, loop
    assert loop.products >= ratio * loop.accesses, loop
    assert loop.spills <= spills, loop
    assert loop.calls == 0, loop
    assert loop.count(vector(isa)) >= loop.products, loop


# --- convolutions -----------------------------------------------------------------------------------------------------


def conv(isa: str, channels: int, outputs: int, size: int, kernel: int = 3, **options: Any) -> Kernel | None:
    """Blocked in and out; the image has a halo where the kernel is larger than a pixel."""
    unit = VECTOR_UNITS[isa]
    halo = {"x_layout": Blocked(unit.lanes, HALO), "pads": (1, 1, 1, 1)} if kernel == 3 else {}
    weight = (outputs, channels // options.get("groups", 1), kernel, kernel)
    layouts = {"x_layout": Blocked(unit.lanes), "out_layout": Blocked(unit.lanes)}
    call = conv_call((1, channels, size, size), weight, **{**layouts, **halo, **options}, unit=unit)
    return None if call is None else conv_blocked(call)


@pytest.mark.parametrize("isa", ALL)
def test_direct_convolution(isa: str) -> None:
    """Each vector of weights serves all pixels of the tile, each pixel all vectors of weights."""
    for stride in (1, 2):
        kernel = conv(isa, 64, 128, 56, strides=(stride, stride), allow_winograd=False)
        check(hot_loop(code(made(kernel), isa)), isa, least=10, ratio=1.4)


@pytest.mark.parametrize("isa", ALL)
def test_first_convolution(isa: str) -> None:
    unit = VECTOR_UNITS[isa]
    call = conv_call(
        (1, 3, 224, 224), (64, 3, 7, 7), out_layout=Blocked(unit.lanes), strides=(2, 2), pads=(3, 3, 3, 3), unit=unit
    )
    assert call is not None
    check(hot_loop(code(made(conv_blocked(call)), isa)), isa, least=10, ratio=1.4)


@pytest.mark.parametrize("isa", ALL)
def test_pointwise_convolution(isa: str) -> None:
    for channels, outputs, size in ((256, 64, 28), (512, 1024, 7)):
        check(hot_loop(code(made(conv(isa, channels, outputs, size, 1)), isa)), isa, least=10, ratio=1.4)
    # Three blocks of eight channels make tiles of one block: a load a product, and one of the weights.
    check(hot_loop(code(made(conv(isa, 96, 24, 56, 1)), isa)), isa, least=10, ratio=0.85, spills=4)


@pytest.mark.parametrize("isa", ALL)
def test_depthwise_convolution(isa: str) -> None:
    """Each input vector serves the outputs around it; with 16 registers the weights do not all stay."""
    few = VECTOR_UNITS[isa].registers == 16
    for stride, ratio in ((1, 1.5), (2, 1.1)):
        kernel = conv(isa, 96, 96, 56, groups=96, strides=(stride, stride))
        loop = hot_loop(code(made(kernel), isa))
        check(loop, isa, least=9 * (5 if few else 12), ratio=ratio, spills=5 if few else 1)


def work_loops(text: str, isa: str) -> list[Loop]:
    """Loops with a good deal of arithmetic on vectors."""
    return [x for x in loops(text) if x.count(vector(isa)) >= 12]


@pytest.mark.parametrize("isa", ALL)
@pytest.mark.parametrize(("channels", "size"), [(64, 56), (256, 14), (512, 7)])
def test_winograd_convolution(isa: str, channels: int, size: int) -> None:
    """The product like any other; the transforms in vectors, without a detour through memory for each operation."""
    unit = VECTOR_UNITS[isa]
    window = make_window((size, size), (3, 3), None, (1, 1, 1, 1), None)
    assert window is not None
    plan, *_ = ranked_winograd(ConvShape(1, channels, channels, window), unit)
    tile = plan.pixels * plan.blocks
    found = work_loops(code(made(conv(isa, channels, channels, size)), isa), isa)
    products = [x for x in found if x.products and x.products % tile == 0 and 2 * x.products >= len(x.code)]
    assert products
    for loop in products:
        check(loop, isa, least=tile, ratio=1.3)
    transforms = [x for x in found if x not in products and x.innermost]
    assert transforms
    for loop in transforms:
        # Loads, stores, and what does not fit in between: 36 values of F(4, 3) are more than there are registers.
        assert loop.accesses <= 9 * plan.points, loop
        assert loop.calls == 0, loop


# --- matrix products --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ALL)
def test_product_with_packed_weights(isa: str) -> None:
    kernel = matmul((128, 384), (384, 1536), unit=VECTOR_UNITS[isa])
    check(hot_loop(code(made(kernel), isa)), isa, least=12, ratio=1.4)


@pytest.mark.parametrize("isa", ALL)
def test_vector_by_packed_weights(isa: str) -> None:
    """A load a multiply-add, and several chains of them."""
    kernel = matmul((1, 640), (640, 128), unit=VECTOR_UNITS[isa])
    check(hot_loop(code(made(kernel), isa)), isa, least=8, ratio=0.75)


@pytest.mark.parametrize("isa", ALL)
def test_product_of_activations(isa: str) -> None:
    kernel = batched_matmul((12, 128, 32), (12, 32, 128), unit=VECTOR_UNITS[isa])
    check(hot_loop(code(made(kernel), isa)), isa, least=12, ratio=1.4)


@pytest.mark.parametrize("isa", VNNI)
def test_products_of_bytes(isa: str) -> None:
    """vpdpbusd on full vectors; a convolution may keep a few words of the image on the stack."""
    unit = VECTOR_UNITS[isa]
    image = {"x_layout": Blocked(unit.lanes, HALO), "out_layout": Blocked(unit.lanes), "pads": (1, 1, 1, 1)}
    for kernel, spills in (
        (matmul_int8((128, 384), (384, 1536), unit=unit), 0),
        (
            conv_int8(called((1, 64, 56, 56), (64, 64, 3, 3), x_dtype="uint8", out_dtype="int32", **image, unit=unit)),
            14,
        ),
    ):
        loop = hot_loop(code(made(kernel), isa))
        assert loop.count("vpdpbusd") == loop.products
        check(loop, isa, least=16, ratio=1.2, spills=spills)


def test_products_of_bf16() -> None:
    isa = "avx512_bf16"
    unit = VECTOR_UNITS[isa]
    image = {"x_layout": Blocked(unit.lanes, HALO), "out_layout": Blocked(unit.lanes), "pads": (1, 1, 1, 1)}
    for kernel in (
        matmul_bf16((128, 384), (384, 1536), unit=unit),
        conv_bf16(called((1, 64, 56, 56), (64, 64, 3, 3), **image, unit=unit)),
    ):
        loop = hot_loop(code(made(kernel), isa))
        assert loop.count("vdpbf16ps") == loop.products
        check(loop, isa, least=20, ratio=1.4)


# --- pools, rows, attention -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ALL)
def test_max_pool(isa: str) -> None:
    """Maxima of full vectors, in the loop over pieces of rows."""
    unit = VECTOR_UNITS[isa]
    kernel = max_pool_blocked(
        (1, 64, 112, 112), (3, 3), x_layout=Blocked(unit.lanes), out_layout=Blocked(unit.lanes, HALO), strides=(2, 2),
        pads=(1, 1, 1, 1), unit=unit,
    )  # fmt: skip
    found = [x for x in work_loops(code(made(kernel), isa), isa) if x.innermost]
    assert found
    assert all(loop.calls == 0 for loop in found)
    assert max(loop.count(f"max(ps)?\t.*{vector(isa)}") for loop in found) >= 24


def lowered(make: Callable[[Editor], Value], isa: str) -> str:
    """The code of a graph that is one kernel."""
    e = Editor()
    e.output(make(e), "y")
    graph = fuse(e.freeze())
    constants = {n.output: n.constant for n in graph.nodes if n.constant is not None}
    (node,) = (n for n in graph.nodes if n.constant is None)
    return code(lower_node(node, constants, VECTOR_UNITS[isa]).func, isa)


def attention(e: Editor) -> Value:
    q, k, v = (e.input(name, Tensor((1, 12, 128, 32), "f32")) for name in "qkv")
    scores = e.emit("nn.matmul", q, e.emit("shape.transpose", k, perm=(0, 1, 3, 2)))
    scores = e.emit("math.div", scores, e.constant(np.float32(32**0.5)))
    return e.emit("nn.matmul", e.emit("nn.softmax", scores, axis=-1), v)


@pytest.mark.parametrize("isa", ALL)
def test_attention(isa: str) -> None:
    """Two products in registers, and exponentials without a call."""
    found = work_loops(lowered(attention, isa), isa)
    products = [x for x in found if x.products >= 12 and 2 * x.products >= len(x.code)]
    assert products
    for loop in products:
        check(loop, isa, least=12, ratio=1.0)
    assert all(loop.calls == 0 for loop in found)


ARITHMETIC = r"v(f?n?m?(add|sub|mul|max))(\d+)?ps|\bf(mul|add|mla|max)\tv"


def softmax(e: Editor) -> Value:
    return e.emit("nn.softmax", e.input("x", Tensor((128, 512), "f32")), axis=-1)


def layer_norm(e: Editor) -> Value:
    x = e.input("x", Tensor((128, 384), "f32"))
    return e.emit("nn.layer_norm", x, e.constant(np.ones(384, np.float32)), e.constant(np.ones(384, np.float32)))


@pytest.mark.parametrize("isa", ALL)
@pytest.mark.parametrize("make", [softmax, layer_norm])
def test_rows(make: Callable[[Editor], Value], isa: str) -> None:
    """The loops over the elements of a row work on full vectors; nothing is called, libm least of all."""
    found = [x for x in loops(lowered(make, isa)) if x.innermost and x.count(ARITHMETIC)]
    assert found
    assert any(x.count(vector(isa)) for x in found)
    assert all(x.calls == 0 for x in found)
    for x in found:  # the end of a sum, and what is computed of it, are numbers
        assert 8 * x.count(r"\bv?(add|mul|div|max)ss\b|\bf(add|mul|div|max)\ts") <= x.count(vector(isa)), x


def test_every_instruction_set_has_its_registers() -> None:
    assert set(ISAS) <= set(VECTOR_UNITS)
    assert all(isinstance(VECTOR_UNITS[isa], VectorUnit) for isa in ISAS)
