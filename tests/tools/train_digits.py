"""Train the model that `make demo` ships: compiler/demo_digits.onnx and its test data compiler/demo_digits.npz.

    pip install torch==2.13.0 scikit-learn onnx onnxscript
    python tests/tools/train_digits.py

Data: "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998), UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, licensed CC BY 4.0, as scikit-learn's `load_digits` gives it: 1,797 images of 8x8
pixels with values 0..16. The last 500 are the test set, in the order of the file, so that no writer's digits are
shuffled across. The file with the test data holds them unchanged, as bytes, with their labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits  # type: ignore[import-not-found,unused-ignore]
from torch import nn

HERE = Path(__file__).resolve().parents[2] / "compiler"
TEST = 500
EPOCHS = 60


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(y)))


class Digits(nn.Module):
    """A residual network for 8x8 images; the pixels come as they are, 0..16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1)
        self.block1 = Block(24)
        self.down = nn.Conv2d(24, 48, 3, stride=2, padding=1)
        self.block2 = Block(48)
        self.head = nn.Linear(48, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image / 16.0))
        x = torch.relu(self.down(self.block1(x)))
        return self.head(self.block2(x).mean(dim=(2, 3)))


def shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to one pixel."""
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (len(x), 2), generator=generator)
    return torch.stack([p[:, dy : dy + 8, dx : dx + 8] for p, (dy, dx) in zip(padded, offsets.tolist(), strict=True)])


def main() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target)
    train, labels, test, answers = x[:-TEST], y[:-TEST], x[-TEST:], y[-TEST:]
    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * -(-len(train) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(train), generator=generator).split(64):
            loss = nn.functional.cross_entropy(
                model(shifted(train[batch], generator)), labels[batch], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        print(f"test accuracy {float((model(test).argmax(1) == answers).float().mean()):.4f}")
    export(model, test[:2])
    np.savez_compressed(
        HERE / "demo_digits.npz",
        image=digits.images[-TEST:, None].astype(np.uint8),
        labels=digits.target[-TEST:].astype(np.uint8),
    )


def export(model: nn.Module, example: torch.Tensor) -> None:
    import onnx

    program = torch.onnx.export(
        model,
        (example,),
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes={"image": {0: "N"}},
        dynamo=True,
        opset_version=20,
    )
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:]
    proto.graph.name = "digits"
    proto.doc_string = (
        "Residual CNN for 8x8 digits, trained by tests/tools/train_digits.py on UCI optdigits (CC BY 4.0)"
    )
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, HERE / "demo_digits.onnx")


if __name__ == "__main__":
    main()
