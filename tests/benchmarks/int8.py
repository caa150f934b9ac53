"""The int8 and int4 rows of bench_cpu.py: one QDQ model for everybody, quantised by ONNX Runtime.

Int8 has one scale a channel: that is what ONNX Runtime and OpenVINO run fastest, and what our importer and pass
`integer` start from. Of the transformer only products are quantised, those of attention too; what is added and
normalised stays in floats, whose range no 8 bits have. Int4 weights have one scale for 32 (ONNX Runtime's MatMulNBits).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..zoo.models import MODELS as ZOO
from .calibrate import training_inputs
from .models import BenchModel, fix_dims, mobilenet_v2, resnet18, resnet50

__all__ = ["INT8", "Int8Model", "quantise"]

CALIBRATION = 8
TOKENS = 128
STEPS = 0.1
"""How far outputs may differ: a few steps of 8 bits, carried through the layers."""

TEXT_STEPS = 0.5
"""The same through six layers of attention: ONNX Runtime's own are 0.4 of the largest away from those in floats."""


@dataclass(frozen=True)
class Int8Model(BenchModel):
    """`proto` is the float model; `data(model)` are inputs to calibrate with. `ops` are quantised; of none, all."""

    data: Callable[[onnx.ModelProto], Sequence[Mapping[str, Any]]] = lambda model: ()
    ops: tuple[str, ...] = ()
    agree: float = STEPS

    def build(self) -> onnx.ModelProto:
        made = super().build()
        return quantise(made, self.data(made), self.ops)


@dataclass(frozen=True)
class TextModel(Int8Model):
    """An encoder of sentences, which is measured on a text: its int8 weights have not seen random tokens."""

    dims: Mapping[str, int] = field(default_factory=lambda: {"N": 1, "T": TOKENS})
    agree: float = TEXT_STEPS

    def inputs(self, model: onnx.ModelProto) -> dict[str, Any]:
        return dict(_texts(1)[0])


class Int4Model(TextModel):
    """Weights of 4 bits, activations in floats."""

    def build(self) -> onnx.ModelProto:
        return fix_dims(grouped(self.proto()), self.dims)  # of known shapes, products and sums would be joined before


def _product(width: int) -> onnx.ModelProto:
    """One token times a square matrix."""
    weight = np.random.default_rng(0).normal(0, width**-0.5, (width, width)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")],
        "product",
        [value("x", onnx.TensorProto.FLOAT, [1, width])],
        [value("y", onnx.TensorProto.FLOAT, [1, width])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


@dataclass(frozen=True)
class ProductModel(BenchModel):
    """Weights of 4 bits; sums of floats, for which ONNX Runtime's MatMulNBits is told accuracy level 1.

    OpenVINO rounds activations to bytes: that is what `agree` leaves room for.
    """

    agree: float = 0.02
    settings: Mapping[str, str] = field(default_factory=lambda: {"accuracy_level": "1"})

    def build(self) -> onnx.ModelProto:
        return grouped(self.proto())


def quantise(model: onnx.ModelProto, data: Sequence[Mapping[str, Any]], ops: Sequence[str] = ()) -> onnx.ModelProto:
    """A QDQ model: u8 activations by their minima and maxima, i8 weights with one scale a channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(data)

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("float.onnx", "folded.onnx", "int8.onnx")]
        onnx.save(model, paths[0])
        quant_pre_process(paths[0], paths[1], skip_symbolic_shape=True)
        quantize_static(
            paths[1],
            paths[2],
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(ops) or None,
        )
        return onnx.load(paths[2])


def grouped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The constant weights of products in 4 bits, symmetric, with a scale for 32 of them."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
    from onnxruntime.quantization.quant_utils import QuantFormat
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("float.onnx", "folded.onnx")]
        onnx.save(model, paths[0])
        quant_pre_process(paths[0], paths[1], skip_symbolic_shape=True)
        config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, quant_format=QuantFormat.QDQ)
        logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
        quantizer = MatMulNBitsQuantizer(onnx.load(paths[1]), algo_config=config)
        quantizer.process()
        return quantizer.model.model


def _noise(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """For random weights random images."""
    (value,) = model.graph.input
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    return [{value.name: rng.standard_normal(shape).astype(np.float32)} for _ in range(2)]


def _random(name: str, title: str, proto: Callable[[], onnx.ModelProto]) -> Int8Model:
    return Int8Model(f"{name}_int8", f"{title} int8", proto, data=_noise)


def _zoo(name: str, title: str) -> Int8Model:
    found = next(m for m in ZOO if m.name == name)

    def data(_: onnx.ModelProto) -> list[Mapping[str, Any]]:
        return [found.data().batch(i, i + 1) for i in range(CALIBRATION)]

    return Int8Model(f"{name}_int8", f"{title} int8", found.proto, lambda: found.missing, data=data)


@cache
def _texts(count: int) -> list[Mapping[str, Any]]:
    """Texts of TOKENS tokens each: sentences of the development set, one after the other."""
    found = training_inputs("minilm_l6", 256)
    present = found["attention_mask"].astype(bool)
    rows = [ids[mask] for ids, mask in zip(found["input_ids"], present, strict=True)]
    words, (first, last) = np.concatenate([r[1:-1] for r in rows]), rows[0][[0, -1]]
    inner = TOKENS - 2
    texts = [np.concatenate([[first], words[i * inner : (i + 1) * inner], [last]]) for i in range(count)]
    return [{"input_ids": t[None].astype(np.int64), "attention_mask": np.ones((1, TOKENS), np.int64)} for t in texts]


def _encoder() -> dict[str, Any]:
    found = next(m for m in ZOO if m.name == "minilm_l6")
    return {"proto": found.proto, "missing": lambda: found.missing, "data": lambda _: _texts(CALIBRATION + 1)[1:]}


INT8 = (
    _random("resnet18", "ResNet-18", resnet18),
    _random("resnet50", "ResNet-50", resnet50),
    _random("mobilenet_v2", "MobileNetV2", mobilenet_v2),
    _zoo("mobilenet_v1_075_224", "MobileNetV1 0.75"),
    _zoo("efficientnet_lite0", "EfficientNet-Lite0"),
    _zoo("squeezenet1_1", "SqueezeNet 1.1"),
    _zoo("resnet8_cifar10", "ResNet-8"),
    _zoo("resnet20_cifar10", "ResNet-20"),
    _zoo("resnet56_cifar10", "ResNet-56"),
    _zoo("dscnn_kws", "DS-CNN"),
    _zoo("ad01_autoencoder", "autoencoder ad01"),
    TextModel("minilm_int8", f"MiniLM-L6, {TOKENS} tokens, int8", **_encoder(), ops=("MatMul", "Gemm")),
    Int4Model("minilm_int4", f"MiniLM-L6, {TOKENS} tokens, int4 weights", **_encoder()),
    *(
        ProductModel(f"gemv_{width}_int4", f"1x{width} times {width}x{width}, int4 weights", partial(_product, width))
        for width in (2048, 4096)
    ),
)
