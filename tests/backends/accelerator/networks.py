"""Layers of published networks, as the ground truth of accelerators names them: shapes only, no results."""

from __future__ import annotations

from intaglio.backends.accelerator.layer import Layer, conv
from intaglio.backends.accelerator.models.nvdla import Step

__all__ = ["ALEXNET", "BIT_FUSION", "VGG16", "alexnet_steps", "googlenet_steps", "square"]


def square(
    k: int, out: int, stride: int, c: int, filters: int, inputs: int = 8, weights: int = 8, batch: int = 1
) -> Layer:
    """A k x k convolution with out x out outputs, whatever pads that takes."""
    side = (out - 1) * stride + k
    return Layer("", (batch, 1, filters, c, out, out, k, k), (stride, stride), image=(side, side),
                 bits=(weights, inputs, 8, 32))  # fmt: skip


# filters, channels, image, window, groups, stride, pad
ALEXNET = {
    "CONV1": (96, 3, 227, 11, 1, 4, 0),
    "CONV2": (256, 96, 27, 5, 2, 1, 2),
    "CONV3": (384, 256, 13, 3, 1, 1, 1),
    "CONV4": (384, 384, 13, 3, 2, 1, 1),
    "CONV5": (256, 384, 13, 3, 2, 1, 1),
}
# filters, channels, image; 3 x 3 windows; the name of its densities in Timeloop's table
VGG16 = {
    "VGG_conv1_1": (64, 3, 224),
    "VGG_conv1_2": (64, 64, 224),
    "VGG_conv2_1": (128, 64, 112),
    "VGG_conv2_2": (128, 128, 112),
    "VGG_conv3_1": (256, 128, 56),
    "VGG_conv3_2": (256, 256, 56),
    "VGG_conv3_3": (256, 256, 56),
    "VGG_conv4_1": (512, 256, 28),
    "VGG_conv4_2": (512, 512, 28),
    "VGG_conv4_3": (512, 512, 28),
    "VGG_conv5_1": (512, 512, 14),
    "VGG_conv5_2": (512, 512, 14),
    "VGG_conv5_3": (512, 512, 14),
}


def _qnn(base: int, weights: int, bits: int) -> dict[str, tuple[int, ...]]:
    b = base
    return {
        "conv0": (3, 32, 1, 3, b, 8, weights), "conv1": (3, 32, 1, b, b, bits, bits),
        "conv2": (3, 16, 1, b, 2 * b, bits, bits), "conv3": (3, 16, 1, 2 * b, 2 * b, bits, bits),
        "conv4": (3, 8, 1, 2 * b, 4 * b, bits, bits), "conv5": (3, 8, 1, 4 * b, 4 * b, bits, bits),
        "fc6": (1, 1, 1, 64 * b, 1024, bits, bits), "fc7": (1, 1, 1, 1024, 1024, bits, bits),
        "fc8": (1, 1, 1, 1024, 10, bits, bits),
    }  # fmt: skip


def _resnet18() -> dict[str, tuple[int, ...]]:
    layers: dict[str, tuple[int, ...]] = {"conv1_a": (7, 112, 2, 3, 128, 8, 8)}
    before = 128
    for module, (out, width) in {2: (56, 128), 3: (28, 256), 4: (14, 512), 5: (7, 1024)}.items():
        for i in (1, 2):
            name = f"module{module}/conv{module}_{i}"
            layers[f"{name}_a"] = (1, out, 2 if i == 1 and module > 2 else 1, before, width, 4, 4)
            layers[f"{name}_b"] = (3, out, 1, width, width, 4, 4)
            before = width
    return layers


BIT_FUSION: dict[str, dict[str, tuple[int, ...]]] = {
    "AlexNet": {
        "conv1": (11, 55, 4, 3, 96, 8, 8), "conv2": (5, 27, 1, 96, 256, 4, 4), "conv3": (3, 13, 1, 512, 384, 4, 4),
        "conv4": (3, 13, 1, 384, 384, 4, 4), "conv5": (3, 13, 1, 384, 256, 4, 4), "fc1": (1, 1, 1, 18432, 8192, 4, 4),
        "fc2": (1, 1, 1, 8192, 8192, 4, 4), "fc3": (1, 1, 1, 8192, 1000, 8, 8),
    },
    "RESNET-18": _resnet18(),
    "SVHN": _qnn(64, 1, 1),
    "CIFAR10": _qnn(128, 8, 2),
    "LeNet-5": {"conv0": (5, 32, 1, 1, 32, 2, 2), "conv1": (5, 16, 1, 32, 64, 2, 2), "fc1": (1, 1, 1, 4096, 512, 2, 2),
                "fc2": (1, 1, 1, 512, 10, 2, 2)},
    "VGG-7": {"conv1": (3, 32, 1, 3, 128, 2, 2), "conv2": (3, 16, 1, 128, 256, 2, 2),
              "conv3": (3, 8, 1, 256, 512, 2, 2), "fc1": (1, 1, 1, 8192, 1024, 2, 2)},
    "RNN": {"matmul": (1, 1, 1, 4096, 4096, 4, 4)},
    "LSTM": {"matmul": (1, 1, 1, 3600, 3600, 4, 4)},
}  # fmt: skip
"""Window, outputs, stride, channels, filters, bits of inputs and weights. AlexNet and ResNet-18 are of twice the width
(WRPN): the published DRAM traffic of their weights is that of the wide networks. The first convolution is unrolled."""


def alexnet_steps() -> list[Step]:
    """AlexNet with its pools."""
    pooled = {"CONV1": 27 * 27 * 96, "CONV2": 13 * 13 * 256, "CONV5": 6 * 6 * 256}
    steps = [
        Step(conv(n, k, c, (i, i), (w, w), groups=g, strides=(s, s), pads=(p,) * 4), pooled.get(n, 0))
        for n, (k, c, i, w, g, s, p) in ALEXNET.items()
    ]
    return [*steps, *(Step(_connected(c, k)) for c, k in ((9216, 4096), (4096, 4096), (4096, 1000)))]


INCEPTIONS = (
    (192, 28, 64, 96, 128, 16, 32, 32), (256, 28, 128, 128, 192, 32, 96, 64), (480, 14, 192, 96, 208, 16, 48, 64),
    (512, 14, 160, 112, 224, 24, 64, 64), (512, 14, 128, 128, 256, 24, 64, 64), (512, 14, 112, 144, 288, 32, 64, 64),
    (528, 14, 256, 160, 320, 32, 128, 128), (832, 7, 256, 160, 320, 32, 128, 128),
    (832, 7, 384, 192, 384, 48, 128, 128),
)  # fmt: skip


def googlenet_steps() -> list[Step]:
    """GoogLeNet, every convolution a step of its own."""
    steps = [
        Step(conv("conv1", 64, 3, (224, 224), (7, 7), strides=(2, 2), pads=(3,) * 4), 56 * 56 * 64),
        Step(conv("conv2r", 64, 64, (56, 56), (1, 1))),
        Step(conv("conv2", 192, 64, (56, 56), (3, 3), pads=(1,) * 4), 28 * 28 * 192),
    ]
    for c, side, a, r3, k3, r5, k5, pool in INCEPTIONS:
        for channels, filters, w in ((c, a, 1), (c, r3, 1), (r3, k3, 3), (c, r5, 1), (r5, k5, 5), (c, pool, 1)):
            steps.append(Step(conv("", filters, channels, (side, side), (w, w), pads=(w // 2,) * 4)))
    return [*steps, Step(_connected(1024, 1000))]


def _connected(c: int, k: int) -> Layer:
    return Layer("fc", (1, 1, k, c, 1, 1, 1, 1), image=(1, 1))
