"""Analyses: what can be said of values without running the graph (ranges), and how far errors travel (errors)."""

from .errors import output_errors
from .ranges import Interval, observed_ranges, ranges

__all__ = ["Interval", "observed_ranges", "output_errors", "ranges"]
