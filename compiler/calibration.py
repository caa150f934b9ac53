"""Calibration data: batches of inputs by name, cut to the sizes that a graph takes, and errors measured on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.diagnostics import IntaglioError, error
from ..ir.dims import Dim, symbols
from ..ir.graph import Graph
from ..ir.interpret import check_inputs
from ..passes.quantize.evaluate import evaluate
from ..passes.quantize.kv_cache import encoded_caches
from .calibration_images import ImageFolder

__all__ = ["LABELS", "Batch", "as_batches", "compare", "first", "fit", "labels_of", "outputs"]

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
        hint = f"name arrays as inputs are named: {', '.join(names)}"
        raise error("IG0409", f"the calibration data lack input `{missing[0]}`", label=f"given: {have}", hint=hint)
    if LABELS in found and LABELS not in names:
        _labels_match(found, names)
    return {k: v for k, v in found.items() if k in names or k == LABELS}


def _labels_match(found: Batch, names: Sequence[str]) -> None:
    """There is an answer for each sample, or as many for each."""
    rows = {len(found[n]) for n in names if found[n].ndim}
    if rows and not any(r and found[LABELS].size % r == 0 for r in rows):
        what = f"calibration data: {found[LABELS].size} labels for {max(rows)} samples"
        raise error("IG0409", what, hint=f"give one number for each sample, or leave `{LABELS}` out")


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
            {k: v for k, v in encoded_caches(batch, graph).items() if k != LABELS or _is_input(k, graph)},
        )
    except IntaglioError as e:
        found = e.diagnostics[0]
        hint = found.hint or _transposed(batch, graph)
        raise error("IG0409", f"calibration data: {found.message}", label=found.label, hint=hint) from None


def _transposed(batch: Batch, graph: Graph) -> str:
    """What to do about images whose channels come last."""
    for v in graph.inputs:
        shape, have = v.type.shape, batch[v.name].shape
        if (
            len(shape) == len(have) == 4
            and have[3] == shape[1]
            and all(isinstance(w, Dim) or w == h for w, h in zip(shape[2:], have[1:3], strict=True))
        ):
            return f"channels come first in `{v.name}`: x.transpose(0, 3, 1, 2)"
    return ""


def _is_input(name: str, graph: Graph) -> bool:
    return any(v.name == name for v in graph.inputs)


def outputs(graph: Graph, batches: Sequence[Batch]) -> list[Any]:
    """What the graph computes for batches that fit, products in f32: each output over all samples."""
    names = [v.name for v in graph.inputs]
    runs = [
        evaluate(graph, [b[n] for n in names])
        for whole in batches
        for b in _pieces(encoded_caches(whole, graph), graph)
    ]
    return [_joined([run[i] for run in runs]) for i in range(len(graph.outputs))]


PIECE = 64
"""Samples that a graph is evaluated on at a time where their number is free: values stay in the cache."""


def _pieces(batch: Batch, graph: Graph) -> Iterator[Batch]:
    """A batch cut along the one symbol that is the leading extent of all inputs and outputs, and nothing else."""
    shapes = [v.type.shape for v in (*graph.inputs, *graph.outputs)]
    leading = {shape[:1] for shape in shapes}
    free = len(leading) == 1 and symbols(next(iter(leading)))
    count = len(batch[graph.inputs[0].name]) if free else 0
    if not free or count <= PIECE or any(free & symbols(shape[1:]) for shape in shapes):
        yield batch
        return
    for start in range(0, count, PIECE):
        yield {v.name: batch[v.name][start : start + PIECE] for v in graph.inputs}


def first(batches: Sequence[Batch], graph: Graph, samples: int) -> list[Batch]:
    """The first batches that have as many samples, the last one cut where the graph takes any number."""
    made: list[Batch] = []
    free = all(v.type.shape and isinstance(v.type.shape[0], Dim) for v in graph.inputs)
    for batch in batches:
        if samples <= 0:
            break
        lengths = {len(a) if a.ndim else 0 for k, a in batch.items() if k != LABELS}
        count = max(lengths, default=1)
        if free and len(lengths) == 1 and count > samples:
            batch = {k: a[:samples] if len(a) == count else a for k, a in batch.items()}
        made.append(batch)
        samples -= count
    return made


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
