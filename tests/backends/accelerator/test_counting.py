"""The closed forms of access counts against loops that are really executed, element by element."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends.accelerator.cost import Cost, cost_of
from intaglio.backends.accelerator.counting import INNER_ORDERS, ORDERS
from intaglio.backends.accelerator.hierarchy import Dataflow, Hierarchy, Rates, Store
from intaglio.backends.accelerator.layer import DIMS, Layer, conv

from .executor import Machine, execute

ALL = frozenset("WIO")


def store(name: str, holds: str, **given: Any) -> Store:
    return Store(name, frozenset(holds), read=2.0, write=3.0, **given)


@st.composite
def layers(draw: Any) -> Layer:
    """Small convolutions: strides, pads, dilations, groups; products are those with windows of one."""
    n, g, k, c = (draw(st.integers(1, m)) for m in (2, 2, 4, 4))
    window = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    dilations = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    pads = tuple(draw(st.integers(0, 1)) for _ in range(4))
    image = tuple(
        draw(st.integers(max(1, dilations[i] * (window[i] - 1) + 1 - pads[i] - pads[2 + i]), 6)) for i in (0, 1)
    )
    return conv("layer", g * k, g * c, image, window, n=n, groups=g, strides=strides, dilations=dilations, pads=pads)  # type: ignore[arg-type]


@st.composite
def cases(draw: Any) -> tuple[Layer, Hierarchy, Dataflow, dict[str, list[int]], tuple[Any, ...]]:
    layer = draw(layers())
    shared = draw(st.sampled_from([["WIO"], ["WI", "O"], ["I", "O"], ["WIO", "IO"], ["I", "WO"]]))
    names = iter("abcd")
    tiers: list[tuple[Store, ...]] = []
    for holds in [["WI", "O"]] if shared == ["WI", "O"] and draw(st.booleans()) else [[h] for h in shared]:
        tiers.append(tuple(store(next(names), h) for h in holds))
    held = draw(st.sampled_from(["W", "O", "I", "WO", "WIO", ""]))
    halo = draw(st.booleans())
    machine = Hierarchy(
        "m", store("dram", "WIO", bandwidth=64.0), tuple(tiers), (store("file", held),), 64, 64, halo=halo
    )
    tiles = {}
    for d, n in zip(DIMS, layer.sizes, strict=True):
        chain, around = [], n
        for _ in tiers:
            around = draw(st.integers(1, around))
            chain.append(around)
        step = draw(st.integers(1, 3))
        element = draw(st.integers(1, -(-around // step)))
        pair = {"P": "R", "R": "P", "Q": "S", "S": "Q"}.get(d)
        if "I" not in held and pair:  # streamed input is shared along diagonals one step at a time only
            element = 1
        tiles[d] = [*chain, min(step * element, around), element]
    orders = (draw(st.sampled_from(ORDERS)), *(draw(st.sampled_from(INNER_ORDERS)) for _ in tiers))
    return layer, machine, Dataflow("any", frozenset(held)), tiles, orders


@settings(max_examples=120, deadline=None)
@given(cases())
def test_counts_are_those_of_execution(case: Any) -> None:
    layer, machine, flow, tiles, orders = case
    held = "".join(sorted(flow.held))
    cost = cost_of(machine, Rates(energy=1.0), flow, layer, tiles, orders)
    by_tier: list[dict[str, str]] = [dict.fromkeys("WIO", "dram")]
    by_tier += [{x: s.name for s in tier for x in s.holds} for tier in machine.tiers]
    counts, steps, _ = execute(layer, tiles, [o.loops for o in orders], Machine(by_tier, held, machine.halo))
    assert cost.steps == steps
    for entry in cost.entries:
        name = "element" if entry.store == "file" else entry.store
        if name == "element" and entry.operand == "O":
            # the executor counts what goes in and out of elements; sums inside of them read (macs - fresh) more
            drained = counts["element", "O", "read"]
            refilled = counts["element", "O", "write"] - layer.macs
            assert entry.writes == counts["element", "O", "write"], entry
            assert entry.reads == drained + layer.macs - drained + refilled, entry
            continue
        assert entry.reads == counts[name, entry.operand, "read"], entry
        assert entry.writes == counts[name, entry.operand, "write"], entry


GLB = Store("glb", ALL, 256 * 1024 * 8, 0.75, 0.75)
SIMPLE = Hierarchy(
    "simple",
    Store("dram", ALL, read=12.5, write=12.5, bandwidth=128.0),
    ((GLB,),),
    rows=32,
    cols=32,
    dataflows=(Dataflow("ws", frozenset("W"), ("C",), ("K",)),),
    prologue=False,
)


def test_words_are_distinct_coordinates() -> None:
    assert conv("c", 8, 4, (7, 7), (3, 3)).words("I") == 4 * 49
    assert conv("c", 8, 4, (7, 7), (1, 1), strides=(2, 2)).words("I") == 4 * 16  # rows between strides are not used
    assert conv("c", 8, 4, (7, 7), (3, 3), pads=(1, 1, 1, 1)).words("I") == 4 * 49  # pads are not elements
    assert conv("c", 8, 8, (5, 5), (3, 3), groups=8).words("W") == 8 * 9


def test_one_mapping_by_hand() -> None:
    """K=C=64, 56x56, 3x3, cut in two halves of rows: weights enter the array twice, nothing crosses DRAM twice."""
    layer = conv("c", 64, 64, (58, 58), (3, 3), bits=(8, 8, 8, 8))
    tiles = dict(
        N=(1, 1, 1), G=(1, 1, 1), K=(64, 32, 1), C=(64, 32, 1), P=(28, 1, 1), Q=(56, 1, 1), R=(3, 1, 1), S=(3, 1, 1)
    )
    rates = Rates(accumulator=8.0, energy=0.25)
    cost = cost_of(SIMPLE, rates, SIMPLE.dataflows[0], layer, tiles, (ORDERS[1], ORDERS[0]))
    assert counted(cost)["dram", "I"] == (58 * 58 * 64, 0)
    assert counted(cost)["glb", "W"] == (2 * 36864, 36864)
    assert counted(cost)["glb", "O"] == (3612672 - 200704 + 200704, 3612672)
    assert cost.cycles == layer.macs / 1024


def counted(cost: Cost) -> dict[tuple[str, str], tuple[float, float]]:
    return {(e.store, e.operand): (e.reads, e.writes) for e in cost.entries}


@pytest.mark.parametrize("order", ORDERS)
def test_orders_name_all_loops(order: Any) -> None:
    assert sorted(order.loops) == sorted(DIMS)
    assert math.prod([1]) == 1
