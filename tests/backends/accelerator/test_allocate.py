"""Interval packing: nothing that lives at the same time overlaps, and the bound is one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from intaglio.backends.accelerator.allocate import Buffer, place


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    spans = draw(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 12), st.integers(0, 12)), max_size=12))
    return [Buffer(f"b{i}", size, first, first + length) for i, (size, first, length) in enumerate(spans)]


@given(buffers(), st.randoms(use_true_random=False))
def test_neighbours_in_time_do_not_overlap(given: list[Buffer], random: object) -> None:
    found = place(given)
    for i, a in enumerate(given):
        for b in given[:i]:
            if a.first <= b.last and b.first <= a.last:
                x, y = found.addresses[a.name], found.addresses[b.name]
                assert x + a.size <= y or y + b.size <= x
    at = [sum(b.size for b in given if b.first <= t <= b.last) for t in range(25)]
    assert found.lower_bound == max(at)
    assert found.lower_bound <= found.peak <= sum(b.size for b in given)
    shuffled = list(given)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert place(shuffled) == found


def test_a_chain_takes_two_buffers() -> None:
    """Each layer's output lives until the next has read it: two neighbours at a time."""
    chain = [Buffer(f"t{i}", 100, i, i + 1) for i in range(10)]
    assert place(chain).peak == place(chain).lower_bound == 200
