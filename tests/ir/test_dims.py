"""Extents are integer polynomials: their arithmetic is that of the integers, whatever the symbols stand for."""

from __future__ import annotations

import pickle
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from intaglio.ir import Dim, IntaglioError, dim
from intaglio.ir.dims import UNKNOWN, exact_div, floor_div, parse_dim, same, size, solve, substitute, symbols

N, S = dim("N"), dim("S")

leaves = st.one_of(st.integers(-4, 4), st.sampled_from([N, S, dim("batch_1")]))
extents = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda f, a, b: f(a, b),
        st.sampled_from([lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b]),
        inner,
        inner,
    ),
    max_leaves=6,
)
values = st.fixed_dictionaries({"N": st.integers(0, 9), "S": st.integers(0, 9), "batch_1": st.integers(0, 9)})


def at(extent: Any, given: dict[str, int]) -> int:
    found = substitute(extent, given)
    assert type(found) is int
    return found


@given(extents, extents, values)
def test_arithmetic_is_that_of_integers(a: Any, b: Any, given: dict[str, int]) -> None:
    x, y = at(a, given), at(b, given)
    assert at(a + b, given) == x + y
    assert at(a - b, given) == x - y
    assert at(a * b, given) == x * y
    assert at(size((a, b, 2)), given) == 2 * x * y


@given(extents, extents, extents)
def test_equal_polynomials_are_one_object(a: Any, b: Any, c: Any) -> None:
    def one(x: Any, y: Any) -> bool:
        return x is y if isinstance(x, Dim) else x == y

    assert one(a + b, b + a) and one(a * b, b * a)
    assert one((a + b) + c, a + (b + c)) and one((a * b) * c, a * (b * c))
    assert one(a * (b + c), a * b + a * c)
    assert one(a - a, 0) and one(a + 0, a) and one(a * 1, a) and one(a * 0, 0)


@given(extents)
def test_text_and_pickle_give_it_back(a: Any) -> None:
    again = parse_dim(str(a))
    assert again is a if isinstance(a, Dim) else again == a
    if isinstance(a, Dim):
        assert pickle.loads(pickle.dumps(a)) is a


@given(extents, extents, values)
def test_division_is_exact_or_none(a: Any, b: Any, given: dict[str, int]) -> None:
    found = exact_div(a, b)
    if found is not None:
        assert at(found, given) * at(b, given) == at(a, given) or b == 0
    if isinstance(b, int) and b:
        assert exact_div(a * b, b) == a


@given(extents, st.integers(1, 5), values)
def test_floor_division_is_exact_or_unknown(a: Any, n: int, given: dict[str, int]) -> None:
    found = floor_div(a, n)
    if found is not UNKNOWN:
        assert at(found, given) == at(a, given) // n


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 20))
def test_solving_binds_the_symbol(k: int, c: int, n: int) -> None:
    extent = k * N + c
    found = solve(extent, k * n + c, {})
    if isinstance(extent, int):
        assert found == {}
    else:
        assert found == {"N": n}
        assert solve(extent, k * n + c + (1 if abs(k) > 1 else -(10**6) * k), {}) is None


def test_products_are_settled_by_other_operands() -> None:
    assert solve(N * S, 6, {}) == {}
    assert solve(N * S, 6, {"N": 2}) == {"S": 3}
    assert solve(N * S, 7, {"N": 2}) is None
    assert solve(UNKNOWN, 7, {}) == {}


def test_unknown_swallows() -> None:
    assert N + UNKNOWN is UNKNOWN and UNKNOWN * 2 is UNKNOWN and 2 - UNKNOWN is UNKNOWN
    assert UNKNOWN * 0 == 0 and exact_div(UNKNOWN, 2) is UNKNOWN and floor_div(UNKNOWN, 2) is UNKNOWN
    assert same(UNKNOWN, 3) and same(N, UNKNOWN) and not same(N, 3)
    assert symbols((N * S + 1, UNKNOWN, 3)) == {"N", "S"}


def test_flattening_and_back() -> None:
    assert exact_div(N * S * 384, 384 * S) is N
    assert floor_div(2 * N + 5, 2) == N + 2
    assert exact_div(N * S + N, N) == S + 1
    assert exact_div(3 * N, 2) is None


@pytest.mark.parametrize(
    "text", ["", "2N", "N**2", "N +", "+", "*N", "N S", "N-", "1.5", "N/2", "(N)", "f32", "9 9", "?+1"]
)
def test_what_is_no_extent(text: str) -> None:
    with pytest.raises(IntaglioError) as caught:
        parse_dim(text)
    assert caught.value.diagnostics[0].code == "IG0201"


@pytest.mark.parametrize("name", ["", "1N", "N-1", "é", "?", "f32", "inf", "graph", "_"])
def test_names_of_symbols(name: str) -> None:
    with pytest.raises(IntaglioError):
        dim(name)
