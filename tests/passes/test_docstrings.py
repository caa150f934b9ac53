"""What a pass's documentation shows before and after is what the pass does."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace

import pytest

from intaglio.ir import Module, parse, print_module, verify
from intaglio.passes import find, names
from intaglio.passes.definition import Context
from intaglio.passes.syntax import parse_pipeline

EXAMPLE = re.compile(r"^Before:\n\n((?:    .*\n|\n)+?)\nAfter `(.+?)`:\n\n((?:    .*(?:\n|\Z)|\n)+)", re.MULTILINE)


def module(block: str) -> Module:
    """The module of an example: a graph, after the dimensions it has, if any."""
    return parse(f"ig 1\nmodule @example {{\n{textwrap.dedent(block)}\n}}\n")


@pytest.mark.parametrize("name", names())
def test_examples(name: str) -> None:
    examples = EXAMPLE.findall(find(name).doc)
    assert examples, f"the documentation of {name} shows no example"
    for before, pipeline, after in examples:
        found = module(before)
        verify(found)
        for step in parse_pipeline(pipeline):
            graph = step.rewrite.run(found.main, step.options, Context(dims=found.dims))
            free = {str(d) for v in graph.inputs for d in v.type.shape}
            found = replace(found.with_main(graph), dims={k: v for k, v in found.dims.items() if k in free})
            verify(found)
        assert unlocated(found) == unlocated(module(after))


def unlocated(found: Module) -> str:
    """The text without the locations, which an example would be longer for."""
    return re.sub(r' loc\((?:[^"()]|"(?:[^"\\]|\\.)*")*\)$', "", print_module(found), flags=re.MULTILINE)
