"""`intaglio diff`: nothing for equal modules, and every kind of change is seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from intaglio.compiler.difference import difference
from intaglio.ir import Editor, Graph, Module, Tensor, dim, testing


def program(
    op: str = "math.exp",
    swap: bool = False,
    weight: float = 1.0,
    rows: object = None,
    extra: bool = False,
    name: str = "y",
    output: str = "out",
) -> Module:
    e = Editor()
    x = e.input("x", Tensor((dim("N") if rows is None else rows, 4), "f32"))  # type: ignore[arg-type]
    a, b = e.emit(op, x, name=name), e.constant(np.full(4, weight, np.float32))
    y = e.emit("math.sub", b, a) if swap else e.emit("math.sub", a, b)
    y = e.emit("math.relu", y) if extra else y
    e.output(y, output)
    return Module("m", {"main": e.freeze()}, {} if rows is not None else {"N": (1, None)})


SAME: list[Callable[[], Module]] = [program, lambda: program(name="other")]


@pytest.mark.parametrize("make", SAME)
def test_labels_do_not_count(make: Callable[[], Module]) -> None:
    assert difference(program(), make()) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (program(op="math.relu"), ["- %y = math.exp(%x) : f32[N, 4]", "+ %y = math.relu(%x) : f32[N, 4]"]),
        (program(weight=2.0), ["1 nodes gone, 1 new"]),
        (program(swap=True), ["~ %3 = math.sub(%y, %2) : f32[N, 4]  now reads "]),
        (program(rows=3), ["- dims N in 1..", "~ %y = math.exp(%x) : f32[N, 4]  now is f32[3, 4]"]),
        (program(extra=True), ["+ %4 = math.relu(%3)", "~ return %3  now %4"]),
        (program(output="z"), ["- output out: f32[N, 4]", "+ output z: f32[N, 4]"]),
        (Module("m", {**program().graphs, "more": program().main}, {"N": (1, None)}), ["+ graph @more"]),
    ],
)
def test_changes_are_shown(other: Module, said: list[str]) -> None:
    text = "\n".join(difference(program(), other))
    for line in said:
        assert line in text


@given(case=testing.graphs(max_nodes=8), another=testing.graphs(max_nodes=8))
@settings(deadline=None, max_examples=50)
def test_only_equal_modules_have_no_difference(case: tuple[Graph, object], another: tuple[Graph, object]) -> None:
    a, b = Module("m", {"main": case[0]}), Module("m", {"main": another[0]})
    assert difference(a, a) == []
    assert (difference(a, b) == []) == (a == b)
