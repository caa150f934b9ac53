"""A pass that uses the op."""

from intaglio.ir.graph import Graph
from intaglio.ir.rewrite import Ruleset, parse_rules, rewrite
from intaglio.passes.definition import define_pass

RULES = parse_rules("""
/// x x = x^2
rule square-of-mul exact:
    mul(x, x) where is_float(x) => example.square(x)
""")


@define_pass("squared", contract="exact")
def squared(graph: Graph) -> Graph:
    """Write products of a value with itself as squares."""
    return rewrite(graph, Ruleset(RULES, "squared"))[0]
