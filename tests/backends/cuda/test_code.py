"""The machine code of the templates: what ptxas reports of it, and the instructions in it. Takes nvcc, but no GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends import backend
from intaglio.backends.cuda import attention, tiles
from intaglio.backends.cuda.tiles import Tile
from intaglio.backends.cuda.toolkit import Resources, find_nvcc, find_tool, opcodes
from intaglio.ir import Editor, Module, Tensor
from intaglio.ir.types import elem_of
from intaglio.passes.fuse import fuse

needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc: pip install 'intaglio[cuda]'")
needs_disassembler = pytest.mark.skipif(
    find_nvcc() is None or find_tool("cuobjdump") is None or find_tool("nvdisasm") is None,
    reason="no nvcc, cuobjdump and nvdisasm: pip install 'intaglio[cuda]'",
)
both = pytest.mark.parametrize("arch", ["sm_80", "sm_90"])

CUDA = backend("cuda")
LARGE, MIDDLE, SMALL = tiles.TILES
LARGE_PLAIN, SMALL_PLAIN = tiles.PLAIN_TILES
SIZES = {
    LARGE: (2048, 2048),
    MIDDLE: (2048, 512),
    SMALL: (256, 256),
    LARGE_PLAIN: (2048, 2048),
    SMALL_PLAIN: (256, 256),
}


@dataclass(frozen=True)
class Template:
    """One kernel to look at: how its node is made, its tile, and the instruction that multiplies."""

    make: Callable[[Editor], Any]
    tile: Tile | None = None
    multiplies: str = ""


def given(e: Editor, dtype: Any, *shape: int) -> Any:
    return e.input(f"x{len(e.inputs)}", Tensor(shape, elem_of(np.dtype(dtype))))


def constant(e: Editor, dtype: Any, *shape: int) -> Any:
    return e.constant(np.ones(shape, np.int8).astype(dtype), f"w{len(e.nodes)}")


def matmul(dtype: Any, tile: Tile, op: str = "nn.matmul") -> Callable[[Editor], Any]:
    m, n = SIZES[tile]
    return lambda e: e.emit(op, given(e, dtype, m, 512), constant(e, dtype, 512, n))


def conv(dtype: Any, op: str = "nn.conv") -> Callable[[Editor], Any]:
    def make(e: Editor) -> Any:
        x, w = given(e, dtype, 1, 64, 28, 28), constant(e, dtype, 128, 64, 3, 3)
        return e.emit(op, x, w, pads=(1, 1, 1, 1))

    return make


def attend(depth: int, causal: bool) -> Callable[[Editor], Any]:
    def make(e: Editor) -> Any:
        q, k, v = (given(e, np.float32, 1, 4, 256, depth) for _ in range(3))
        scores = e.emit("nn.matmul", q, e.emit("shape.transpose", k, perm=(0, 1, 3, 2)))
        if causal:
            hidden = np.triu(np.full((256, 256), -np.inf, np.float32), 1)
            scores = e.emit("math.add", scores, e.constant(hidden, f"m{len(e.nodes)}"))
        return e.emit("nn.matmul", e.emit("nn.softmax", scores), v)

    return make


def loops(op: str, **attrs: Any) -> Callable[[Editor], Any]:
    return lambda e: e.emit(op, given(e, np.float32, 16, 64, 512), **attrs)


TEMPLATES = {
    **{f"f16 {t.rows}x{t.columns}": Template(matmul(np.float16, t), t, "HMMA.16816.F32") for t in tiles.TILES},
    "bf16": Template(matmul(ml_dtypes.bfloat16, SMALL), SMALL, "HMMA.16816.F32.BF16"),
    **{
        f"i8 {t.rows}x{t.columns}": Template(matmul(np.int8, t, "quant.matmul"), t, "IMMA.16832.S8.S8")
        for t in (LARGE, SMALL)
    },
    **{f"f32 {t.rows}x{t.columns}": Template(matmul(np.float32, t), t, "FFMA") for t in tiles.PLAIN_TILES},
    "conv f16": Template(conv(np.float16), SMALL, "HMMA.16816.F32"),
    "conv i8": Template(conv(np.int8, "quant.conv"), SMALL, "IMMA.16832.S8.S8"),
    "conv f32": Template(conv(np.float32), SMALL_PLAIN, "FFMA"),
    **{f"attention {depth}": Template(attend(depth, False), multiplies="FFMA") for depth in (32, 64)},
    "softmax": Template(loops("nn.softmax")),
    "sum": Template(loops("math.reduce_sum", axes=(2,))),
    "gelu": Template(loops("nn.gelu")),
}
ATTENTION = {
    f"attention {depth}{' causal' * causal}": Template(attend(depth, causal))
    for depth, causal in ((32, False), (64, True), (128, False))
}


@cache
def built(arch: str, fp16: bool) -> Any:
    """One program with all templates."""
    e, names = Editor(), ATTENTION if fp16 else TEMPLATES
    for name, template in names.items():
        e.output(template.make(e), name.replace(" ", "_"))
    module = Module("m", {"main": fuse(e.freeze())}, {})
    return CUDA.build(module, CUDA.options(arch=arch, fp16=fp16))


def kernels(program: Any, name: str) -> list[str]:
    """The kernels that compute a result, in the order in which they are launched."""
    output = program.module.main.outputs[program.module.main.output_names.index(name.replace(" ", "_"))]
    positions = {v: i for i, n in enumerate(program.module.main.nodes) for v in n.outputs}
    (function,) = [f for f, at in program.kernels if at == positions[output]]
    own = [k for k in program.resources if k == f"{function}_kernel" or k.startswith(f"{function}_kernel_")]
    return sorted(own, key=lambda k: (len(k), k))


def resources(program: Any, name: str) -> Resources:
    """What the last kernel of a result takes: those before it only copy."""
    return program.resources[kernels(program, name)[-1]]  # type: ignore[no-any-return]


@cache
def instructions(arch: str, fp16: bool) -> dict[str, Counter[str]]:
    found = opcodes(built(arch, fp16).code)
    assert found is not None
    return found


# --- what ptxas says --------------------------------------------------------------------------------------------------


@needs_nvcc
@both
def test_nothing_is_spilled(arch: str) -> None:
    for fp16 in (False, True):
        program = built(arch, fp16)
        assert len(program.resources) >= len(program.kernels)
        assert {k: r for k, r in program.resources.items() if r.spills or r.stack} == {}


# Registers a thread, with some room for another nvcc. A multiprocessor has 65536: with 128 threads a block, 128 make
# four blocks of it, 168 three and 255 two; with 256 threads, those of f32 128x128, one.
REGISTERS = {
    "f16 128x128": 240,
    "f16 128x64": 160,
    "f16 64x64": 112,
    "bf16": 112,
    "i8 128x128": 240,
    "i8 64x64": 112,
    "conv f16": 128,
    "conv i8": 128,
    "f32 128x128": 255,
    "f32 64x64": 144,
    "conv f32": 144,
    "attention 32": 240,
    "attention 64": 255,
    "softmax": 32,
    "sum": 32,
    "gelu": 32,
    "f16 attention 32": 128,
    "f16 attention 64 causal": 168,
    "f16 attention 128": 240,
}


@needs_nvcc
@both
def test_registers(arch: str) -> None:
    taken = {name: resources(built(arch, False), name).registers for name in TEMPLATES}
    taken |= {f"f16 {name}": resources(built(arch, True), name).registers for name in ATTENTION}
    assert taken.keys() == REGISTERS.keys()
    assert {name: n for name, n in taken.items() if n > REGISTERS[name]} == {}


@needs_nvcc
@both
def test_static_shared_memory(arch: str) -> None:
    """Tiles are in dynamic shared memory; of the static one, reductions take a number a thread."""
    shared = {name: resources(built(arch, False), name).shared for name in TEMPLATES}
    assert {name: n for name, n in shared.items() if n} == {"softmax": 1024, "sum": 1024}


def test_dynamic_shared_memory() -> None:
    """Two blocks in the 163 KB of a multiprocessor of sm_80, which is less than the 99 KB that a block has on sm_86."""
    for tile in (*tiles.TILES, *tiles.PLAIN_TILES):
        assert tile.shared <= 163 << 9
    for element, widths in attention.DEPTHS.items():
        assert all(attention.shared_bytes(element, width) <= 163 << 9 for width in widths)


# --- instructions -----------------------------------------------------------------------------------------------------


@needs_disassembler
@both
@pytest.mark.parametrize("name", [n for n, t in TEMPLATES.items() if t.tile])
def test_instructions_of_products(arch: str, name: str) -> None:
    """The loop over the depth: as many products as the tile has, operands by ldmatrix, copies without registers."""
    template, program = TEMPLATES[name], built(arch, False)
    found = instructions(arch, False)[kernels(program, name)[-1]]
    tile = template.tile
    assert tile is not None
    assert found["LDL"] == found["STL"] == 0
    copies = (tile.rows + tile.columns) * 4 // tile.threads
    assert found["LDGSTS"] == tile.stages * copies
    if template.multiplies == "FFMA":
        assert found["FFMA"] == tile.warp_rows * tile.warp_columns // 32 * 16
        assert found["LDS.128"] >= 4 * (tile.warp_rows // 4 + tile.warp_columns // 8)
        return
    assert found[template.multiplies] == 2 * (tile.warp_rows // 16) * (tile.warp_columns // 8)
    assert found["LDSM"] == 2 * (tile.warp_rows + tile.warp_columns) // 16


@needs_disassembler
@both
@pytest.mark.parametrize("name", ATTENTION)
def test_instructions_of_attention(arch: str, name: str) -> None:
    """Both products are on tensor cores, values are transposed by ldmatrix, exponentials are the machine's."""
    width = int(name.split()[1])
    found = instructions(arch, True)[kernels(built(arch, True), name)[-1]]
    assert found["HMMA.16816.F32"] == 2 * (width // 16) * 8
    assert found["LDL"] == found["STL"] == 0
    assert found["LDGSTS"] == 4 * 64 * width // 8 // 128
    assert found["MUFU.EX2"] >= 32


@needs_disassembler
@both
def test_instructions_of_attention_in_f32(arch: str) -> None:
    for width in (32, 64):
        name = f"attention {width}"
        found = instructions(arch, False)[kernels(built(arch, False), name)[-1]]
        assert found["LDL"] == found["STL"] == 0
        assert found["LDGSTS"] == 4 * 64 * width // 4 // 128
        assert found["FFMA"] >= 32 * width
