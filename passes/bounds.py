"""What `bounded` rules may have moved the outputs by: their local bounds, carried on by the error analysis."""

from __future__ import annotations

import math

from ..ir.analysis import output_errors, ranges
from ..ir.graph import Graph, Value
from ..ir.rewrite import Statistics
from .definition import Context

__all__ = ["book_bounds"]


def book_bounds(graph: Graph, statistics: Statistics, context: Context) -> None:
    """Charge the bounded rewrites that led to `graph` to the ledger, as the largest absolute error of an output.

    Where the analysis knows no finite bound, or a later rewrite took the value away, the ledger says so instead.
    """
    if not statistics.bounded:
        return
    span = ranges(graph)
    local: dict[Value, float] = {}
    lost = False
    for contract, values in statistics.bounded:
        for v in values:
            lost = lost or v not in span
            local[v] = local.get(v, 0.0) + contract.abs
            if contract.rel and v in span:
                local[v] += contract.rel * span[v].magnitude
    bound = max(output_errors(graph, local, span), default=0.0)
    count = len(statistics.bounded)
    if math.isfinite(bound) and not lost:
        context.book("max_abs", bound, f"{count} bounded rewrites, carried to the outputs by the error analysis")
    else:
        context.note(f"{count} bounded rewrites, for which no bound is known at the outputs")
