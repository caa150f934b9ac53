"""One way to run a segment, and what it makes of each step."""

from __future__ import annotations

from dataclasses import dataclass

from ..layer import Layer
from .steps import Step
from .stripes import Stripes

__all__ = ["Candidate", "Part", "Tally"]


@dataclass(frozen=True)
class Candidate:
    """One way to run a segment: the stripes, the steps whose weights stay, the tensors loaded once a stripe."""

    steps: range
    stripes: Stripes
    resident: tuple[int, ...] = ()
    loaded: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """One step in a candidate: the layer of a stripe, what stays, bits reserved by others, the vector work's bits."""

    step: Step
    layer: Layer | None
    stay: frozenset[str]
    reserved: dict[str, float]
    share: float  # of the step's work in a stripe
    read: float  # bits of the outermost memory for the vector work of a stripe
    written: float
    chip_read: float
    chip_written: float
    copied: float  # bits of results that are stored outside and kept besides


@dataclass
class Tally:
    """What was looked at, for the certificate."""

    segments: int = 0
    candidates: int = 0
    full: int = 0  # do not fit
    bounded: int = 0
    joined: int = 0
