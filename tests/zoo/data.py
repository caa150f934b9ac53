"""The data folder: where it is, and its data sets in the form that the models want (see the README in it)."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MISSING", "Data", "arrays", "cifar10", "cora", "file", "folder", "imagenet", "keywords", "manifest"]
__all__ += ["sentences", "shakespeare"]

MISSING = (
    "the real models and data are in a folder of their own (INTAGLIO_DATA, else ../shared/data), which is not here"
)


@cache
def folder() -> Path | None:
    """The data folder, if there is one."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("INTAGLIO_DATA") or beside)
    return path if (path / "manifest.json").is_file() else None


def file(name: str) -> Path:
    root = folder()
    assert root is not None, MISSING
    return root / name


@cache
def manifest() -> dict[str, dict[str, Any]]:
    """What is known of every file, by its name."""
    entries = json.loads(file("manifest.json").read_text(encoding="utf-8"))["files"]
    return {e["name"]: e for e in entries}


def arrays(name: str) -> dict[str, Any]:
    with np.load(file(name), allow_pickle=False) as found:
        return dict(found)


@dataclass(frozen=True)
class Data:
    """A data set: `batch(start, stop)` gives those rows as inputs by name; `labels` are of all rows."""

    count: int
    batch: Callable[[int, int], Mapping[str, Any]]
    labels: Any = None


# --- images and sounds ------------------------------------------------------------------------------------------------


@cache
def _cifar10_pixels() -> Any:
    from PIL import Image

    with Image.open(file("vision/cifar10_test.webp")) as mosaic:
        pixels = np.asarray(mosaic.convert("RGB"))
    return pixels.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)


def cifar10(normalised: bool) -> Data:
    """The test set: as bytes 0..255, or with ImageNet's mean and deviation taken out."""

    def batch(start: int, stop: int) -> dict[str, Any]:
        x = _cifar10_pixels()[start:stop]
        if normalised:
            x = (x / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        return {"input": np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)}

    return Data(10_000, batch, arrays("vision/cifar10_labels.npz")["test"])


def imagenet(size: int, prepare: Callable[[Any], Any]) -> Data:
    """1,300 validation images, the middle `size` x `size` pixels; `prepare` is given RGB bytes [N, size, size, 3]."""
    archive = zipfile.ZipFile(file("vision/imagenet_val1300.zip"))
    rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))

    def pixels(name: str) -> Any:
        from PIL import Image

        with Image.open(io.BytesIO(archive.read(name))) as image:
            whole = np.asarray(image.convert("RGB"))
        top, left = ((extent - size) // 2 for extent in whole.shape[:2])
        return whole[top : top + size, left : left + size]

    def batch(start: int, stop: int) -> dict[str, Any]:
        x = prepare(np.stack([pixels(row["file"]) for row in rows[start:stop]]))
        return {"input": np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)}

    return Data(len(rows), batch, np.array([int(row["label"]) for row in rows]))


def keywords() -> Data:
    """Spoken words as 49 frames of 10 cepstral coefficients, stored quantised."""
    stored = arrays("audio/kws01_mfcc.npz")
    x = (stored["x"].astype(np.float32) - stored["zero"].astype(np.float32)) * stored["scale"]
    return Data(len(x), lambda start, stop: {"input": x[start:stop, None]}, stored["y"])


# --- graphs and text --------------------------------------------------------------------------------------------------


def cora() -> Data:
    """Papers and their citations. A batch is the graph that some papers form; the label of those not tested is -1."""
    stored = arrays("graph/cora.npz")
    count, width = stored["x_shape"]
    x = np.zeros((count, width), np.float32)
    x[np.repeat(np.arange(count), np.diff(stored["x_indptr"])), stored["x_indices"]] = stored["x_data"]
    x /= np.maximum(x.sum(1, keepdims=True), 1)
    a = np.eye(count, dtype=np.float32)
    left, right = stored["edges"]
    a[left, right] = a[right, left] = 1
    scale = a.sum(1) ** -0.5
    a *= scale[:, None] * scale
    labels = np.full(count, -1)
    labels[stored["test"]] = stored["y"][stored["test"]]

    def batch(start: int, stop: int) -> dict[str, Any]:
        return {"features": x[start:stop], "adjacency": np.ascontiguousarray(a[start:stop, start:stop])}

    return Data(int(count), batch, labels)


def shakespeare(vocabulary: str, window: int) -> Data:
    """The last tenth of the text in windows that do not overlap; labels are the characters one further."""
    text = file("text/tinyshakespeare.txt").read_text(encoding="utf-8")
    text = text[int(0.9 * len(text)) :]
    ids = np.array([vocabulary.index(c) for c in text], np.int64)
    count = (len(ids) - 1) // window
    x, y = (ids[shift : shift + count * window].reshape(count, window) for shift in (0, 1))
    return Data(count, lambda start, stop: {"tokens": x[start:stop]}, y)


def sentences(name: str) -> tuple[list[str], Any]:
    """SST-2's sentences and labels, or of STS-B's pairs the first sentences, then the second ones, and the scores."""
    with file(name).open(encoding="utf-8", newline="") as lines:
        if name.endswith(".csv"):
            first, second, scores = zip(*csv.reader(lines), strict=True)
            return [*first, *second], np.array(scores, np.float64)
        rows = [line.rstrip("\n").rsplit("\t", 1) for line in lines]
        return [text for text, _ in rows], np.array([int(label) for _, label in rows])
