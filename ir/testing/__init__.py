"""Random programs for property tests and benchmarks.

    @given(graphs(max_nodes=12))
    def test_pass_keeps_meaning(case):
        graph, inputs = case
        ...

Graphs grow forward from their inputs: each step picks a value and an op of the table that takes it, with attributes
that make sense. What comes out verifies, evaluates, and has what rewrites stumble over: shared values, several
results, absent operands, broadcasting, symbolic extents, quantised and laid out constants, bodies, odd names.
"""

from __future__ import annotations

from .growth import Choices, Growth, data
from .programs import graphs, random_graph
from .rules import (
    SAMPLES,
    Counterexample,
    Report,
    assert_rule,
    check_pass,
    check_rule,
    check_rules,
    instances,
    table,
)

__all__ = [
    "SAMPLES",
    "Choices",
    "Counterexample",
    "Growth",
    "Report",
    "assert_rule",
    "check_pass",
    "check_rule",
    "check_rules",
    "data",
    "graphs",
    "instances",
    "random_graph",
    "table",
]
