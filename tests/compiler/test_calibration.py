"""Calibration data in all the forms that users have them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.compiler.calibration import as_batches, outputs
from intaglio.compiler.calibration_images import ImageFolder, Preprocess, parse_preprocess
from intaglio.ir import Editor, Graph, IntaglioError, Tensor, dim
from intaglio.ir.types import Float

Image = pytest.importorskip("PIL.Image")
F32 = Float("f32")


def graph(*shape: Any) -> Graph:
    e = Editor(name="main")
    e.output(e.emit("math.relu", e.input("x", Tensor(shape, F32))), "y")
    return e.freeze()


COLOUR = graph(dim("N"), 3, 8, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i, size in enumerate([(8, 8, 3), (20, 12, 3), (6, 9, 3)]):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "note.txt").write_text("no image")
    return tmp_path


def test_images(folder: Path) -> None:
    spec = Preprocess(scale=255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    (batch,) = as_batches(ImageFolder(folder, spec), COLOUR)
    assert batch["x"].shape == (3, 3, 8, 8)
    assert batch["x"].dtype == np.float32
    pixels = np.asarray(Image.open(folder / "0.png"), np.float32)
    want = (pixels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1]
    np.testing.assert_allclose(batch["x"][0], want.transpose(2, 0, 1), rtol=1e-5)
    # the larger one is cut, not shrunk
    pixels = np.asarray(Image.open(folder / "1.png"), np.float32)[6:14, 2:10]
    np.testing.assert_allclose(batch["x"][1], ((pixels / 255 - spec.mean) / spec.std).transpose(2, 0, 1), rtol=1e-4)


def test_order_of_channels_and_axes(folder: Path) -> None:
    (rgb,) = as_batches(folder, COLOUR)
    (bgr,) = as_batches(ImageFolder(folder, Preprocess(channels="bgr")), COLOUR)
    np.testing.assert_array_equal(rgb["x"], bgr["x"][:, ::-1])
    (last,) = as_batches(ImageFolder(folder, Preprocess(layout="nhwc")), graph(dim("N"), 8, 8, 3))
    np.testing.assert_array_equal(rgb["x"], last["x"].transpose(0, 3, 1, 2))
    (gray,) = as_batches(ImageFolder(folder, Preprocess(channels="gray", resize=10)), graph(dim("N"), 1, 8, 8))
    assert gray["x"].shape == (3, 1, 8, 8)


def test_labels_and_fixed_batches(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label\n2.png,7\n0.png,3\n")
    found = as_batches(ImageFolder(folder), graph(1, 3, 8, 8))
    assert [b["labels"].tolist() for b in found] == [[7], [3]]


def test_iterators() -> None:
    x = np.ones((4, 3, 8, 8), np.float32)
    assert len(as_batches(({"x": x} for _ in range(3)), COLOUR)) == 3
    assert outputs(COLOUR, as_batches(iter([x, x]), COLOUR))[0].shape == (8, 3, 8, 8)


def complaint(call: Any) -> Any:
    with pytest.raises(IntaglioError) as e:
        call()
    return e.value.diagnostics[0]


def test_complaints(folder: Path, tmp_path: Path) -> None:
    assert complaint(lambda: as_batches(folder, graph(dim("N"), 10))).code == "IG0439"
    assert complaint(lambda: as_batches(folder, graph(dim("N"), 1, 8, 8))).code == "IG0439"
    (tmp_path / "empty").mkdir()
    assert complaint(lambda: as_batches(tmp_path / "empty", COLOUR)).code == "IG0431"
    (folder / "3.png").write_bytes(io.BytesIO(b"nothing").getvalue())
    assert complaint(lambda: as_batches(folder, COLOUR)).code == "IG0438"
    assert complaint(lambda: as_batches(tmp_path / "x.npz", COLOUR)).code == "IG0409"
    assert complaint(lambda: parse_preprocess("std=[0]")).code == "IG0438"
    assert complaint(lambda: parse_preprocess("means=[0]")).hint.startswith("did you mean")
    assert parse_preprocess("scale=255,mean=[0.5],std=[0.5],channels=bgr") == Preprocess(
        scale=255, mean=(0.5,), std=(0.5,), channels="bgr"
    )
