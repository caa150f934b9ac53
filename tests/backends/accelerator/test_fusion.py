"""Fusion: the chosen segments are the best of their stated space, never worse than none, and hold to their memories."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import intaglio
from intaglio.backends.accelerator.cost import cost_of, energy_of, fits, latency_of
from intaglio.backends.accelerator.counting import Block
from intaglio.backends.accelerator.fusion import FusedPlan, Read, Step, chain, fuse, steps_of
from intaglio.backends.accelerator.fusion.cores import Cores, chained
from intaglio.backends.accelerator.fusion.fronts import Point, hull, joined
from intaglio.backends.accelerator.fusion.partial import Partials, taken
from intaglio.backends.accelerator.fusion.segments import Segments
from intaglio.backends.accelerator.fusion.stay import NEVER, staying
from intaglio.backends.accelerator.fusion.stripes import Stripes, rows_of
from intaglio.backends.accelerator.hierarchy import Dataflow, Hierarchy, Rates, Store
from intaglio.backends.accelerator.layer import DIMS, Layer, conv, gemm
from intaglio.backends.accelerator.mapper import search
from intaglio.backends.accelerator.plan import Units
from intaglio.backends.accelerator.space import Space, unrollings
from intaglio.backends.accelerator.vector import Vector
from intaglio.backends.accelerator.workload import Work, work_of

from ...zoo.models import MODELS

ALL = frozenset("WIO")
RATES = Rates(accumulator=16.0, energy=0.3)
UNITS = Units((8.0, 0.1))


def small(size: int, *, unified: bool = False, dram: float = 32.0, overlap: bool = True) -> Hierarchy:
    """4 x 4 elements; `size` bytes for W and I beside an accumulator, or for all three."""
    spad = Store("spad", ALL if unified else frozenset("WI"), size * 8.0, 0.75, 0.75, 256, overlap)
    acc = Store("acc", frozenset("O"), 4096.0, 0.5, 0.5, 256, overlap)
    return Hierarchy(
        "small",
        Store("dram", ALL, read=12.5, write=12.5, bandwidth=dram),
        ((spad,) if unified else (spad, acc),),
        rows=4,
        cols=4,
        dataflows=(Dataflow("ws", frozenset("W"), ("C",), ("K",), fill=6),),
        overlap=overlap,
    )


def conv_chain(rng: random.Random, count: int) -> list[Step]:
    """Convolutions of small sizes, one after the other, with a sum on the last one's results where shapes allow it."""
    layers: list[Layer] = []
    c, side = rng.choice([2, 4]), rng.choice([4, 6])
    for i in range(count):
        k, window = rng.choice([2, 4]), rng.choice([1, 3])
        layers.append(conv(f"c{i}", k, c, (side, 3), (window, 1), pads=(window // 2, 0, window // 2, 0)))
        c = k
    steps = chain([Work(x.name, "conv", x, (Vector("relu", "alu", 0, x.words("O")),)) for x in layers])
    if count > 2 and steps[0].layout == steps[-1].layout:
        bits = steps[0].bits
        work = replace(steps[-1].work, vectors=(*steps[-1].work.vectors, Vector("add", "alu", 0, bits // 8, bits)))
        steps[-1] = replace(steps[-1], work=work, reads=(*steps[-1].reads, Read(0, "V", bits, True)))
    return steps


def fused(steps: list[Step], machine: Hierarchy, objective: str = "edp", **options: Any) -> FusedPlan:
    return fuse(steps, machine, lambda layer: RATES, UNITS, objective, **options)


# --- published optima -------------------------------------------------------------------------------------------------

CLOCK = 1.05e9


def tpu_v4i() -> Cores:
    """AccelForge's example: 128 MiB for all arrays, four arrays of 128 x 128 with 4 MiB each; no intermediate of a
    fused chain goes to memory, inputs and results may pass the large buffer by."""
    shared = Store("global", ALL, 2.0**30, 1.88, 2.36, math.inf, False, 8 * 2048e9 / CLOCK, 8 * 1024e9 / CLOCK)
    machine = Hierarchy(
        "tpu_v4i",
        Store("main", ALL, read=7.03, write=7.03, bandwidth=8 * 614e9 / CLOCK),
        ((shared,), (Store("local", frozenset("IO"), 2.0**25, 0.249, 0.293),)),
        rows=128,
        cols=128,
        dataflows=(Dataflow("ws", frozenset("W"), ("C",), ("K",)),),
        prologue=False,
        halo=False,
    )
    return Cores(machine, 4)


@pytest.mark.parametrize(
    ("size", "count", "together", "joule", "seconds"),
    [  # tests/regression_reference.json of AccelForge 1.0.467: matmuls (N_EINSUMS=2), three_matmuls_annotated
        (64, 2, True, 1.8229493921710631e-06, 3.0476190460149155e-08),
        (64, 2, False, 2.144731152171063e-06, 4.002605891173516e-08),
        (128, 3, True, 1.0558373985026378e-05, 1.467361556706237e-07),
        (128, 3, False, 1.313262806502638e-05, 2.4015633925955626e-07),
    ],
)
def test_published_optima_of_fused_products(
    size: int, count: int, together: bool, joule: float, seconds: float
) -> None:
    layers = [gemm(str(i), size, size, size) for i in range(count)]
    found = chained(layers, tpu_v4i(), Rates(accumulator=8.0, energy=0.084), fused=together)
    assert found.energy * 1e-12 == pytest.approx(joule, rel=1e-7)
    assert found.cycles / CLOCK == pytest.approx(seconds, rel=1e-7)


# --- a naive search of the same space ---------------------------------------------------------------------------------


def every_mapping(layer: Layer, machine: Hierarchy) -> list[tuple[float, float]]:
    """(energy, cycles) of the non-dominated among all mappings, none left out by a bound."""
    found: list[tuple[float, float]] = []
    for flow in machine.dataflows:
        for unrolling in unrollings(layer, flow, machine):
            space = Space(layer, machine, flow, unrolling)
            sizes = [space.chains.tiles[d].shape[1] for d in DIMS]
            index = dict(zip(DIMS, np.unravel_index(np.arange(math.prod(sizes)), sizes), strict=True))
            valid = np.ones(math.prod(sizes), bool)
            for d in DIMS:
                valid &= space.valid[d].reshape(-1)[index[d]]
            block = Block(machine, RATES, flow.held, space.chains, {d: i[valid] for d, i in index.items()})
            ok = np.broadcast_to(fits(block), block.shape)
            for orders in space.sequences:
                cycles = np.broadcast_to(latency_of(block, flow, orders), block.shape)[ok]
                energy = np.broadcast_to(energy_of(block, orders), block.shape)[ok]
                found += [(e, c) for e, c in zip(energy.tolist(), cycles.tolist(), strict=True) if e < NEVER]
    return pareto(found)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    front: list[tuple[float, float]] = []
    for p in sorted(set(points)):
        if not front or p[1] < front[-1][1]:
            front.append(p)
    return front


def summed(fronts: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    total = [(0.0, 0.0)]
    for front in fronts:
        total = pareto([(a + e, b + c) for a, b in total for e, c in front])
    return total


def rings(steps: list[Step], a: int, b: int, bands: int, ends: list[bool]) -> dict[int, int]:
    """Rows of each tensor between the first that is still needed and the last that is there, at the worst moment."""
    made: list[dict[int, int]] = []  # of each band the row before which all are there
    read: list[dict[int, set[int]]] = []
    for n in range(bands):
        until, rows = dict(made[-1]) if made else {}, dict[int, set[int]]()
        for i in reversed(range(a, b)):
            layer = steps[i].layer
            assert layer is not None
            total, window, _, _, pad, image = layer.axis(0)
            if i == b - 1 or ends[i] or steps[i].kept:
                until[i] = max(until.get(i, 0), min((n + 1) * -(-total // bands), total))
            until[i] = max([until.get(i, 0), *(r + 1 for r in rows.get(i, ()))])
            new = range(made[-1].get(i, 0) if made else 0, until[i])
            for r in steps[i].reads:
                taps = {p + t - pad for p in new for t in range(window)} if r.role == "I" else set(new)
                if r.tensor >= 0:
                    rows.setdefault(r.tensor, set()).update(t for t in taps if 0 <= t < image)
        for t in rows:
            until[t] = max([until.get(t, 0), *(r + 1 for r in rows[t])])
        made.append(until)
        read.append(rows)
    worst = {}
    for t in {t for rows in read for t in rows}:
        worst[t] = 1
        for n in range(bands):
            later = [r for rows in read[n:] for r in rows.get(t, ()) if r < made[n].get(t, 0)]
            first = min([*later, made[n - 1].get(t, 0) if n else 0])
            worst[t] = max(worst[t], made[n].get(t, 0) - first)
    return worst


def naive_segment(steps: list[Step], a: int, b: int, machine: Hierarchy) -> list[tuple[float, float]]:
    """All ways to run a chain of convolutions together, written down once more: heights by halving, weights that stay,
    halos made again or kept, an input that several read loaded once. Everything is in bits of 8-bit elements."""
    spad = machine.tiers[0][0]
    whole = "O" in spad.holds  # sums complete where results stay
    layers = [s.layer for s in steps[a:b] if s.layer is not None]
    count, total = len(layers), layers[-1].extent["P"]
    readers = [[j for j in range(b) if any(r.tensor == i for r in steps[j].reads)] for i in range(len(steps))]
    ends = [any(j >= b for j in range(len(steps)) if any(r.tensor == i for r in steps[j].reads)) for i in range(b)]
    heights = sorted({-(-total // 2**i) for i in range(5)}, reverse=True)
    heights = [h for h in heights if h == total or h >= total / 16]
    halo = any(x.extent["R"] > 1 for x in layers[1:])
    found: list[tuple[float, float]] = []
    ways = [(False, True), (False, False), *([(True, False)] if halo else [])]
    for cached, one_piece in ways[: 1 if count == 1 else None]:
        shared = [t for t in range(a) if sum(a <= j < b for j in readers[t]) > 1]
        for stays, load in itertools.product(itertools.product((False, True), repeat=count), ([], shared)):
            tried = 0
            for height in [total] if one_piece else heights[1:]:
                bands = -(-total // height)
                if (one_piece and any(stays)) or tried == 2:
                    continue
                # rows from the last layer to the first
                make, keep = {b - 1: height}, {}
                for i in reversed(range(a, b)):
                    rows = make.get(i, 0)
                    if i == b - 1 or ends[i] or steps[i].kept:
                        rows = max(rows, -(-layers[i - a].extent["P"] // bands))
                    make[i] = rows
                    x, image = layers[i - a], layers[i - a].image[0]
                    for r in steps[i].reads:
                        if r.tensor >= a or r.tensor in load:
                            window = min(rows + x.extent["R"] - 1, image) if r.role == "I" else rows
                            window = image if bands == 1 and r.role == "I" else window
                            new = min(rows, image) if cached and bands > 1 else window
                            make[r.tensor] = max(make.get(r.tensor, 0), new)
                            keep[r.tensor] = max(keep.get(r.tensor, 0), window)
                row = {i: steps[i].bits / (steps[i].layout or (0,) * 5)[3] for i in range(b)}
                weight = [8.0 * x.words("W") for x in layers]
                always = sum(w for w, s in zip(weight, stays, strict=True) if s)
                ring = rings(steps, a, b, bands, ends) if cached else dict.fromkeys(keep, 0)
                keep = {t: max(keep[t], ring[t]) for t in keep}
                always += sum(max(keep[t], make[t]) * row[t] for t in keep) if cached else 0.0
                plans, fits_all = [], True
                for i in range(a, b):
                    reserved = always
                    for t in keep:
                        inside = [j for j in readers[t] if a <= j < b]
                        if (t if t >= a else inside[0]) <= i <= inside[-1]:
                            reserved += make[t] * row[t] * ((whole and t == i) + (not cached))
                    fits_all &= reserved <= spad.capacity
                    plans.append(reserved)
                if not fits_all:
                    continue
                tried += 1
                fronts = []
                for i, reserved in zip(range(a, b), plans, strict=True):
                    x, rows = layers[i - a], make[i]
                    part = x
                    if rows < x.extent["P"]:
                        seen = min(rows - 1 + x.extent["R"], x.image[0])
                        sizes = (*x.sizes[:4], rows, *x.sizes[5:])
                        part = replace(x, sizes=sizes, pads=(0, 0), image=(seen, x.image[1]))
                    here = {r.role for r in steps[i].reads if r.role == "I" and (r.tensor >= a or r.tensor in load)}
                    here |= {"W"} if stays[i - a] else set()
                    both = i in keep and (ends[i] or steps[i].kept)
                    here |= {"O"} if i in keep and not both else set()
                    share = rows / x.extent["P"]
                    near = sum(r.bits for r in steps[i].reads if r.role == "V" and r.tensor in keep) * share
                    far = sum(v.read_bits for v in steps[i].work.vectors) * share - near
                    copied = steps[i].bits * share if both else 0.0
                    operations = sum(v.simple for v in steps[i].work.vectors) * share
                    busy = max(operations / 8.0, (near + copied) / 256)
                    beside = operations * 0.1 + far * 12.5 + (near + copied) * 0.75
                    front = every_mapping(part, staying(machine, frozenset(here), {spad.name: reserved}))
                    far_cycles = far / machine.outer.bandwidth
                    fronts.append(pareto([((e + beside) * bands, max(c + far_cycles, busy) * bands) for e, c in front]))
                loaded = sum(w for w, s in zip(weight, stays, strict=True) if s)
                loaded += sum(max(keep[t], make[t]) * row[t] * bands for t in load)
                fronts.append([(loaded * 13.25, loaded / machine.outer.bandwidth)])
                found += summed(fronts)
    return pareto(found)


def naive(steps: list[Step], machine: Hierarchy, longest: int) -> list[tuple[float, float]]:
    """The non-dominated totals of all cuts into segments."""
    reached = [[(0.0, 0.0)]]
    for j in range(1, len(steps) + 1):
        ways: list[tuple[float, float]] = []
        for i in range(max(0, j - longest), j):
            if j - i > 1 and not all(any(r.tensor >= i for r in s.reads) for s in steps[i + 1 : j]):
                continue
            ways += summed([reached[i], naive_segment(steps, i, j, machine)])
        reached.append(pareto(ways))
    return reached[-1]


@pytest.mark.parametrize("seed", range(12))
def test_the_chosen_fusion_is_the_best_of_its_space(seed: int) -> None:
    rng = random.Random(seed)
    steps = conv_chain(rng, 2 + seed % 2)
    machine = small(rng.choice([80, 120, 200]), unified=rng.random() < 0.4, overlap=rng.random() < 0.7)
    points = naive(steps, machine, 3)
    least = {"energy": min(e for e, _ in points), "latency": min(c for _, c in points)}
    least["edp"] = min(e * c for e, c in points)
    for objective, value in least.items():
        found = fused(steps, machine, objective, longest=3, fronts=objective == "edp")
        assert found.certificate.optimum == pytest.approx(value, rel=1e-9), objective
    settled = fused(steps, machine, "edp", longest=3)
    assert least["edp"] * (1 - 1e-9) <= settled.certificate.optimum <= settled.certificate.unfused * (1 + 1e-9)


# --- properties -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["edp", "energy", "latency"]))
def test_never_worse_than_one_layer_after_the_other(seed: int, objective: str) -> None:
    rng = random.Random(seed)
    steps = conv_chain(rng, rng.randint(1, 4))
    machine = small(rng.choice([64, 150, 400]), unified=rng.random() < 0.5, dram=rng.choice([8, 64]))
    plan = fused(steps, machine, objective)
    assert plan.certificate.optimum <= plan.certificate.unfused * (1 + 1e-12)
    one_by_one = [search(s.layer, machine, RATES, objective).cost for s in steps if s.layer is not None]
    if objective == "edp":  # vector work overlaps, and its own traffic is a bit more than nothing
        energy, cycles = Segments(steps, machine, Partials(machine, lambda layer: RATES), UNITS).usual()
        assert energy >= sum(c.energy for c in one_by_one) and cycles >= sum(c.cycles for c in one_by_one)
        assert plan.certificate.unfused <= energy * cycles * (1 + 1e-12)
    assert [n for s in plan.segments for n in s.names] == [s.work.name for s in steps]
    held_within(steps, machine, plan)


def held_within(steps: list[Step], machine: Hierarchy, plan: FusedPlan) -> None:
    """Tiles and what stays fit in every memory, and no intermediate touches the outermost one."""
    segments = Segments(steps, machine, Partials(machine, lambda layer: RATES), UNITS)
    for s in plan.segments:
        parts = segments.parts(s.candidate)
        assert parts is not None
        for part, choice in zip(parts, s.mappings, strict=True):
            if part.layer is None or choice is None:
                continue
            mapping, cost = choice
            own = taken(part.layer, staying(machine, part.stay, part.reserved), RATES, mapping)
            for store in machine.tiers[0]:
                assert own[store.name] + part.reserved[store.name] <= store.capacity
            outer = {e.operand for e in cost.entries if e.store == machine.outer.name}
            assert outer == ALL - part.stay


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_more_memory_is_never_worse(seed: int) -> None:
    rng = random.Random(seed)
    steps = conv_chain(rng, 2)
    size = rng.choice([64, 100, 160])
    costs = [fused(steps, small(s, unified=True), "energy").certificate.optimum for s in (size, 2 * size)]
    assert costs[1] <= costs[0] * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["I", "W", "IW"]))
def test_what_stays_costs_what_is_left_without_its_outermost_link(seed: int, stay: str) -> None:
    rng = random.Random(seed)
    machine = small(10**6)
    layer = conv("c", rng.randint(1, 9), rng.randint(1, 9), (7, 6), (3, 3), pads=(1, 1, 1, 1))
    mapping = search(layer, machine, RATES, "energy").mapping
    flow = machine.dataflows[0]
    plain = cost_of(machine, RATES, flow, layer, dict(mapping.tiles), mapping.orders)
    here = cost_of(staying(machine, frozenset(stay), {}), RATES, flow, layer, dict(mapping.tiles), mapping.orders)
    gone = 0.0
    for x in stay:
        entries = {e.store: e for e in plain.entries if e.operand == x}
        gone += entries["dram"].energy + entries["spad"].writes * 8 * 0.75
        assert not any(e.store == "dram" and e.operand == x for e in here.entries)
        (kept,) = [e for e in here.entries if e.store == "spad" and e.operand == x]
        assert kept.writes == 0 and kept.reads == entries["spad"].reads
    assert here.energy == pytest.approx(plain.energy - gone)
    assert here.cycles <= plain.cycles


def test_results_that_stay_go_home_once_and_complete() -> None:
    machine = small(10**6)
    layer = conv("c", 8, 8, (7, 6), (3, 3), pads=(1, 1, 1, 1))
    found = search(layer, staying(machine, frozenset("O"), {}), RATES, "energy")
    (home,) = [e for e in found.cost.entries if e.store == "spad" and e.operand == "O"]
    assert (home.reads, home.writes) == (0, layer.words("O"))
    assert home.energy == layer.words("O") * 8 * 0.75


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=8), st.integers(1, 7))
def test_hulls_of_sums_are_sums_of_hulls(points: list[tuple[int, int]], cut: int) -> None:
    a = [Point(float(e), float(c)) for e, c in points[:cut]]
    b = [Point(float(e), float(c)) for e, c in points[cut:]] or [Point(3.0, 4.0)]
    every = hull(Point(x.energy + y.energy, x.cycles + y.cycles) for x in a for y in b)
    found = joined(hull(a), hull(b))
    assert [(p.energy, p.cycles) for p in found] == [(p.energy, p.cycles) for p in every]
    products = [(x.energy + y.energy) * (x.cycles + y.cycles) for x in a for y in b]
    assert min(p.energy * p.cycles for p in found) == min(products)


def test_rows_of_stripes() -> None:
    layers = [conv(f"c{i}", 4, 4, (16, 16), (3, 3), pads=(1, 1, 1, 1)) for i in range(2)]
    steps = chain([Work(x.name, "conv", x) for x in layers])
    again = rows_of(steps, 0, Stripes(1, 1, 4, False, (1, 1, 16)), {1})
    assert again == ([6, 4], {0: (6, 6)})
    kept = rows_of(steps, 0, Stripes(1, 1, 4, True, (1, 1, 16)), {1})
    assert kept == ([4, 4], {0: (4, 6)})


def test_attention_keeps_scores_on_the_chip() -> None:
    """Scores, softmax and their product with the values, over blocks of queries of one head after the other."""
    heads, length, depth = 4, 64, 16
    qk, pv = gemm("qk", length, depth, length, batch=heads), gemm("pv", length, length, depth, batch=heads)
    bits = qk.words("O") * 8
    softmax = Work("softmax", "nn.softmax", None, (Vector("softmax", "alu", 0, 4 * qk.words("O"), bits, bits),))
    steps = chain([Work("qk", "matmul", qk), softmax, Work("pv", "matmul", pv)])
    machine = small(8192, unified=True, dram=32)
    plan = fused(steps, machine)
    (segment,) = plan.segments
    assert segment.candidate.stripes.count > 1 and segment.fused
    compulsory = 8 * (qk.words("I") + qk.words("W") + pv.words("W") + pv.words("O"))
    assert compulsory <= plan.outer_bits < compulsory + bits
    assert plan.outer_bits + 3 * bits < sum(s.outer_bits for s in plan.unfused)
    held_within(steps, machine, plan)


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(m, id=m.name, marks=pytest.mark.skipif(bool(m.missing), reason=m.missing))
        for m in MODELS
        if m.name in ("resnet8_cifar10", "ad01_autoencoder")
    ],
)
def test_whole_networks(model: Any) -> None:
    graph = intaglio.optimize(intaglio.load(model.proto()), "freeze{N=1},fold,cse,fuse").main
    steps = steps_of(graph, 8)
    assert [s.work for s in steps] == work_of(graph, 8)
    assert sum(s.kept for s in steps) == 1
    assert all(r.tensor < i for i, s in enumerate(steps) for r in s.reads)
    if model.name == "resnet8_cifar10":
        skips = [i for i, s in enumerate(steps) if any(r.role == "V" and r.tensor >= 0 and r.rowwise for r in s.reads)]
        assert len(skips) == 3, "every block's sum reads a tensor of its own shape"
    plan = fuse(steps, small(65536, dram=64), lambda layer: RATES, UNITS, longest=2)
    assert plan.certificate.optimum < plan.certificate.unfused
    assert plan.outer_bits < sum(s.outer_bits for s in plan.unfused)
    assert "among cuts into segments of at most 2 steps" in str(plan.certificate)
