"""Getting rid of transposes: what is left of a model that was written for another layout of its tensors."""

from __future__ import annotations

from ..ir.graph import Graph
from .canonicalize import apply_rules
from .definition import Context, define_pass
from .rulebook import ruleset

__all__ = ["layout"]

# Beside the rules that sink transposes: those by which they meet, and vanish.
MEETING = ("sink-*", "transpose-*", "reshape-transpose", "squeeze-transpose", "reshape-reshape", "reshape-same")


@define_pass("layout", contract="real")
def layout(graph: Graph, context: Context) -> Graph:
    """Let transposes sink towards the results, where they cancel with their inverses.

    Models from TensorFlow compute on [N, H, W, C]; its converters put a pair of transposes around every convolution.
    Whatever works element by element, reduces, pads, slices or concatenates does so just as well before the transpose;
    constants are transposed once, now. A transpose never moves up, and none is added.

    Before:

        graph @main(%x: f32[1, 8, 8, 3]) -> (y: f32[1, 8, 8, 3]) {
          %0 = shape.transpose(%x) {perm = [0, 3, 1, 2]} : f32[1, 3, 8, 8]
          %1 = math.relu(%0) : f32[1, 3, 8, 8]
          %2 = shape.pad(%1) {pads = [0, 0, 1, 1, 0, 0, 1, 1]} : f32[1, 3, 10, 10]
          %3 = shape.slice(%2) {axes = [2, 3], starts = [1, 1], stops = [9, 9]} : f32[1, 3, 8, 8]
          %y = shape.transpose(%3) {perm = [0, 2, 3, 1]} : f32[1, 8, 8, 3]
          return %y
        }

    After `layout`:

        graph @main(%x: f32[1, 8, 8, 3]) -> (y: f32[1, 8, 8, 3]) {
          %0 = math.relu(%x) : f32[1, 8, 8, 3]
          %1 = shape.pad(%0) {pads = [0, 1, 1, 0, 0, 1, 1, 0]} : f32[1, 10, 10, 3]
          %y = shape.slice(%1) {axes = [1, 2], starts = [1, 1], stops = [9, 9]} : f32[1, 8, 8, 3]
          return %y
        }
    """
    return apply_rules(graph, ruleset(("shapes", "layout"), ("exact", "real"), MEETING), context)
