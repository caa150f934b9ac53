"""Levels and parameters: late, few, secure."""

from __future__ import annotations

import pytest

from intaglio.backends.he import security
from intaglio.backends.he.levels import place, rise
from intaglio.backends.he.network import read_network
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


@pytest.mark.parametrize("top", [4, 5, 7, 9, 12])
def test_between_bootstraps_no_way_is_longer_than_the_chain(top: int) -> None:
    network = read_network(blocks(4))
    levels = place(network, top)
    assert levels.cuts
    start = 0
    for end in (*levels.cuts, len(network.layers)):
        for i in range(max(1, start), end):
            for j in network.layers[i].inputs:
                high = levels.level[j] if j >= start else levels.top
                assert high >= levels.level[i] + rise(network, j, i)
        start = end
    assert max(levels.level[1:]) <= top


def test_fewer_levels_take_more_bootstraps() -> None:
    network = read_network(blocks(4))
    cuts = [len(place(network, top).cuts) for top in (4, 6, 9, 19)]
    assert cuts == sorted(cuts, reverse=True) and cuts[-1] == 0 < cuts[0]


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
