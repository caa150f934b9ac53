"""`dyn`: results whose shape depends on values, or attributes that the program computes.

The interpreter runs them. A compiling backend wants them gone: the pass `freeze` turns `dyn.apply` into the op it names
once its operands are constants.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import error
from ..graph import Attrs
from ..op import Strs, dynamic, op


def _declared(types: Any, attrs: Any, results: Any) -> None:
    """As many operands are left as attributes are computed; that the op exists is checked where the table is known."""
    if len(types) < len(attrs["params"]):
        raise error("IG0203", f"`dyn.apply` computes {len(attrs['params'])} attributes from {len(types)} operands")


@op("dyn.apply", "xs: T[*S]... -> any[?]", dynamic, declared=_declared)
def apply(*xs, op: str, params: Strs, fixed: Attrs | None = None):
    """The op called `op` on the first operands; the last ones are the values of its attributes `params`.

    `fixed` carries the remaining attributes.
    """
    raise AssertionError("resolved by the interpreter, which knows the ops")


@op("dyn.nonzero", "x: T[*S] -> i64[rank_of(S), ?]", dynamic)
def nonzero(x):
    """Indices of the elements that are not 0, one column each, in row-major order."""
    return np.array(np.nonzero(x), dtype=np.int64).reshape(x.ndim, -1)


@op("dyn.compress", "x: T[*S], keep: bool[K] -> T[*compressed(S)]", dynamic)
def compress(x, keep, *, axis: int | None = None):
    """The entries along `axis` (of the flattened x when absent) whose flag is set."""
    return np.compress(keep, x, axis=axis)


@op("dyn.unique", "x: N[*S] -> N[*unique_shape(S)], i64[?], i64[?], i64[?]", dynamic)
def unique(x, *, axis: int | None = None, ordered: bool = True):
    """Unique elements (slices along `axis`), index of each first occurrence, inverse indices, counts.

    Sorted when `ordered`, else in the order of their first occurrence.
    """
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    if not ordered:
        order = np.argsort(first)
        values = np.take(values, order, axis=0 if axis is None else axis)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        first, inverse, counts = first[order], rank[inverse], counts[order]
    return values, first.astype(np.int64), inverse.reshape(-1).astype(np.int64), counts.astype(np.int64)


@op(
    "dyn.non_max_suppression",
    "boxes: f32[B, K, 4], scores: f32[B, C, K], most: i64[]?, iou: f32[]?, score: f32[]? -> i64[?, 3]",
    dynamic,
)
def non_max_suppression(boxes, scores, most=None, iou=None, score=None, *, centre: bool = False):
    """(batch, class, box) of the boxes kept greedily by score; one that overlaps a kept one by more than `iou` goes.

    Boxes are two opposite corners (y, x), or with `centre` (x, y, width, height). At most `most` boxes per class.
    """
    if centre:
        x, y, w, h = (boxes[..., i] for i in range(4))
        y1, x1, y2, x2 = y - h / 2, x - w / 2, y + h / 2, x + w / 2
    else:
        y1, y2 = np.minimum(boxes[..., 0], boxes[..., 2]), np.maximum(boxes[..., 0], boxes[..., 2])
        x1, x2 = np.minimum(boxes[..., 1], boxes[..., 3]), np.maximum(boxes[..., 1], boxes[..., 3])
    area = (y2 - y1) * (x2 - x1)
    limit, overlap = 0 if most is None else int(most), 0.0 if iou is None else float(iou)
    out: list[tuple[int, int, int]] = []
    for b in range(boxes.shape[0]):
        for c in range(scores.shape[1]):
            kept: list[int] = []
            for i in np.argsort(-scores[b, c], kind="stable"):
                if len(kept) >= limit or (score is not None and scores[b, c, i] <= score):
                    break
                inter = [
                    max(0.0, min(y2[b, i], y2[b, k]) - max(y1[b, i], y1[b, k]))
                    * max(0.0, min(x2[b, i], x2[b, k]) - max(x1[b, i], x1[b, k]))
                    for k in kept
                ]
                if all(s / (area[b, i] + area[b, k] - s) <= overlap for s, k in zip(inter, kept, strict=True) if s > 0):
                    kept.append(int(i))
            out.extend((b, c, int(i)) for i in kept)
    return np.array(out, dtype=np.int64).reshape(-1, 3)
