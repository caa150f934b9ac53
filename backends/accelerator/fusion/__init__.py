"""Fusion: which steps of a graph run together, the tensors between them on the chip (docs/accelerator-fusion.md)."""

from .fuse import FusedCertificate, FusedPlan, Segment, fuse
from .graph import steps_of
from .steps import Read, Step, chain

__all__ = ["FusedCertificate", "FusedPlan", "Read", "Segment", "Step", "chain", "fuse", "steps_of"]
