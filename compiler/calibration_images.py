"""A folder of images as calibration data: what turns a picture into the model's input is written down.

    calibration = ImageFolder("photos", Preprocess(scale=255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))

On the command line: `--calibration photos --preprocess "scale=255,mean=[0.485,0.456,0.406],std=[0.229,0.224,0.225]"`.
Images are taken in the order of their names; where a file labels.csv with the columns `file` and `label` lies beside
them, in its order and with its labels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..ir.diagnostics import error
from ..ir.graph import Graph
from ..ir.types import Tensor
from ..passes.options import Source, fill, option
from ..passes.syntax import parse_options

__all__ = ["ImageFolder", "Preprocess", "parse_preprocess"]

KINDS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff"})
BATCH = 32  # images of a batch where the model takes any number


@dataclass(frozen=True)
class Preprocess:
    """x = (pixels / scale - mean) / std, after resizing and cropping; means and deviations are one number or three."""

    resize: int | None = option(None, "pixels of the shorter side before the middle is cut out; none: the model's size")
    scale: float = option(1.0, "what bytes are divided by first: 255 gives numbers from 0 to 1")
    mean: tuple[float, ...] = option((0.0,), "taken off, by channel")
    std: tuple[float, ...] = option((1.0,), "divided by, by channel")
    channels: Literal["rgb", "bgr", "gray"] = option("rgb", "the order of channels")
    layout: Literal["nchw", "nhwc"] = option("nchw", "the order of axes")
    limit: int = option(1024, "how many images are taken")

    def __post_init__(self) -> None:
        if not self.scale or not all(self.std):
            raise ValueError("scale and std are not 0")
        if {len(self.mean), len(self.std)} - {1, 1 if self.channels == "gray" else 3}:
            raise ValueError("mean and std have one number, or one for each channel")
        if self.limit < 1 or (self.resize is not None and self.resize < 1):
            raise ValueError("resize and limit are at least 1")


def parse_preprocess(text: str) -> Preprocess:
    """What `--preprocess` says; IG0438 with the position when it says nothing."""
    source = Source("--preprocess", text)
    given = parse_options(source, 0, "IG0438") if text.strip() else []
    made: Preprocess = fill(Preprocess, given, owner="`--preprocess`", source=source, code="IG0438")
    return made


@dataclass(frozen=True)
class ImageFolder:
    """Calibration data for a model with one input, of images."""

    path: str | Path
    preprocess: Preprocess = Preprocess()

    def batches(self, graph: Graph) -> Iterator[Mapping[str, Any]]:
        """Batches by input name, with `labels` where they are known; read as they are asked for."""
        name, size = self._input(graph)
        files = self._files()
        rows = graph.inputs[0].type.shape[0]
        step = rows if isinstance(rows, int) and rows > 0 else BATCH
        for start in range(0, len(files), step):
            part = files[start : start + step]
            batch: dict[str, Any] = {name: np.stack([self._read(file, size) for file, _ in part])}
            labels = [label for _, label in part]
            if all(label is not None for label in labels):
                batch["labels"] = np.array(labels)
            yield batch

    def _input(self, graph: Graph) -> tuple[str, tuple[int, int]]:
        """The name of the input, its height and width."""
        t = graph.inputs[0].type if len(graph.inputs) == 1 else None
        axes = (2, 3) if self.preprocess.layout == "nchw" else (1, 2)
        depth = 1 if self.preprocess.channels == "gray" else 3
        if isinstance(t, Tensor) and len(t.shape) == 4:
            height, width = (t.shape[i] for i in axes)
            channel = t.shape[1 if self.preprocess.layout == "nchw" else 3]
            if isinstance(height, int) and isinstance(width, int) and channel == depth:
                return graph.inputs[0].name, (height, width)
        found = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
        what = f"a folder of images ({self.preprocess.channels}, {self.preprocess.layout}) does not fit the model"
        raise error("IG0439", what, label=found, hint="give channels=…, layout=…, or the inputs as .npz")

    def _files(self) -> list[tuple[Path, int | None]]:
        folder = Path(self.path)
        listed = folder / "labels.csv"
        found: list[tuple[Path, int | None]] = []
        if listed.is_file():
            with listed.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines):
                    if row.get("file"):
                        label = row.get("label") or ""
                        found.append((folder / row["file"], int(label) if label.lstrip("-").isdigit() else None))
        elif folder.is_dir():
            found = [(f, None) for f in sorted(folder.rglob("*")) if f.suffix.lower() in KINDS]
        if not found:
            kinds = ", ".join(sorted(KINDS))
            raise error("IG0431", f"`{folder}` has no images to calibrate with", hint=f"files of the kinds {kinds}")
        return found[: self.preprocess.limit]

    def _read(self, file: Path, size: tuple[int, int]) -> Any:
        try:
            from PIL import Image
        except ImportError:
            raise error("IG0438", "reading images needs Pillow", hint="pip install pillow") from None
        p = self.preprocess
        try:
            with Image.open(file) as opened:
                image = opened.convert("L" if p.channels == "gray" else "RGB")
        except (OSError, ValueError) as e:
            raise error("IG0438", f"`{file}` cannot be read as an image: {e}") from None
        height, width = size
        if p.resize is not None or image.width < width or image.height < height:
            # the shorter side as asked for, or as small as the model's size allows
            factor = max(width / image.width, height / image.height)
            factor = max(factor, p.resize / min(image.size)) if p.resize is not None else factor
            whole = (max(width, round(image.width * factor)), max(height, round(image.height * factor)))
            image = image.resize(whole, Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        pixels = pixels[..., ::-1] if p.channels == "bgr" else pixels
        x = (pixels / np.float32(p.scale) - np.array(p.mean, np.float32)) / np.array(p.std, np.float32)
        return np.ascontiguousarray(x if p.layout == "nhwc" else x.transpose(2, 0, 1), np.float32)
