"""The int8 rows of bench_cpu.py: one QDQ model for everybody, quantised by ONNX Runtime with one scale a channel.

That is what ONNX Runtime and OpenVINO run fastest, and what our importer and pass `integer` start from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..zoo.models import MODELS as ZOO
from .models import BenchModel, mobilenet_v2, resnet18, resnet50

__all__ = ["INT8", "Int8Model", "quantise"]

CALIBRATION = 8
STEPS = 0.1
"""How far outputs may differ: a few steps of 8 bits, carried through the layers."""


@dataclass(frozen=True)
class Int8Model(BenchModel):
    """`proto` is the float model; `data(model)` are inputs to calibrate with."""

    data: Callable[[onnx.ModelProto], Sequence[Mapping[str, Any]]] = lambda model: ()
    agree: float = STEPS

    def build(self) -> onnx.ModelProto:
        made = super().build()
        return quantise(made, self.data(made))


def quantise(model: onnx.ModelProto, data: Sequence[Mapping[str, Any]]) -> onnx.ModelProto:
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
        )
        return onnx.load(paths[2])


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
)
