"""Calibration data: batches of inputs by name, cut to the sizes that a graph takes, and errors measured on them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.diagnostics import IntaglioError, error
from ..ir.graph import Graph
from ..ir.interpret import check_inputs
from ..passes.quantize.evaluate import evaluate
from .calibration_images import ImageFolder

__all__ = ["LABELS", "Batch", "as_batches", "compare", "fit", "labels_of", "outputs"]

Batch = Mapping[str, Any]

LABELS = "labels"  # an array of this name that is no input: the right answers, for accuracy


def as_batches(data: Any, graph: Graph) -> list[Batch]:
    """Batches from what a user may hand over: arrays by name, one array, batches one after the other, or None.

    Also a folder of images, by its path or as an `ImageFolder`, which says how to prepare them.
    """
    if data is None:
        return []
    if isinstance(data, (str, os.PathLike)):
        if not Path(data).is_dir():
            raise error("IG0409", f"`{data}` is no folder of images", hint="read arrays with numpy.load")
        data = ImageFolder(Path(data))
    if isinstance(data, ImageFolder):
        data = data.batches(graph)
    names = [v.name for v in graph.inputs]
    if isinstance(data, Mapping):
        return [_batch(data, names)]
    if hasattr(data, "shape"):
        return [_batch(_by_position([data], names), names)]
    if not hasattr(data, "__iter__"):
        raise error("IG0409", f"calibration data are arrays by name, or a list of such, not {type(data).__name__}")
    batches = []
    for one in data:
        named = (
            one if isinstance(one, Mapping) else _by_position(one if isinstance(one, (tuple, list)) else [one], names)
        )
        batches.append(_batch(named, names))
    return batches


def _by_position(arrays: Sequence[Any], names: Sequence[str]) -> Batch:
    if len(arrays) != len(names):
        raise error(
            "IG0409", f"a calibration batch has {len(arrays)} arrays, the model {len(names)} inputs: {', '.join(names)}"
        )
    return dict(zip(names, arrays, strict=True))


def _batch(data: Batch, names: Sequence[str]) -> Batch:
    found = {k: np.asarray(v) for k, v in data.items()}
    if missing := [n for n in names if n not in found]:
        have = ", ".join(found) or "nothing"
        raise error("IG0409", f"the calibration data lack input `{missing[0]}`", label=f"given: {have}")
    return {k: v for k, v in found.items() if k in names or k == LABELS}


def fit(batches: Sequence[Batch], graph: Graph) -> list[Batch]:
    """The same samples in batches of the size that `graph` takes; what is left over at the end is dropped."""
    made: list[Batch] = []
    for batch in batches:
        rows = _rows(graph)
        have = {v.name: len(batch[v.name]) for v in graph.inputs if v.name in rows and batch[v.name].ndim}
        parts = {have[n] // rows[n] for n in have if rows[n]}
        if len(parts) == 1 and (count := parts.pop()) > 1:
            made += [_part(batch, rows, i) for i in range(count)]
        else:
            made.append(batch)
    for batch in made:
        _accepted(batch, graph)
    return made


def _rows(graph: Graph) -> dict[str, int]:
    """The fixed leading extents of inputs."""
    return {v.name: v.type.shape[0] for v in graph.inputs if v.type.shape and isinstance(v.type.shape[0], int)}


def _part(batch: Batch, rows: Mapping[str, int], i: int) -> Batch:
    """The i-th piece: `rows` of each input, and the labels that go with them."""
    step = {**rows, LABELS: max(rows.values())}
    return {
        name: array[i * step[name] : (i + 1) * step[name]] if name in step else array for name, array in batch.items()
    }


def _accepted(batch: Batch, graph: Graph) -> None:
    try:
        check_inputs(
            [(v.name, v.type) for v in graph.inputs],
            {k: v for k, v in batch.items() if k != LABELS or _is_input(k, graph)},
        )
    except IntaglioError as e:
        found = e.diagnostics[0]
        raise error("IG0409", f"calibration data: {found.message}", label=found.label, hint=found.hint) from None


def _is_input(name: str, graph: Graph) -> bool:
    return any(v.name == name for v in graph.inputs)


def outputs(graph: Graph, batches: Sequence[Batch]) -> list[Any]:
    """What the graph computes for batches that fit, products in f32: each output over all samples."""
    runs = [evaluate(graph, [b[v.name] for v in graph.inputs]) for b in batches]
    return [_joined([run[i] for run in runs]) for i in range(len(graph.outputs))]


def labels_of(batches: Sequence[Batch]) -> Any:
    """The right answers, or None unless every batch has some."""
    found = [np.asarray(b[LABELS]).reshape(-1) for b in batches if LABELS in b]
    return np.concatenate(found) if found and len(found) == len(batches) else None


def compare(before: Sequence[Any], after: Sequence[Any], labels: Any = None) -> dict[str, float]:
    """Losses of `after` against `before`, over all samples and outputs; a nan where there was none is infinite."""
    worst = square = norm = 0.0
    top1: float | None = None
    for a, b in zip(before, after, strict=True):
        x, y = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(all="ignore"):
            gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
            gap = np.where(np.isnan(gap), np.inf, gap)
            worst = max(worst, float(np.max(gap, initial=0.0)))
            square, norm = square + float(np.sum(gap * gap)), norm + float(np.sum(x * x, where=np.isfinite(x)))
        if top1 is None and a.ndim == 2 and a.shape[1] > 1 and a.dtype.kind not in "biu":
            top1 = _answers(a, b, labels)
    relative = float(np.sqrt(square / norm)) if norm > 0 else (0.0 if square == 0 else float("inf"))
    found = {"max_abs": worst, "rel_l2": relative}
    return found if top1 is None else {"top1": top1, **found}


def _answers(a: Any, b: Any, labels: Any) -> float:
    """Accuracy lost, or the share of changed answers where nobody says which are right."""
    old, new = a.argmax(axis=1), b.argmax(axis=1)
    if labels is not None and len(labels) == len(old):
        return float(np.mean(old == labels) - np.mean(new == labels))
    return float(np.mean(old != new))


def _joined(arrays: list[Any]) -> Any:
    return np.concatenate(arrays) if len(arrays) > 1 and arrays[0].ndim else np.asarray(arrays[0])
