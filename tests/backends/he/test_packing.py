"""Packings and plans: exact against NumPy, whatever the shapes."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings

from intaglio.backends.he.plans import Geometry, candidates, split
from intaglio.ir import IntaglioError
from intaglio.ir.diagonals import Counter, Plan, Slots, conv_map, dense_map, diagonals, run_plan
from intaglio.ir.ops.nn import conv
from intaglio.ir.packing import Packing

POWERS = st.integers(0, 3).map(lambda n: 1 << n)


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    stride = draw(POWERS)
    dense = Packing.dense(shape, 1 << 12, stride)
    size = 1 << (int(dense.positions.max())).bit_length()
    count = min(draw(POWERS), (1 << 12) // size)
    skew = draw(st.integers(0, 3)) if stride == 1 and count > 1 and len(shape) == 1 else 0
    copies = (count, size, skew) if count > 1 else (1, 0, 0)
    return Packing(shape, 1 << 12, dense.axes, draw(st.integers(0, 4095)), copies)


@given(packings())
def test_packings_are_read_as_written_and_unpack_what_they_pack(p: Packing) -> None:
    assert Packing.parse(str(p)) == p
    x = np.random.default_rng(0).normal(size=p.shape)
    slots = p.pack(x)
    assert np.array_equal(p.unpack(slots), x)
    for row in p.everywhere:
        assert np.array_equal(slots[row], x.reshape(-1))
    assert np.count_nonzero(slots) == p.size * p.copies[0]


@pytest.mark.parametrize(
    "text", ["", "3/8", "3/7: 3*1", "3/8: 2*1", "4/8: 4*1 copies 2*99999999999", "4/8: 2*1,2*1 base -1"]
)
def test_what_is_no_packing_is_refused(text: str) -> None:
    with pytest.raises(IntaglioError) as caught:
        _ = Packing.parse(text).content
    assert caught.value.diagnostics[0].code == "IG0540"


def test_two_elements_in_one_slot_are_refused() -> None:
    with pytest.raises(IntaglioError, match="two elements"):
        _ = Packing((4,), 8, (((2, 1), (2, 1)),)).content


def run(source: Packing, target: Packing, plan: Plan, of: object, w: object, x: object) -> object:
    found = diagonals(plan, source, target, of)  # type: ignore[arg-type]
    y = run_plan(Slots(found, w), source.pack(x) + junk(source), plan, found.entries)  # type: ignore[arg-type]
    counter = Counter()
    run_plan(counter, False, plan, found.entries)
    assert counter.rotations <= plan.rotations and counter.products == len(found)
    return y


def junk(p: Packing) -> object:
    """Anything in the slots that hold nothing."""
    return np.where(p.content < 0, np.random.default_rng(1).normal(size=p.slots), 0.0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_dense_layers_are_exact_in_every_candidate(data: st.DataObject) -> None:
    columns, rows = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 20))
    stride = data.draw(POWERS)
    source = Packing((columns,), 1024, (((columns, stride),),), data.draw(st.integers(0, 1023)))
    if data.draw(st.booleans()):
        apart = 1 << (columns * stride - 1).bit_length()
        source = Packing((columns,), 1024, source.axes, source.base, (1024 // apart, apart, 0))
    random = np.random.default_rng(0)
    w, x = random.normal(size=(rows, columns)), random.normal(size=columns)
    found = list(candidates(source, Geometry((columns,), (rows,))))
    assert found
    for one in found[:4]:
        y = run(source, one.target, one.plan, dense_map(rows, columns), w, x)
        for row in one.target.everywhere:
            np.testing.assert_allclose(y[row], w @ x, atol=1e-9)  # type: ignore[index]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolutions_are_exact_in_every_candidate(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2]))
    channels, maps = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    size, k, stride = (
        data.draw(st.integers(4, 8)),
        data.draw(st.sampled_from([1, 2, 3, 5])),
        data.draw(st.integers(1, 2)),
    )
    pad = data.draw(st.integers(0, k // 2))
    assume(size + 2 * pad >= k)
    out = (size + 2 * pad - k) // stride + 1
    assume((out - 1) * stride < size)  # the result fits where the image was
    random = np.random.default_rng(0)
    w, x = random.normal(size=(maps, channels // groups, k, k)), random.normal(size=(channels, size, size))
    want = conv.function(x[None], w, None, strides=(stride, stride), pads=(pad,) * 4, g=groups)[0]
    blocks = 1 << (channels - 1).bit_length()
    copies = (2048 // (blocks * 64), blocks * 64, 0)
    source = Packing((channels, size, size), 2048, (((channels, 64),), ((size, 8),), ((size, 1),)), 0, copies)
    if data.draw(st.booleans()):
        source = Packing(source.shape, 2048, source.axes, data.draw(st.integers(0, 2047)))
    of = conv_map(source.shape, w.shape, (out, out), (stride, stride), (pad, pad), groups)  # type: ignore[arg-type]
    geometry = Geometry(source.shape, (maps, out, out), (k, k), (stride, stride), (pad, pad), groups)
    found = list(candidates(source, geometry))
    assert found
    for one in found[:4]:
        y = run(source, one.target, one.plan, of, w, x)
        for row in one.target.everywhere:
            np.testing.assert_allclose(y[row], want.reshape(-1), atol=1e-9)  # type: ignore[index]


def test_a_plan_that_cannot_reach_everything_is_refused() -> None:
    source = Packing.dense((8,), 64)
    with pytest.raises(IntaglioError, match="of 64 products") as caught:
        diagonals(Plan(((4, 1),)), source, Packing.dense((8,), 64), dense_map(8, 8))
    assert caught.value.diagnostics[0].code == "IG0541"
    with pytest.raises(IntaglioError, match="two results would meet"):
        diagonals(Plan(((8, 1),), (), (1,)), source, Packing.dense((8,), 64), dense_map(8, 8))


def test_progressions_are_split_evenly() -> None:
    plan = split(((16, 1),), ())
    assert plan.rotations == 6 and plan.steps == {1, 4}
    plan = split(((32, 256), (3, 32), (6, 1)), (16,))
    assert plan.rotations <= 48 and len(plan.baby_offsets) * len(plan.giant_offsets) == 576


def test_zero_weights_take_their_diagonals_with_them() -> None:
    source, w = Packing.dense((8,), 8), np.diag(np.arange(1.0, 9.0))
    plan = Plan(((8, 1),))
    found = diagonals(plan, source, source, dense_map(8, 8), w.reshape(-1) != 0)
    assert len(found) == 1
    np.testing.assert_array_equal(run_plan(Slots(found, w), np.ones(8), plan, found.entries), np.arange(1.0, 9.0))
