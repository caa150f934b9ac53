"""Inputs to calibrate the zoo's networks with: from training splits where the data folder has any."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from ..zoo import data, models

__all__ = ["training_inputs"]


@cache
def training_inputs(name: str, count: int) -> Mapping[str, Any]:
    """`count` inputs for the network of that name."""
    if name.endswith("_cifar10"):
        return {"input": _cifar10(count, normalised=name != "resnet8_cifar10")}
    if name in _PREPARED:
        size, prepare = _PREPARED[name]
        return {"input": _imagenet(count, size, prepare)}
    if name == "minilm_l6":
        sentences, _ = data.sentences("text/stsb-en-dev.csv")
        tokenizer = models.WordPiece(models._encoder_file("vocab.txt").read_text(encoding="utf-8").splitlines())
        every = max(1, len(sentences) // count)
        return dict(tokenizer(sentences[::every][:count]))
    # no training split in the folder: the first inputs of the test set, without their labels
    model = next(m for m in models.MODELS if m.name == name)
    found = model.data()
    return found.batch(0, found.count if name == "gcn_cora" else min(count, found.count))


_PREPARED = {
    "mobilenet_v1_075_224": (224, models._mobilenet),
    "efficientnet_lite0": (224, models._efficientnet),
    "squeezenet1_1": (227, models._squeezenet),
}


def _cifar10(count: int, normalised: bool) -> Any:
    from PIL import Image

    with Image.open(data.file("vision/cifar10_train10k.webp")) as mosaic:
        pixels = np.asarray(mosaic.convert("RGB"))
    x: Any = pixels.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)[:count]
    if normalised:
        x = (x / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)


def _imagenet(count: int, size: int, prepare: Any) -> Any:
    """Evenly from all classes, the middle `size` x `size` pixels."""
    from PIL import Image

    archive = zipfile.ZipFile(data.file("vision/imagenet_train500.zip"))
    rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    pixels = []
    for i in chosen:
        with Image.open(io.BytesIO(archive.read(rows[i]["file"]))) as image:
            whole = np.asarray(image.convert("RGB"))
        top, left = ((extent - size) // 2 for extent in whole.shape[:2])
        pixels.append(whole[top : top + size, left : left + size])
    return np.ascontiguousarray(prepare(np.stack(pixels)).transpose(0, 3, 1, 2), np.float32)
