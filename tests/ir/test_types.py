"""Types are interned, immutable, and written as the text form reads them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from intaglio.ir import Affine, Bool, Cipher, Constant, Float, Int, IntaglioError, Pow2, Sign, Tensor, dim
from intaglio.ir.text import parse_type
from intaglio.ir.types import BOOL, DENSE, ELEM_NAMES, NM, Block, Channels, Csr, elem_named, elem_of

floats = st.sampled_from([n for n in sorted(ELEM_NAMES) if n.startswith(("f", "bf"))]).map(Float)
ints = st.sampled_from([n for n in sorted(ELEM_NAMES) if n[0] in "iu"]).map(Int)
axes = st.one_of(st.none(), st.integers(0, 3))
scales = st.floats(allow_nan=False)
elems = st.one_of(
    floats,
    ints,
    st.just(BOOL),
    st.builds(Affine, ints, floats, scales, st.integers(-9, 9), axes, st.one_of(st.none(), st.integers(1, 64))),
    st.builds(Affine, floats, floats, scales, st.floats(allow_nan=False)),
    st.builds(Sign, floats, scales, axes),
    st.builds(Pow2, st.integers(1, 8), floats, st.integers(-9, 9)),
)
layouts = st.one_of(
    st.just(DENSE),
    st.just(Csr()),
    st.builds(NM, st.integers(1, 4), st.integers(1, 8), st.integers(0, 3)),
    st.builds(Block, st.lists(st.integers(1, 8), min_size=1, max_size=3).map(tuple)),
    st.builds(Channels, st.integers(0, 3), st.lists(st.integers(0, 9), max_size=3).map(tuple)),
)
shapes = st.lists(st.one_of(st.integers(0, 9), st.sampled_from([dim("N"), 2 * dim("N") + 1])), max_size=4).map(tuple)
tensors = st.builds(Tensor, shapes, elems, layouts, st.text(max_size=3))
ciphers = st.builds(
    Cipher,
    shapes,
    st.text(max_size=3),
    st.integers(0, 30),
    st.fractions(-1000, 1000),
    st.sampled_from(["ckks", "bfv"]),
    st.sampled_from([2, 3]),
)
types = st.one_of(tensors, ciphers)


@settings(deadline=None)
@given(types)
def test_types_are_interned_and_read_again(t: Any) -> None:
    assert parse_type(str(t)) is t
    assert pickle.loads(pickle.dumps(t)) is t
    assert copy.deepcopy(t) is t
    fields = [getattr(t, name) for name in t._fields]
    assert type(t)(*fields) is t


@given(types, types)
def test_equal_text_is_equal_type(a: Any, b: Any) -> None:
    assert (str(a) == str(b)) == (a is b)


def test_types_do_not_change() -> None:
    t = Tensor((2,), "f32")
    with pytest.raises(AttributeError):
        t.shape = (3,)  # type: ignore[misc]
    assert Tensor((np.int64(2),), "f32") is t  # type: ignore[arg-type]
    assert t.with_shape((3,)) is Tensor((3,), "f32")


@pytest.mark.parametrize("name", sorted(ELEM_NAMES))
def test_elements_and_numpy_types_correspond(name: str) -> None:
    elem = elem_named(name)
    assert str(elem) == name and elem_of(elem.dtype) is elem
    if isinstance(elem, Int):
        low, high = elem.range
        assert [int(x) for x in np.array([low, high], elem.dtype)] == [low, high]
        assert (low < 0) == elem.signed and high - low == 2**elem.bits - 1


def test_scales_are_constants_compared_by_name_and_content() -> None:
    """By name too: else the text of a program would have names from programs that were there before."""

    def elem(name: str, *numbers: float) -> Affine:
        return Affine(Int("i8"), Float("f32"), Constant(np.array(numbers, np.float32), name), 0, 0)

    assert elem("a", 0.5, 1) is elem("a", 0.5, 1)
    assert elem("a", 0.5, 1) is not elem("b", 0.5, 1)
    assert elem("a", 0.5, 1) is not elem("a", 0.5, 2)
    assert str(elem("b", 0.5, 1)) == 'q<i8, f32, scale=@"b", axis=0>'


@pytest.mark.parametrize(
    "make",
    [
        lambda: Float("f33"),
        lambda: Int("f32"),
        lambda: elem_named("float"),
        lambda: elem_of(np.complex64),
        lambda: elem_of("U3"),
        lambda: Cipher((), "", 1, 1001),
        lambda: Cipher((), "", -1, 40),
        lambda: Cipher((), "", 1, 40, size=4),
        lambda: Tensor((2,), "tensor"),
        lambda: Tensor((-1,), "f32"),
    ],
)
def test_types_that_cannot_be(make: Any) -> None:
    with pytest.raises(IntaglioError) as caught:
        make()
    assert caught.value.diagnostics[0].code in {"IG0202", "IG0207"}


def test_booleans() -> None:
    assert Bool() is BOOL and BOOL.dtype == np.bool_
