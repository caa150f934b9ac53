"""Work on rows: any chain of integer ops is computed bit for bit, and takes the time and traffic that the plan says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends.accelerator.emit.groups import Group, stages
from intaglio.backends.accelerator.emit.layouts import dense, reshaped
from intaglio.backends.accelerator.emit.vector import KINDS, ROWS
from intaglio.backends.accelerator.execute import emitted
from intaglio.backends.accelerator.grouped import works_of_groups
from intaglio.backends.accelerator.isa.assembly import assemble
from intaglio.backends.accelerator.isa.instructions import Instruction, Queue, decode, encode
from intaglio.backends.accelerator.pieces import cycles_of_pieces
from intaglio.backends.accelerator.plan import Units
from intaglio.backends.accelerator.simulate.events import simulate_program
from intaglio.backends.accelerator.simulate.functional import simulate
from intaglio.ir import Graph, evaluate
from intaglio.ir.diagnostics import IntaglioError

from .attention import drawn_rows, inputs_of
from .hardware import RATES, finder, systolic

UNITS = Units((16.0, 0.1), (("div", (4.0, 0.4)), ("lut", (8.0, 0.2)), ("sqrt", (2.0, 0.4))))


def groups(graph: Graph) -> list[Group]:
    return [g for stage in stages(graph) for g in stage.groups]


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 1 << 30))
def test_any_work_on_rows_is_bit_exact(seed: int) -> None:
    graph, machine = drawn_rows(seed), systolic()
    executable = emitted(graph, machine, finder(machine))
    assert not any(stage.nodes for stage in executable.stages), "nothing is left to the host"
    for program in executable.programs:
        assert program is None or all(decode(encode(q)) == q for q in program.queues.values())
    arrays = inputs_of(graph, seed)
    for mine, theirs in zip(executable.run(arrays), evaluate(graph, arrays), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_every_kind_is_drawn() -> None:
    drawn = {n.op.name for seed in range(60) for g in groups(drawn_rows(seed)) for n in g.nodes}
    assert drawn == {*KINDS, *ROWS, "quant.table"}


def test_time_and_traffic_are_those_of_the_plan() -> None:
    for seed in range(40):
        graph, machine = drawn_rows(seed), systolic()
        works = works_of_groups(graph, machine, 64)
        assert works is not None
        executable = emitted(graph, machine, finder(machine))
        found = [o for p in executable.programs if p for o in simulate_program(p, machine, lambda _: RATES, UNITS)]
        for work, outcome in zip(works, found, strict=True):
            assert work.pieces is not None
            moved = sum(v.read_bits + v.write_bits for v in work.vectors)
            padding = outcome.outer_bits - moved  # of constants to lines
            assert 0 <= padding <= 64 * len(work.vectors) * 2, (seed, work.name)
            assert cycles_of_pieces(work.pieces, machine, lambda u: UNITS.of(u)[0]) == pytest.approx(
                outcome.cycles, rel=1e-6
            )


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_names_are_what_numpy_says(shape: list[int], rng: Any) -> None:
    """A transposed array, reshaped without a copy, has these steps, or none."""
    array = np.zeros(shape, np.int8)
    order = rng.sample(range(len(shape)), len(shape))
    view = array.transpose(order)
    strides = tuple(dense(shape)[i] for i in order)
    left, target = array.size, []
    while left > 1:
        n = rng.choice([d for d in range(2, left + 1) if left % d == 0])
        target.append(n)
        left //= n
    target = target or [1]
    found = reshaped(view.shape, strides, target)
    moved = view.reshape(target)
    shares = np.shares_memory(moved, array)
    assert (found is not None) == shares
    if found is not None:
        assert [s for s, n in zip(found, target, strict=True) if n > 1] == [
            s for s, n in zip(moved.strides, target, strict=True) if n > 1
        ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("vec a=0 b=0 output=8 count=8 kind=15", "`vec` has no kind 15"),
        ("row input=0 output=8 rows=2 length=4 kind=9", "`row` has no kind 9"),
        ("row input=0 output=8 rows=2 length=0 kind=0", "rows without elements"),
        ("row input=0 output=8 rows=1000000 length=4 kind=0", "of local memory, which has 256"),
        ("vec a=0 b=0 output=30 count=64 kind=8", "of local memory, which has 256"),
        ("cfg compute a_type = 9\nvec a=0 b=0 output=8 count=8 kind=8", "there is no integer type 9"),
        ("cfg compute a_type = 5\nvec a=0 b=0 output=8 count=8 kind=1", "`math.add` of int32 and uint8"),
        ("cfg compute b_period = -1\nvec a=0 b=0 output=8 count=8 kind=1", "is repeated 0 times in -1"),
        ("cfg compute b_period = 9999\nvec a=0 b=0 output=8 count=8 kind=1", "of local memory, which has 256"),
        ("cfg compute entries = 1000\nlut input=0 output=8 table=1 count=8", "of local memory, which has 256"),
        ("vec a=0 b=0 output=8 count=8 kind=10", "a table of requantisation with shifts outside"),
        ("vec a=0 b=0 output=8 count=8 kind=0", "a shift of 0"),
    ],
)
def test_wrong_instructions_stop(line: str, says: str) -> None:
    queues: dict[Queue, list[Instruction]] = {q: [] for q in Queue}
    for one in assemble(line):
        queues[one.queue].append(one)
    with pytest.raises(IntaglioError) as caught:
        simulate(queues, np.zeros(64, np.uint8), 256)
    found = caught.value.diagnostics[0]
    assert found.code == "IG0583"
    assert says in found.message


def test_rows_that_do_not_fit_are_said_to() -> None:
    from dataclasses import replace

    machine = systolic()
    tier = tuple(replace(s, capacity=64.0) for s in machine.tiers[0])
    with pytest.raises(IntaglioError, match=r"IG0585.*too small for rows"):
        emitted(drawn_rows(3), replace(machine, tiers=(tier,)), finder(machine))
