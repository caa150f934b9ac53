"""Calibration data that cannot be used, before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.graph import Graph

__all__ = ["check_calibration"]


FEW = 16
"""Samples from which ranges are no more than a guess."""


def check_calibration(graph: Graph, batches: Sequence[Mapping[str, Any]]) -> list[str]:
    """IG0431 for no samples, IG0432 for nan and infinities, IG0433 for an input that never changes.

    Names, shapes and types have been checked where the data were taken (IG0409). What is returned are notes on data
    that can be used, but will not serve well.
    """
    notes: list[str] = []
    for v in graph.inputs:
        arrays = [np.asarray(b[v.name]) for b in batches]
        if not sum(a.size for a in arrays):
            raise error("IG0431", f"the calibration data have no samples of input `{v.name}`", hint="give at least one")
        if arrays[0].dtype.kind != "f":
            continue
        bad = sum(int(np.count_nonzero(~np.isfinite(a))) for a in arrays)
        if bad:
            where = next(i for i, a in enumerate(arrays) if not np.isfinite(a).all())
            sample = int(np.argwhere(~np.isfinite(arrays[where]))[0][0]) if arrays[where].ndim else 0
            what = f"the calibration data of input `{v.name}` have {bad} elements that are nan or infinite"
            raise error("IG0432", what, label=f"first in batch {where}, sample {sample}", hint="leave such samples out")
        low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
        if low == high and sum(a.size for a in arrays) > 1:
            what = f"the calibration data of input `{v.name}` are {low:g} everywhere"
            raise error("IG0433", what, hint="ranges are chosen by real inputs; give some")
        notes += _channels(v.name, arrays)
    count = sum(max((len(a) for a in map(np.asarray, b.values()) if a.ndim), default=1) for b in batches)
    if count < FEW:
        notes.append(f"calibrated on {count} {'sample' if count == 1 else 'samples'}: some hundreds are usual")
    return notes


def _channels(name: str, arrays: Sequence[Any]) -> list[str]:
    """A note on channels of an input that are one number in all samples."""
    if arrays[0].ndim < 3 or sum(len(a) for a in arrays) < 2:
        return []
    axes = tuple(i for i in range(arrays[0].ndim) if i != 1)
    low, high = (f.reduce([f.reduce(a, axes) for a in arrays]) for f in (np.minimum, np.maximum))
    found = np.flatnonzero(low == high)
    if not found.size:
        return []
    which = f"channel {found[0]} of input `{name}` is {low[found[0]]:g}"
    more = f" (and {found.size - 1} more are one number)" if found.size > 1 else ""
    return [f"{which} in all calibration data{more}: what depends on it is not calibrated"]
