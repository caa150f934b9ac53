"""Property tests that come with a rule: instances of its left side, and checks of what its contract promises.

drawing.py, samples.py   a graph that contains the pattern: shapes, attributes, element types (elements.py)
numbers.py, instance.py  numbers that find mistakes; more readers, symbolic extents
judge.py, compare.py, contracts.py   what is checked on one example
run.py, motifs.py        many examples of a rule, of a pass
tape.py, smaller.py      decisions that can be taken back: the smallest counterexample
"""

from .motifs import check_pass
from .report import Counterexample, Report, table
from .run import assert_rule, check_rule, check_rules
from .samples import SAMPLES
from .strategy import instances

__all__ = [
    "SAMPLES",
    "Counterexample",
    "Report",
    "assert_rule",
    "check_pass",
    "check_rule",
    "check_rules",
    "instances",
    "table",
]
