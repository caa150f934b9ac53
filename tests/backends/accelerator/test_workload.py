"""Layers and vector work of graphs."""

from __future__ import annotations

import pytest

from intaglio.backends.accelerator.vector import bits_of
from intaglio.backends.accelerator.workload import Work, distinct_layers, work_of
from intaglio.compiler.api import load, optimize
from intaglio.ir.diagnostics import IntaglioError
from intaglio.ir.text import parse
from intaglio.ir.types import Affine, Float, Int, Pow2, Sign

from ...zoo import data


def works(text: str, passes: str = "") -> list[Work]:
    return work_of(optimize(parse(f"ig 1\nmodule @m {{\n{text}\n}}\n"), passes).main)


def test_a_convolution() -> None:
    (work,) = works("""graph @main(%x: f32[2, 8, 14, 12], %w: f32[16, 4, 3, 2]) -> (y: f32[2, 16, 7, 12]) {
      %y = nn.conv(%x, %w) {g = 2, pads = [1, 0, 1, 1], strides = [2, 1]} : f32[2, 16, 7, 12]
      return %y
    }""")
    layer = work.layer
    assert layer is not None
    assert layer.sizes == (2, 2, 8, 4, 7, 12, 3, 2)
    assert (layer.strides, layer.pads, layer.image) == ((2, 1), (1, 0), (14, 12))
    assert layer.bits == (32, 32, 32, 32) and layer.macs == 2 * 16 * 4 * 7 * 12 * 3 * 2


def test_one_and_three_dimensions() -> None:
    line, volume = (
        works("""graph @main(%x: f32[1, 4, 20], %w: f32[6, 4, 5], %u: f32[1, 2, 6, 7, 8], %v: f32[3, 2, 2, 3, 3])
        -> (y: f32[1, 6, 16], z: f32[1, 3, 5, 5, 6]) {
      %y = nn.conv(%x, %w) : f32[1, 6, 16]
      %z = nn.conv(%u, %v) : f32[1, 3, 5, 5, 6]
      return %y, %z
    }""")
    )
    assert line.layer is not None and volume.layer is not None
    assert line.layer.sizes == (1, 1, 6, 4, 16, 1, 5, 1)
    assert volume.layer.sizes == (5, 1, 3, 4, 5, 6, 3, 3)
    assert volume.layer.macs == 3 * 2 * 2 * 3 * 3 * 5 * 5 * 6


@pytest.mark.parametrize(
    ("a", "b", "y", "sizes"),
    [
        ("[7, 5]", "[5, 9]", "[7, 9]", (1, 1, 9, 5, 7, 1, 1, 1)),
        ("[3, 7, 5]", "[5, 9]", "[3, 7, 9]", (1, 1, 9, 5, 21, 1, 1, 1)),  # one matrix for the batch: more rows
        ("[3, 7, 5]", "[3, 5, 9]", "[3, 7, 9]", (1, 3, 9, 5, 7, 1, 1, 1)),
        ("[2, 3, 7, 5]", "[3, 5, 9]", "[2, 3, 7, 9]", (1, 6, 9, 5, 7, 1, 1, 1)),
        ("[5]", "[5, 9]", "[9]", (1, 1, 9, 5, 1, 1, 1, 1)),
        ("[7, 5]", "[5]", "[7]", (1, 1, 1, 5, 7, 1, 1, 1)),
    ],
)
def test_products(a: str, b: str, y: str, sizes: tuple[int, ...]) -> None:
    (work,) = works(f"graph @main(%a: f32{a}, %b: f32{b}) -> (y: f32{y}) {{\n"
                    f"%y = nn.matmul(%a, %b) : f32{y}\nreturn %y\n}}")  # fmt: skip
    assert work.layer is not None and work.layer.sizes == sizes


def test_einsum_and_transposed_convolution() -> None:
    both = works("""graph @main(%a: f32[2, 4, 8, 16], %b: f32[2, 4, 10, 16], %x: f32[1, 6, 5, 5], %w: f32[6, 3, 2, 2])
        -> (y: f32[2, 4, 8, 10], z: f32[1, 3, 10, 10]) {
      %y = math.einsum(%a, %b) {equation = "bhid,bhjd->bhij"} : f32[2, 4, 8, 10]
      %z = nn.conv_transpose(%x, %w) {strides = [2, 2]} : f32[1, 3, 10, 10]
      return %y, %z
    }""")
    assert both[0].layer is not None and both[0].layer.sizes == (1, 8, 10, 16, 8, 1, 1, 1)
    assert both[1].layer is not None and both[1].layer.macs == 6 * 5 * 5 * 3 * 2 * 2


def test_what_follows_a_product_is_done_on_its_way() -> None:
    (work,) = works(
        """graph @main(%x: f32[4, 8], %w: f32[8, 16], %r: f32[4, 16]) -> (y: f32[4, 16]) {
      %h = nn.matmul(%x, %w) : f32[4, 16]
      %s = math.add(%h, %r) : f32[4, 16]
      %y = math.sigmoid(%s) : f32[4, 16]
      return %y
    }""",
        "fuse",
    )
    add, sigmoid = work.vectors
    assert (add.op, add.unit, add.simple, add.read_bits, add.write_bits) == ("math.add", "alu", 64, 64 * 32, 0)
    assert (sigmoid.unit, sigmoid.special, sigmoid.read_bits) == ("sigmoid", 64, 0)


def test_what_stands_alone_reads_and_writes_memory() -> None:
    pool, gather = (
        works("""graph @main(%x: f32[1, 4, 8, 8], %t: f32[99, 16], %i: i64[3]) -> (y: f32[1, 4, 4, 4], z: f32[3, 16]) {
      %y = nn.max_pool(%x) {kernel = [2, 2], strides = [2, 2]} : f32[1, 4, 4, 4]
      %z = shape.gather(%t, %i) : f32[3, 16]
      return %y, %z
    }""")
    )
    assert pool.vectors[0].simple == 4 * 4 * 4 * 4  # four elements a window
    assert (pool.vectors[0].read_bits, pool.vectors[0].write_bits) == (256 * 32, 64 * 32)
    assert gather.vectors[0].read_bits == 48 * 32  # the rows it takes, not the table


def test_bits_of_element_types() -> None:
    assert bits_of(Int("u4")) == 4 and bits_of(Float("bf16")) == 16 and bits_of(Sign(Float("f32"))) == 1
    assert bits_of(Pow2(3, Float("f32"))) == 3 and bits_of(Affine(Int("i2"), Float("f32"), 0.5)) == 2
    assert bits_of(Float("f32"), floats=8) == 8 and bits_of(Int("i32"), floats=8) == 32


def test_weights_have_their_stored_bits_and_their_zeros() -> None:
    """Through quant.dequantize to the integers; zeros are counted by output channel."""
    text = """ig 1
    module @m {
      graph @main(%x: f32[3, 4]) -> (y: f32[3, 3]) {
        %c = const [0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0] : q<i4, f32, scale=0.5>[3, 4]
        %w = quant.dequantize(%c) {to = f32} : f32[3, 4]
        %t = shape.transpose(%w) {perm = [1, 0]} : f32[4, 3]
        %y = nn.matmul(%x, %t) : f32[3, 3]
        return %y
      }
    }"""
    layer = next(w.layer for w in work_of(parse(text).main) if w.layer is not None)
    assert layer.density == (0.5, 1.0) and layer.nonzeros == (2, 4, 0)
    assert layer.bits == (4, 32, 32, 32)


DYNAMIC = """ig 1
    module @m {
      dim N in 1..8
      graph @main(%x: f32[N, 6], %w: f32[6, 4], %k: i64[1]) -> (y: f32[N, 4]) {
        %y = nn.matmul(%x, %w) : f32[N, 4]
        return %y
      }
    }"""


def test_symbolic_sizes_count_as_one() -> None:
    (work,) = work_of(parse(DYNAMIC).main)
    assert work.layer is not None and work.layer.sizes == (1, 1, 4, 6, 1, 1, 1, 1)


def test_unknown_sizes_are_refused() -> None:
    text = """ig 1
    module @m {
      graph @main(%x: bool[6]) -> (y: i64[?, 1]) {
        %y = dyn.nonzero(%x) : i64[?, 1]
        return %y
      }
    }"""
    with pytest.raises(IntaglioError, match="IG0503"):
        work_of(parse(text).main)


ZOO = {  # multiplications by the architectures, distinct layers
    "resnet8_cifar10.onnx": (12_501_632, 9),
    "resnet20_cifar10.onnx": (40_551_040, 7),
    "dscnn_kws.onnx": (2_656_768, 4),
    "ad01_autoencoder.onnx": (264_192, 5),
    "mobilenet_v1_075_224.onnx": (325_400_448, 20),
}


@pytest.mark.skipif(data.folder() is None, reason=data.MISSING)
@pytest.mark.parametrize("name", ZOO)
def test_real_models(name: str) -> None:
    found = work_of(optimize(load(data.file(f"models/{name}")), "fold,cse,fuse").main)
    macs = sum(w.layer.macs for w in found if w.layer is not None)
    assert (macs, len(distinct_layers(found))) == ZOO[name]
