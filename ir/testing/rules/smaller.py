"""Making a finding small: fewer decisions, then simpler numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .instance import Instance, with_constant
from .judge import Finding
from .tape import Reject, Tape, simplify

__all__ = ["smaller"]

Array = npt.NDArray[Any]
LARGE = 24  # elements; larger arrays are simplified as a whole only

# A wrong result of a large example may be a wrong type of a small one; a matter of cost stays one.
_LIKE = {"result": "wrong", "type": "wrong", "order": "wrong", "crash": "wrong"}


class Examiner(Protocol):
    """What says whether an instance shows a mistake: of a rule, or of a pass."""

    def judge(self, instance: Instance) -> Finding | None: ...


def smaller(finding: Finding, tape: Tape, draw: Callable[[Tape], Instance], judge: Examiner) -> Finding:
    """The smallest finding of the same kind that could be reached."""
    best = finding

    def fails(prefix: Sequence[int]) -> list[int] | None:
        nonlocal best
        again = Tape(prefix)
        found = _judged(judge, lambda: draw(again))
        if found is None or not _alike(found, finding):
            return None
        best = found
        return again.values

    values = simplify(tape.values, fails)
    if fails(values) is None:
        best = finding
    return _simpler_numbers(best, judge)


def _alike(a: Finding, b: Finding) -> bool:
    return _LIKE.get(a.kind, a.kind) == _LIKE.get(b.kind, b.kind)


def _judged(judge: Examiner, make: Callable[[], Instance]) -> Finding | None:
    try:
        return judge.judge(make())
    except Reject:
        return None


def _simpler_numbers(finding: Finding, judge: Examiner) -> Finding:
    if finding.kind == "end":
        return finding
    tries = 300
    progress = True
    while progress and tries > 0:
        progress = False
        for candidate in _simpler(finding.instance):
            tries -= 1
            found = _judged(judge, lambda candidate=candidate: candidate)  # type: ignore[misc]
            if found is not None and _alike(found, finding):
                finding, progress = found, True
                break
            if tries <= 0:
                break
    return finding


def _simpler(instance: Instance) -> Iterator[Instance]:
    """The same graph on simpler numbers, one change at a time."""
    feeds = instance.feeds[0]
    for i, x in enumerate(feeds):
        for y in _versions(x):
            yield replace(instance, feeds=((*feeds[:i], y, *feeds[i + 1 :]),))
    for at, node in enumerate(instance.graph.nodes):
        if (constant := node.constant) is not None:
            for y in _versions(constant.array):
                yield replace(instance, graph=with_constant(instance.graph, at, y))


def _versions(x: Array) -> Iterator[Array]:
    if x.dtype.kind == "b" or not x.size:
        return
    with np.errstate(all="ignore"):
        ranks = np.array(
            [_rank(v) for v in np.asarray(x, dtype=np.float64 if x.dtype.kind != "V" else np.float32).ravel()]
        )
    for rank, number in enumerate((0, 1, 2)):
        if (ranks > rank).any() and x.size > 1:
            yield np.where((ranks > rank).reshape(x.shape), np.asarray(number).astype(x.dtype), x)
    if x.size <= LARGE:
        for i, have in enumerate(ranks):
            for rank, number in enumerate((0, 1, 2)):
                if rank < have:
                    y = np.array(x)
                    y.reshape(-1)[i] = number
                    yield y


def _rank(value: Any) -> int:
    """How simple a number is: 0, 1, 2, then everything else."""
    return {0.0: 0, 1.0: 1, 2.0: 2}.get(float(value), 3) if not (value == 0 and np.signbit(value)) else 3
