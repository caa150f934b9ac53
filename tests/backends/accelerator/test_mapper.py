"""The mapper against searches that bound nothing and count by execution; its certificate; determinism; refusals."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends.accelerator.cache import cached_search
from intaglio.backends.accelerator.cost import cost_of, energy_of, fits, latency_of
from intaglio.backends.accelerator.counting import INNER_ORDERS, ORDERS, Block
from intaglio.backends.accelerator.hierarchy import Dataflow, Hierarchy, Rates, Store
from intaglio.backends.accelerator.layer import DIMS, Layer, conv, gemm
from intaglio.backends.accelerator.mapper import search
from intaglio.backends.accelerator.mapping import Mapping
from intaglio.backends.accelerator.space import Space, unrollings
from intaglio.ir.diagnostics import IntaglioError

from .executor import Machine, execute

ALL = frozenset("WIO")
RATES = Rates(bits={"W": 4.0, "I": 8.0, "O": 8.0}, accumulator=16.0, energy=0.5)


# --- a search that knows nothing --------------------------------------------------------------------------------------


def naive_cost(
    layer: Layer, machine: Hierarchy, flow: Dataflow, tiles: dict[str, list[int]], loops: list[tuple[str, ...]]
) -> tuple[float, float]:
    """Energy and cycles of a mapping by executing it, on machines of one tier and finite bandwidth outside."""
    tier = machine.tiers[0]
    memories = [dict.fromkeys("WIO", "dram"), {x: s.name for s in tier for x in s.holds}]
    held = "".join(sorted(flow.held))
    counts, steps, log = execute(layer, tiles, loops, Machine(memories, held, machine.halo))
    energy = RATES.energy * layer.macs
    results = layer.words("O")
    crossing = dict.fromkeys("WIO", 0.0)
    for (name, x, way), n in counts.items():
        if name == "element":
            continue  # registers are free here
        store = machine.store(name)
        width = RATES.accumulator if x == "O" else RATES.bits[x]
        bits = n * width
        if name == "dram":
            if x == "O" and way == "write":
                bits -= results * (RATES.accumulator - RATES.bits["O"])
            crossing[x] += bits
        energy += bits * (store.read if way == "read" else store.write)
    work = float(steps) + flow.fill * folds_of(layer, tiles, loops, held)
    for s in tier:
        if s.bandwidth < math.inf:
            moved = sum(
                n * (RATES.accumulator if x == "O" else RATES.bits[x])
                for (name, x, _), n in counts.items()
                if name == s.name
            )
            work = max(work, moved / s.bandwidth)
    events = {x: sum(x in entry for entry in log) for x in "WIO"}
    speed = machine.outer.bandwidth
    direct = {x: x in memories[1] for x in "WIO"}
    deep = sum(crossing[x] for x in "WIO" if not direct[x]) / len(log) / speed
    each = work / len(log)
    share = {x: crossing[x] / events[x] / speed if direct[x] else 0.0 for x in "WI"}
    refills = counts["dram", "O", "read"] * RATES.accumulator if direct["O"] else 0.0
    results_up = (crossing["O"] - refills) / max(events["O"], 1) / speed if direct["O"] else 0.0
    share["O"] = results_up + refills / max(events["O"] - 1, 1) / speed  # the first tile of O reads nothing
    time = sum(share[x] for x in "WI") + deep
    for changed in log[1:]:
        moved = deep + sum(share[x] for x in changed)
        time += max(each, moved) if machine.overlap else each + moved
    return energy, time + each + results_up


def folds_of(layer: Layer, tiles: dict[str, list[int]], loops: list[tuple[str, ...]], held: str) -> int:
    """How often elements take in a tile: runs of the loops down to the innermost one that changes it."""
    if not held:
        return 1
    x = next(o for o in "WOI" if o in held)
    changes = {"W": "GKCRS", "I": "NGCPQRS", "O": "NGKPQ"}[x]
    sizes = dict(zip(DIMS, layer.sizes, strict=True))
    full = [sizes, *({d: tiles[d][t] for d in DIMS} for t in range(len(loops)))]
    flat = [(t, d) for t, nest in enumerate(loops) for d in nest]
    deep = max((i + 1 for i, (t, d) in enumerate(flat) if d in changes and full[t][d] > full[t + 1][d]), default=0)
    total = 1
    for d in DIMS:
        parts = [sizes[d]]
        for t, e in flat[:deep]:
            if e == d:
                parts = [min(tiles[d][t], p - a) for p in parts for a in range(0, p, tiles[d][t])]
        total *= len(parts)
    return total


def naive_tiles(extent: int, step: int, window: bool) -> list[int]:
    """For every number of units of `step` the smallest that gives as many tiles."""
    whole = math.ceil(extent / step)
    counts = {u: math.ceil(whole / u) for u in range(1, whole + 1)}
    least = {u for u in counts if all(counts[v] > counts[u] for v in range(1, u))}
    units = {1, whole} if window else least
    return sorted({min(u * step, extent) for u in units})


def naive_search(layer: Layer, machine: Hierarchy) -> tuple[float, int]:
    """The least energy times cycles over every mapping, and how many of them fit; of the largest part of the array."""
    parts, best, count = 1, math.inf, 0
    while not count and parts <= machine.rows * machine.cols:
        best, count = naive_part(layer, machine, parts)
        parts *= 2
    return best, count


def naive_part(layer: Layer, machine: Hierarchy, parts: int) -> tuple[float, int]:
    best, count = math.inf, 0
    sizes = dict(zip(DIMS, layer.sizes, strict=True))
    for flow in machine.dataflows:
        for factors in naive_unrollings(layer, flow, machine, parts):
            choices = [naive_tiles(sizes[d], factors.get(d, 1), d in "RS") for d in DIMS]
            for outer in itertools.product(*choices):
                tile = dict(zip(DIMS, outer, strict=True))
                tiles = {d: [tile[d], min(tile[d], factors.get(d, 1)), 1] for d in DIMS}
                if not all(store_fits(layer, s, tile) for s in machine.tiers[0]):
                    continue
                for a in ORDERS if machine.halo else INNER_ORDERS:
                    for b in INNER_ORDERS:
                        energy, cycles = naive_cost(layer, machine, flow, tiles, [a.loops, b.loops])
                        best, count = min(best, energy * cycles), count + 1
    return best, count


def store_fits(layer: Layer, s: Store, tile: dict[str, int]) -> bool:
    rows = [
        len({i * layer.strides[n] + j * layer.dilations[n] for i in range(tile[p]) for j in range(tile[r])})
        for n, (p, r) in enumerate(("PR", "QS"))
    ]
    words = {
        "W": math.prod(tile[d] for d in "GKCRS"),
        "I": math.prod(tile[d] for d in "NGC") * rows[0] * rows[1],
        "O": math.prod(tile[d] for d in "NGKPQ"),
    }
    bits = sum(words[x] * (RATES.accumulator if x == "O" else RATES.bits[x]) for x in s.holds)
    return bits * (2 if s.double else 1) <= s.capacity


def naive_unrollings(layer: Layer, flow: Dataflow, machine: Hierarchy, parts: int) -> list[dict[str, int]]:
    """One loop over the rows and one over the columns; these machines list one for each."""
    sizes = dict(zip(DIMS, layer.sizes, strict=True))
    found: list[dict[str, int]] = []
    for across in range(1, parts + 1):
        if parts % across == 0:
            sides = (flow.rows[0], machine.rows // across), (flow.cols[0], machine.cols // (parts // across))
            factors = {d: min(max(n, 1), sizes[d]) for d, n in sides}
            found += [factors] if factors not in found else []
    return found


def store(name: str, holds: str, kib: float, **given: Any) -> Store:
    return Store(name, frozenset(holds), kib, read=1.0, write=1.5, **given)


@st.composite
def spaces(draw: Any, most: tuple[int, int, int, int] = (4, 3, 3, 2)) -> tuple[Layer, Hierarchy]:
    """Small layers on machines whose memories hold a part of them."""
    k, c, p, q = (draw(st.integers(1, m)) for m in most)
    r = draw(st.sampled_from([1, 1, 2]))
    stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, r - 1))
    image = ((p - 1) * stride + r - 2 * pad, q)
    if min(image) < 1 or k * c * p * q * r > 4 * most[0] * most[1]:
        k, c, p, q, image, r, stride, pad = 3, 2, 2, 2, (3, 2), 2, 1, 0
    layer = conv("layer", k, c, image, (r, 1), strides=(stride, 1), pads=(pad, 0, pad, 0))
    double = draw(st.booleans())
    total = 4 * layer.words("W") + 8 * layer.words("I") + 16 * layer.words("O")
    room = total * draw(st.sampled_from([0.3, 0.6, 1.0, 3.0])) + 64
    rate = draw(st.sampled_from([math.inf, 48.0]))
    split = draw(st.booleans())
    tier: tuple[Store, ...] = (store("a", "WIO", room, double=double, bandwidth=rate),)
    if split:
        tier = (store("a", "WI", room / 2, double=double), store("b", "O", room / 2, double=double, bandwidth=rate))
    flows = [
        Dataflow("ws", frozenset("W"), ("C",), ("K",), fill=draw(st.sampled_from([0, 3]))),
        Dataflow("os", frozenset("O"), ("P",), ("K",)),
        Dataflow("is", frozenset("I"), ("C",), ("Q",)),
        Dataflow("none", frozenset(), ("C",), ("K",)),
    ]
    machine = Hierarchy(
        "small",
        Store("dram", ALL, read=10.0, write=12.0, bandwidth=draw(st.sampled_from([4.0, 16.0, 64.0]))),
        (tier,),
        rows=draw(st.sampled_from([1, 2, 3])),
        cols=draw(st.sampled_from([1, 2])),
        dataflows=tuple(draw(st.lists(st.sampled_from(flows), min_size=1, max_size=1))),
        overlap=draw(st.booleans()),
        halo=draw(st.booleans()),
    )
    return layer, machine


def equals_brute_force(case: tuple[Layer, Hierarchy]) -> None:
    layer, machine = case
    expected, count = naive_search(layer, machine)
    if not count:
        with pytest.raises(IntaglioError, match="IG0530"):
            search(layer, machine, RATES)
        return
    found = search(layer, machine, RATES)
    assert math.isclose(found.cost.edp, expected, rel_tol=1e-9), (found.cost.edp, expected, str(found.mapping))
    c = found.certificate
    assert c.points == c.evaluated + c.over_capacity + c.bounded
    assert c.bound == pytest.approx(c.optimum, rel=1e-9)  # nothing that was left out could have been better
    assert c.points - c.over_capacity >= count >= c.evaluated


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_the_optimum_is_that_of_brute_force(case: Any) -> None:
    equals_brute_force(case)


@pytest.mark.deep
@settings(max_examples=600, deadline=None)
@given(spaces((5, 5, 4, 3)))
def test_the_optimum_is_that_of_brute_force_often(case: Any) -> None:
    equals_brute_force(case)


# --- files in the elements, several tiers: against all mappings, none bounded -----------------------------------------


def exhaustive(layer: Layer, machine: Hierarchy) -> tuple[float, set[tuple[float, float]]]:
    """The least energy times cycles, and all pairs, of every mapping of every space."""
    pairs: set[tuple[float, float]] = set()
    for flow in machine.dataflows:
        for unrolling in unrollings(layer, flow, machine):
            space = Space(layer, machine, flow, unrolling)
            sizes = [space.chains.tiles[d].shape[1] for d in DIMS]
            index = dict(zip(DIMS, np.unravel_index(np.arange(math.prod(sizes)), sizes), strict=True))
            ok = np.ones(math.prod(sizes), bool)
            for d in DIMS:
                ok &= space.valid[d].reshape(-1)[index[d]]
            block = Block(machine, RATES, flow.held, space.chains, {d: i[ok] for d, i in index.items()})
            fit = np.broadcast_to(fits(block), block.shape)
            for orders in space.sequences:
                cycles = np.broadcast_to(latency_of(block, flow, orders), block.shape)[fit]
                energy = np.broadcast_to(energy_of(block, orders), block.shape)[fit] + machine.static * cycles
                pairs |= set(zip(energy.tolist(), cycles.tolist(), strict=True))
    return min((e * c for e, c in pairs), default=math.inf), pairs


@st.composite
def deeper(draw: Any) -> tuple[Layer, Hierarchy]:
    k, c, p, q = (draw(st.integers(1, m)) for m in (6, 6, 4, 3))
    layer = conv("layer", k, c, (p + 1, q), (2, 1))
    words = [layer.words(x) for x in "WIO"]
    tiers: list[tuple[Store, ...]] = [(store("a", "IO", draw(st.sampled_from([0.4, 1.5])) * (16 * sum(words)) + 100),)]
    if draw(st.booleans()):
        tiers.append(
            (
                store(
                    "b",
                    draw(st.sampled_from(["I", "O", "WIO"])),
                    draw(st.sampled_from([0.2, 0.7])) * 16 * sum(words) + 60,
                ),
            )
        )
    held = draw(st.sampled_from(["W", "WO", "WIO", "O"]))
    files = tuple(
        Store(f"file{x}", frozenset(x), draw(st.sampled_from([16.0, 40.0, 90.0])), read=0.1, write=0.15) for x in held
    )
    machine = Hierarchy(
        "deep",
        Store("dram", ALL, read=10.0, write=12.0, bandwidth=draw(st.sampled_from([4.0, 64.0]))),
        tuple(tiers),
        files,
        rows=2,
        cols=draw(st.sampled_from([1, 2])),
        dataflows=(Dataflow("any", frozenset(held), ("C", "R"), ("K", "P")),),
        overlap=draw(st.booleans()),
        static=draw(st.sampled_from([0.0, 1.0])),
    )
    return layer, machine


def agrees(case: tuple[Layer, Hierarchy]) -> None:
    layer, machine = case
    expected, pairs = exhaustive(layer, machine)
    if not pairs:
        with pytest.raises(IntaglioError, match="IG0530"):
            search(layer, machine, RATES)
        return
    found = search(layer, machine, RATES)
    assert math.isclose(found.cost.edp, expected, rel_tol=1e-9)
    assert found.certificate.bound == pytest.approx(found.certificate.optimum, rel=1e-9)
    for objective, at in (("energy", 0), ("latency", 1)):
        best = search(layer, machine, RATES, objective).certificate.optimum
        assert math.isclose(best, min(p[at] for p in pairs), rel_tol=1e-9)
    front = [(c.energy, c.cycles) for c in search(layer, machine, RATES, "pareto").costs]
    assert front == sorted(front)
    for energy, cycles in pairs:  # everything is matched or beaten by something of the front
        assert any(e <= energy * (1 + 1e-9) and c <= cycles * (1 + 1e-9) for e, c in front)


@settings(max_examples=15, deadline=None)
@given(deeper())
def test_deeper_machines_agree_with_all_mappings(case: Any) -> None:
    agrees(case)


@pytest.mark.deep
@settings(max_examples=300, deadline=None)
@given(deeper())
def test_deeper_machines_agree_with_all_mappings_often(case: Any) -> None:
    agrees(case)


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_no_order_of_the_loops_beats_the_five(random: Any, halo: bool) -> None:
    """Every permutation of the loops of a nest is matched in energy and in cycles by one of ORDERS."""
    layer = conv("layer", 2 * random.randint(1, 2), 4, (random.randint(3, 5), random.randint(2, 4)), (2, 2))
    tier = (store("a", "WIO", math.inf),)
    flow = Dataflow("ws", frozenset("W"), ("C",), ("K",))
    machine = Hierarchy("m", Store("dram", ALL, read=10.0, write=12.0, bandwidth=8.0), (tier,), halo=halo)
    moving = random.sample([d for d, n in zip(DIMS, layer.sizes, strict=True) if n > 1], 4)
    outer = {d: random.randint(1, n - 1) if d in moving else n for d, n in zip(DIMS, layer.sizes, strict=True)}
    tiles = {d: [t, t, 1] if d in "CK" else [t, 1, 1] for d, t in outer.items()}
    loops = [d for d, n in zip(DIMS, layer.sizes, strict=True) if n > outer[d]]
    inner = INNER_ORDERS[0].loops
    known = [naive_cost(layer, machine, flow, tiles, [o.loops, inner]) for o in ORDERS]
    rest = tuple(d for d in DIMS if d not in loops)
    for order in itertools.permutations(loops):
        energy, cycles = naive_cost(layer, machine, flow, tiles, [(*rest, *order), inner])
        assert any(e <= energy * (1 + 1e-9) and c <= cycles * (1 + 1e-9) for e, c in known), order


# --- results ----------------------------------------------------------------------------------------------------------

SPAD = Store("spad", frozenset("WI"), 32768 * 8, 0.75, 0.75, double=True)
ACC = Store("acc", frozenset("O"), 8192 * 8, 0.5, 0.5)
EDGE = Hierarchy(
    "edge",
    Store("dram", ALL, read=12.5, write=12.5, bandwidth=128.0),
    ((SPAD, ACC),),
    rows=16,
    cols=16,
    dataflows=(Dataflow("ws", frozenset("W"), ("C", "R", "S"), ("K",), fill=30),),
)


def test_a_search_is_deterministic_and_says_what_it_did() -> None:
    layer = conv("c", 55, 13, (29, 29), (3, 3), pads=(1, 1, 1, 1))
    first, second = (search(layer, EDGE, RATES) for _ in range(2))
    assert first == second
    assert str(first.certificate).startswith(f"edp {first.cost.edp:.6g} is optimal: of ")
    assert Mapping.from_json(json.loads(json.dumps(first.mapping.to_json()))) == first.mapping
    tiles = first.mapping.tiles
    assert cost_of(EDGE, RATES, EDGE.dataflows[0], layer, dict(tiles), first.mapping.orders) == first.cost
    assert "spatial cols K" in str(first.mapping) and "[dram]" in str(first.mapping)


def test_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAGLIO_CACHE", str(tmp_path))
    layer = gemm("g", 7, 12, 9)
    first = cached_search(layer, EDGE, RATES)
    (path,) = (tmp_path / "mappings").iterdir()
    assert cached_search(layer, EDGE, RATES) == first
    path.write_text("{", encoding="utf-8")  # damaged: searched again
    assert cached_search(layer, EDGE, RATES) == first
    assert cached_search(layer, EDGE, RATES, "energy").certificate.objective == "energy"
    assert len(list((tmp_path / "mappings").iterdir())) == 2


def test_the_cache_may_be_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTAGLIO_CACHE", str(tmp_path / "file"))
    assert cached_search(gemm("g", 7, 12, 9), EDGE, RATES).cost.energy > 0


def test_what_does_not_fit_is_explained() -> None:
    small = replace(EDGE, tiers=((replace(SPAD, capacity=8.0), replace(ACC, capacity=8.0)),))
    with pytest.raises(IntaglioError) as refused:
        search(conv("big", 64, 64, (8, 8), (3, 3)), small, RATES)
    (found,) = refused.value.diagnostics
    assert found.code == "IG0530"
    assert found.message == (
        "`big` does not fit on edge: I needs 2 B and W needs 1 B (two tiles of each), spad holds 1 B; "
        "O needs 2 B, acc holds 1 B"
    )
    assert "dataflow ws" in found.label


def test_an_array_too_large_for_its_memory_is_used_in_part() -> None:
    """A memory for the weights of half of the array, four bits each."""
    layer = gemm("g", 1, 64, 64)
    small = replace(EDGE, tiers=((replace(SPAD, capacity=8.0 * 2 * (16 + 128)), ACC),))
    whole = search(layer, small, RATES).mapping
    part = search(layer, replace(small, tiers=((replace(SPAD, capacity=8.0 * 2 * (16 + 64)), ACC),)), RATES).mapping
    used = [math.prod(f for _, f in (*m.rows, *m.cols)) for m in (whole, part)]
    assert used == [EDGE.rows * EDGE.cols, EDGE.rows * EDGE.cols // 2]
    with pytest.raises(IntaglioError, match="IG0530"):
        search(layer, replace(small, tiers=((replace(SPAD, capacity=8.0 * 2 * (16 + 64)), ACC),)), RATES, whole=True)


def test_nothing_is_searched_without_a_dataflow() -> None:
    with pytest.raises(IntaglioError, match="IG0531"):
        search(gemm("g", 2, 2, 2), replace(EDGE, dataflows=()), RATES)
