"""Instances as a Hypothesis strategy, for tests that do something of their own with them."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy.typing as npt
from hypothesis import reject

from ...graph import Graph
from ...rewrite import Real, Rule
from .elements import EXACT_FLOATS, REAL_FLOATS
from .hints import Hints
from .instance import draw_instance
from .tape import Reject

__all__ = ["instances"]


class _Drawn:
    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def below(self, n: int) -> int:
        return self.draw(st.integers(0, n - 1)) if n > 1 else 0


@st.composite
def instances(draw: Any, rule: Rule) -> tuple[Graph, tuple[npt.NDArray[Any], ...]]:
    """Graphs that contain the rule's left side (its conditions may fail), with arrays for their inputs."""
    real = isinstance(rule.contract, Real)
    try:
        found = draw_instance(rule.left, Hints.of(rule), _Drawn(draw), REAL_FLOATS if real else EXACT_FLOATS, not real)
    except Reject:
        reject()
    return found.graph, found.feeds[0]
