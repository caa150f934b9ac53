"""What bench_cpu.py measures: networks of fixed shape at batch 1, and inputs for them.

ResNet-18, ResNet-50 (He et al. 2015; stride in the 3x3 convolution, as in torchvision) and MobileNetV2 (Sandler et al.
2018) have seeded random weights: time depends on shapes only. The others come from the zoo, with their own weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ..zoo.builder import Builder
from ..zoo.builders import sentence_encoder
from ..zoo.models import MODELS as ZOO

__all__ = ["BF16", "MODELS", "BenchModel", "fix_dims", "mobilenet_v2", "resnet18", "resnet50"]


@dataclass(frozen=True)
class BenchModel:
    """`dims` are the sizes of the symbolic dimensions; `below` bounds the integers of an integer input.

    `agree` is the largest difference from ONNX Runtime, as a part of the largest magnitude in its output. `passes` are
    ours, `settings` what the peers are told (see worker.py); `untimed` ones only say what the outputs should be.
    """

    name: str
    title: str
    proto: Callable[[], onnx.ModelProto]
    missing: Callable[[], str] = lambda: ""
    dims: Mapping[str, int] = field(default_factory=lambda: {"N": 1})
    below: Mapping[str, int] = field(default_factory=dict)
    agree: float = 1e-4
    passes: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    untimed: tuple[str, ...] = ()

    def build(self) -> onnx.ModelProto:
        """The model with every dimension fixed."""
        return fix_dims(self.proto(), self.dims)

    def inputs(self, model: onnx.ModelProto) -> dict[str, Any]:
        """Normal noise, or integers from `below` upwards to its bound (a mask of ones is `below` 1)."""
        rng = np.random.default_rng(0)
        weights = {t.name for t in model.graph.initializer}
        found = {}
        for value in model.graph.input:
            if value.name in weights:
                continue
            tensor = value.type.tensor_type
            shape = [d.dim_value for d in tensor.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if np.issubdtype(dtype, np.integer):
                bound = self.below[value.name]
                found[value.name] = np.ones(shape, dtype) if bound == 1 else rng.integers(1, bound, shape, dtype)
            else:
                found[value.name] = rng.standard_normal(shape).astype(dtype)
        return found


def fix_dims(model: onnx.ModelProto, dims: Mapping[str, int]) -> onnx.ModelProto:
    """A copy with numbers for the named dimensions of inputs and outputs; no shapes inside, which are derived."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.value_info[:]
    for value in (*made.graph.input, *made.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in dims:
                dim.dim_value = dims[dim.dim_param]
    return made


class _ImageNet:
    """Layers with random weights, as torch exports them in evaluation mode with batch norm kept apart."""

    def __init__(self, name: str) -> None:
        self.b = Builder(name)
        self.rng = np.random.default_rng(0)
        self.x = self.b.input("input", np.float32, [1, 3, 224, 224])

    def _weights(self, *shape: int) -> str:
        """He et al.'s initialisation keeps activations in range."""
        fan_in = int(np.prod(shape[1:]))
        return self.b.constant(self.rng.standard_normal(shape).astype(np.float32) * (2 / fan_in) ** 0.5)

    def conv(self, x: str, in_: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        """A convolution without bias that keeps the size (but for the stride), and batch norm."""
        pad = kernel // 2
        y = self.b.op(
            "Conv", x, self._weights(out, in_ // groups, kernel, kernel),
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=groups,
        )  # fmt: skip
        low_high = ((0.5, 1.0), (-0.2, 0.2), (-0.2, 0.2), (0.8, 1.2))  # scale, bias, mean, variance
        norm = [self.b.constant(self.rng.uniform(*span, out).astype(np.float32)) for span in low_high]
        return self.b.op("BatchNormalization", y, *norm, epsilon=1e-5)

    def relu(self, x: str) -> str:
        return self.b.op("Relu", x)

    def relu6(self, x: str) -> str:
        return self.b.op("Clip", x, self.b.constant(np.float32(0)), self.b.constant(np.float32(6)))

    def head(self, x: str, width: int) -> onnx.ModelProto:
        """Global average, and 1000 classes."""
        x = self.b.op("Flatten", self.b.op("GlobalAveragePool", x), axis=1)
        bias = self.b.constant(np.zeros(1000, np.float32))
        return self.b.build(self.b.op("Gemm", x, self._weights(1000, width), bias, transB=1), "logits", [1, 1000])


def _resnet(name: str, counts: tuple[int, ...], bottleneck: bool) -> onnx.ModelProto:
    net = _ImageNet(name)
    x = net.relu(net.conv(net.x, 3, 64, 7, stride=2))
    x = net.b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for stage, count in enumerate(counts):
        inner = 64 << stage
        out = inner * (4 if bottleneck else 1)
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            if bottleneck:
                y = net.relu(net.conv(x, width, inner, 1))
                y = net.relu(net.conv(y, inner, inner, 3, stride))
                y = net.conv(y, inner, out, 1)
            else:
                y = net.relu(net.conv(x, width, inner, 3, stride))
                y = net.conv(y, inner, inner, 3)
            kept = x if stride == 1 and width == out else net.conv(x, width, out, 1, stride)
            x, width = net.relu(net.b.op("Add", y, kept)), out
    return net.head(x, width)


def resnet18() -> onnx.ModelProto:
    return _resnet("resnet18", (2, 2, 2, 2), bottleneck=False)


def resnet50() -> onnx.ModelProto:
    return _resnet("resnet50", (3, 4, 6, 3), bottleneck=True)


def mobilenet_v2() -> onnx.ModelProto:
    """Table 2 of the paper: expansion, channels, blocks, stride of the first."""
    net = _ImageNet("mobilenet_v2")
    x, width = net.relu6(net.conv(net.x, 3, 32, 3, stride=2)), 32
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, out, count, first in table:
        for block in range(count):
            stride, hidden = first if block == 0 else 1, width * expansion
            y = x if expansion == 1 else net.relu6(net.conv(x, width, hidden, 1))
            y = net.relu6(net.conv(y, hidden, hidden, 3, stride, groups=hidden))
            y = net.conv(y, hidden, out, 1)
            x = net.b.op("Add", x, y) if stride == 1 and width == out else y
            width = out
    return net.head(net.relu6(net.conv(x, width, 1280, 1)), 1280)


def _zoo(name: str, title: str, **fixed: Any) -> BenchModel:
    found = next(m for m in ZOO if m.name == name)
    return BenchModel(name, title, found.proto, lambda: found.missing, **fixed)


def _sentence_encoder() -> onnx.ModelProto:
    """MiniLM-L6 with its own weights, or with random ones where the package that has them is missing."""
    found = next(m for m in ZOO if m.name == "minilm_l6")
    return _random_encoder() if found.missing else found.proto()


def _random_encoder(width: int = 384, inner: int = 1536, layers: int = 6) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {}

    def linear(name: str, out: int, in_: int) -> None:
        weights[f"{name}.weight"] = rng.normal(0, in_**-0.5, (out, in_)).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(out, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(width, np.float32), np.zeros(width, np.float32)

    for kind, rows in (("word", 30522), ("position", 512), ("token_type", 2)):
        weights[f"embeddings.{kind}_embeddings.weight"] = rng.standard_normal((rows, width)).astype(np.float32)
    norm("embeddings.LayerNorm")
    for layer in (f"encoder.layer.{i}" for i in range(layers)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{part}", width, width)
        linear(f"{layer}.intermediate.dense", inner, width)
        linear(f"{layer}.output.dense", width, inner)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    sizes = {"hidden_size": width, "num_attention_heads": 12, "num_hidden_layers": layers, "layer_norm_eps": 1e-12}
    return sentence_encoder(weights, json.dumps(sizes))


def _encoder_title() -> str:
    missing = next(m for m in ZOO if m.name == "minilm_l6").missing
    return "MiniLM-L6, 128 tokens" + (", random weights" if missing else "")


HALVES = 0.05
"""How far the outputs of a network in bf16 may be from those in f32."""

MODELS = (
    BenchModel("resnet18", "ResNet-18", resnet18),
    BenchModel("resnet50", "ResNet-50", resnet50),
    BenchModel("mobilenet_v2", "MobileNetV2", mobilenet_v2),
    _zoo("mobilenet_v1_075_224", "MobileNetV1 0.75"),
    _zoo("efficientnet_lite0", "EfficientNet-Lite0"),
    _zoo("squeezenet1_1", "SqueezeNet 1.1"),
    _zoo("resnet8_cifar10", "ResNet-8"),
    _zoo("resnet20_cifar10", "ResNet-20"),
    _zoo("resnet56_cifar10", "ResNet-56"),
    _zoo("dscnn_kws", "DS-CNN"),
    _zoo("ad01_autoencoder", "autoencoder ad01"),
    BenchModel(
        "minilm_l6",
        _encoder_title(),
        _sentence_encoder,
        dims={"N": 1, "T": 128},
        below={"input_ids": 30000, "attention_mask": 1},
    ),
    _zoo("chargpt", "chargpt, 64 characters", below={"tokens": 65}),
)

BF16 = tuple(
    BenchModel(
        f"{name}_bf16",
        f"{title} bf16",
        proto,
        agree=HALVES,
        passes="bf16",
        settings={"precision": "bf16"},
        untimed=("onnxruntime",),  # it has no bf16 on CPUs
    )
    for name, title, proto in (
        ("resnet18", "ResNet-18", resnet18),
        ("resnet50", "ResNet-50", resnet50),
        ("mobilenet_v2", "MobileNetV2", mobilenet_v2),
    )
)
