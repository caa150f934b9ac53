"""The array cycle by cycle computes products, in as many cycles as the cost model gives a tile."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from intaglio.backends.accelerator.cost import cost_of
from intaglio.backends.accelerator.counting import ORDERS
from intaglio.backends.accelerator.hierarchy import Dataflow, Hierarchy, Rates, Store
from intaglio.backends.accelerator.layer import DIMS, gemm
from intaglio.backends.accelerator.simulate.array import output_stationary, weight_stationary
from intaglio.backends.accelerator.target import machine_named

SIZE = st.integers(1, 9)


def modelled(rows: int, reduction: int, columns: int, held: str, unrolled: str, shape: tuple[int, int]) -> float:
    """Cycles of the array in the cost model, for one tile of a product on an array of that shape."""
    fill = sum(shape) - 2
    memory = Store("buf", frozenset("WIO"), double=True)
    machine = Hierarchy(
        "m",
        Store("dram", frozenset("WIO")),
        ((memory,),),
        rows=shape[0],
        cols=shape[1],
        dataflows=(Dataflow("x", frozenset(held), fill=fill),),
    )
    layer = gemm("tile", rows, reduction, columns)
    tiles = {d: [layer.extent[d], layer.extent[d] if d in unrolled else 1, 1] for d in DIMS}
    cost = cost_of(machine, Rates(), machine.dataflows[0], layer, tiles, (ORDERS[4] if held == "O" else ORDERS[0],) * 2)
    return cost.work


@given(SIZE, SIZE, SIZE, st.integers(0, 100))
def test_output_stationary(rows: int, depth: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (rows, depth)), rng.integers(-128, 128, (depth, columns))
    found, cycles = output_stationary(a, b)
    np.testing.assert_array_equal(found, a @ b)
    assert cycles == modelled(rows, depth, columns, "O", "PK", (rows, columns))


@given(SIZE, SIZE, SIZE, st.integers(0, 100))
def test_weight_stationary(steps: int, rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.integers(-128, 128, (steps, rows)), rng.integers(-128, 128, (rows, columns))
    found, cycles = weight_stationary(x, w)
    np.testing.assert_array_equal(found, x @ w)
    assert cycles == modelled(steps, rows, columns, "W", "CK", (rows, columns))


def test_the_presets_have_this_fill() -> None:
    machine = machine_named("gemmini16")
    _, cycles = output_stationary(np.ones((16, 5), int), np.ones((5, 16), int))
    assert machine.array.fill_cycles == cycles - 5
