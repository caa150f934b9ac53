"""Levels and parameters: late, few, secure."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends.he import security
from intaglio.backends.he.levels import Levels, place, rise
from intaglio.backends.he.network import Layer, Network
from intaglio.backends.he.parameters import MOST_PRIMES
from intaglio.backends.he.reading import read_network
from intaglio.backends.he.search import BOOTSTRAP, parameters
from intaglio.ir import Graph, IntaglioError

from . import models


def blocks(count: int) -> Graph:
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25)
    for _ in range(count):
        b.residual(4)
    return b.dense(10).graph()


def test_levels_are_as_low_as_they_can_be() -> None:
    """Every value lies exactly as far above the output as its longest way there; the output is at level 0."""
    network = read_network(blocks(3))
    levels = place(network)
    assert levels.level[network.output] == 0
    for j in range(len(network.layers) - 1):
        ways = [levels.level[i] + rise(network, j, i) for i in network.users(j)]
        assert levels.level[j] == max(ways)


def least(network: Network, levels: Levels) -> None:
    """Every way between bootstraps fits into the chain."""
    for i, one in enumerate(network.layers):
        for j in one.inputs:
            high = levels.top if j in levels.raised else levels.level[j]
            assert high >= levels.level[i] + rise(network, j, i)
    assert all(levels.level[j] == 0 for j in levels.raised)
    assert max(levels.level) <= levels.top


@pytest.mark.parametrize("top", [4, 5, 7, 9, 12])
def test_between_bootstraps_no_way_is_longer_than_the_chain(top: int) -> None:
    network = read_network(blocks(4))
    levels = place(network, top)
    assert levels.raised
    least(network, levels)


def test_fewer_levels_take_more_bootstraps() -> None:
    network = read_network(blocks(4))
    cuts = [len(place(network, top).raised) for top in (4, 6, 9, 19)]
    assert cuts == sorted(cuts, reverse=True) and cuts[-1] == 0 < cuts[0]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Layers of any value before, the last of which are summed up: branches that cross, long and short."""
    made = [Layer("input", (), (4,))]
    for _ in range(draw(st.integers(3, 9))):
        kind = draw(st.sampled_from(["linear", "square", "monic", "sum", "sum"]))
        recent = st.integers(max(0, len(made) - 4), len(made) - 1)
        inputs = tuple(draw(st.lists(recent, min_size=2, max_size=3, unique=True)) if len(made) > 1 else [0])
        if kind != "sum" or len(inputs) == 1:
            inputs = inputs[:1]
        made.append(
            Layer(kind, inputs, (4,), coeffs=(0.0,) * 4 if kind == "monic" else (), factors=(1.0,) * len(inputs))
        )
    read = {j for one in made for j in one.inputs}
    ends = tuple(i for i in range(len(made)) if i not in read)
    if len(ends) > 1:
        made.append(Layer("sum", ends, (4,), factors=(1.0,) * len(ends)))
    return Network(made, len(made) - 1)


def fewest(network: Network, top: int) -> int | None:
    """By trying every set of values, small ones first."""
    inner = range(1, len(network.layers) - 1)
    rises = [[(j, rise(network, j, i)) for j in one.inputs] for i, one in enumerate(network.layers)]
    for count in range(len(inner) + 1):
        for cut in itertools.combinations(inner, count):
            level = [top]
            for ways in rises[1:]:
                level.append(min((top if j in cut else level[j]) - down for j, down in ways))
            if min(level) >= 0:
                return count
    return None


@given(networks(), st.integers(2, 5))
@settings(max_examples=150)
def test_no_set_of_bootstraps_is_smaller(network: Network, top: int) -> None:
    want = fewest(network, top)
    if want is None:
        with pytest.raises(IntaglioError, match="too few for one layer"):
            place(network, top)
        return
    levels = place(network, top)
    assert len(levels.raised) == want
    least(network, levels)


def test_a_long_skip_connection_is_bootstrapped_once() -> None:
    """A U: what goes across would be cut with everything else each time, if cuts went through all that is alive."""
    layers = [Layer("input", (), (4,)), Layer("square", (0,), (4,))]
    for i in range(1, 13):
        layers.append(Layer("square", (i,), (4,)))
    layers.append(Layer("sum", (13, 1), (4,), factors=(1.0, 1.0)))
    assert len(place(Network(layers, 14), 4).raised) == 3


def test_a_wide_graph_is_cut_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intaglio.backends.he.levels.STATES", 3)
    network = read_network(blocks(4))
    levels = place(network, 5)
    least(network, levels)


def test_a_chain_that_is_shorter_than_a_layer_is_refused() -> None:
    network = read_network(models.Builder((1, 4, 4)).dense(8).poly(0.1, 0.2, 0.3, 0.1, 0.1, 0.2).dense(8).graph())
    with pytest.raises(IntaglioError, match="too few for one layer") as caught:
        place(network, 2)
    assert caught.value.diagnostics[0].code == "IG0544"


@pytest.mark.parametrize("special", [0, 1])
@pytest.mark.parametrize("levels", [1, 3, 5, 7, 12, 15, 20, 40])
def test_what_the_search_finds_is_secure(levels: int, special: int) -> None:
    found = [parameters(1 << log, levels, special=special) for log in range(12, 17)]
    assert found[-1] is not None
    for one in found:
        if one is not None:
            security.check(one)
            assert one.max_level == levels and len(one.special_bits) >= 1
            assert max(one.special_bits) >= max(one.prime_bits)


def test_bootstrapping_primes_count() -> None:
    one = parameters(1 << 16, 9, special=0, bootstrap=True)
    assert one is not None and one.secret == "h=192" and one.bootstrap_bits == BOOTSTRAP
    assert one.log_qp <= 1553
    assert parameters(1 << 16, 25, special=0, bootstrap=True) is None
    for levels in (45, 58, 62, 63, 90):  # of more primes than a set may have there is none, and that is no error
        found = parameters(1 << 16, levels, special=0)
        assert found is None or len(found.prime_bits) + len(found.special_bits) <= MOST_PRIMES
