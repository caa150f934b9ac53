"""Compressed streams come back, have the size that the cost model counts, and stop with a diagnostic when damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.backends.accelerator.formats import Format, parse_format, size_of
from intaglio.backends.accelerator.isa.compression import compress, decompress, format_of, number_of
from intaglio.ir.diagnostics import IntaglioError

FORMATS = [parse_format(t) for t in ("dense", "bitmask", "rlc:1", "rlc:4", "rlc:8", "nm:2:4", "nm:1:4", "nm:4:8")]


@st.composite
def streams(draw: st.DrawFn) -> tuple[Format, bytes]:
    form = draw(st.sampled_from(FORMATS))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    codes = rng.integers(0, 256, draw(st.integers(0, 300))).astype(np.uint8)
    codes[rng.random(len(codes)) > draw(st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]))] = 0
    if form.kind == "nm":
        for group in range(0, len(codes), form.m):
            some = rng.permutation(form.m)[: form.m - form.a]
            codes[[group + i for i in some if group + i < len(codes)]] = 0
    return form, codes.tobytes()


@given(streams())
def test_streams_come_back(case: tuple[Format, bytes]) -> None:
    form, codes = case
    packed = np.frombuffer(compress(codes, form), np.uint8)
    assert decompress(packed, form, len(codes)).tobytes() == codes


@given(streams())
def test_sizes_are_those_of_the_cost_model(case: tuple[Format, bytes]) -> None:
    form, codes = case
    mask = np.frombuffer(codes, np.uint8)[None] != 0
    bits = size_of(form, mask, 8)
    assert bits <= 8 * len(compress(codes, form)) < bits + 16


@given(streams(), st.data())
def test_damaged_streams_give_codes_or_a_diagnostic(case: tuple[Format, bytes], data: st.DataObject) -> None:
    form, codes = case
    packed = bytearray(compress(codes, form))
    if packed and data.draw(st.booleans()):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    packed = packed[: data.draw(st.integers(0, len(packed)))]
    try:
        found = decompress(np.frombuffer(bytes(packed), np.uint8), form, len(codes))
    except IntaglioError as e:
        assert e.diagnostics[0].code == "IG0583"
    else:
        assert len(found) == len(codes)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_formats_are_numbers(form: Format) -> None:
    assert format_of(number_of(form)) == form


def test_csr_is_no_stream() -> None:
    with pytest.raises(IntaglioError, match="IG0580"):
        number_of(parse_format("csr"))


@pytest.mark.parametrize("number", [-1, 4, 7, 8, 2, 3, 3 + 8 * 5 + 256 * 4, 1 << 20])
def test_other_numbers_are_none(number: int) -> None:
    with pytest.raises(IntaglioError, match="IG0583"):
        format_of(number)
