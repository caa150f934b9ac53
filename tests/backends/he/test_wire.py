"""Messages: what is sent comes back; whatever else arrives is refused before anything of it is parsed."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.backends.he import wire
from intaglio.backends.he.parameters import KeyManifest, Parameters
from intaglio.ir.diagnostics import IntaglioError

P = Parameters(1 << 12, (36, 28), (37,), 28)
OTHER = Parameters(1 << 12, (36, 29), (37,), 28)
MANIFEST = KeyManifest.of({5: 1, 9: 0}, relin=1)


def sent(kind: str = "rotate", payload: bytes = b"data", parameters: Parameters = P, **fields: int) -> bytes:
    fields = {"index": 5, "level": 1} | fields
    return wire.message(kind, payload, parameters, **fields) + payload


def read(data: bytes, manifest: KeyManifest | None = None) -> list[tuple[wire.Header, bytes]]:
    return list(wire.read(io.BytesIO(data), P, manifest))


@given(st.lists(st.tuples(st.sampled_from(sorted(wire.KINDS)), st.binary(max_size=99), st.integers(0, 2**32 - 1))))
def test_messages_come_back(messages: list[tuple[str, bytes, int]]) -> None:
    data = b"".join(sent(kind, payload, index=index) for kind, payload, index in messages)
    assert [(h.kind, payload, h.index) for h, payload in read(data)] == messages


@given(st.binary(max_size=40), st.data())
def test_no_changed_byte_goes_unnoticed(payload: bytes, data: st.DataObject) -> None:
    message = sent(payload=payload)
    place = data.draw(st.integers(0, len(message) - 1))
    changed = bytearray(message)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntaglioError) as e:
        read(bytes(changed))
    assert e.value.diagnostics[0].code in ("IG0567", "IG0568", "IG0569")


@given(st.integers(1, wire.HEADER_BYTES + 3))
def test_no_truncation_goes_unnoticed(count: int) -> None:
    with pytest.raises(IntaglioError, match="ends after"):
        read(sent()[:-count])


@given(st.binary(min_size=1, max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(IntaglioError):
        read(data)


def test_other_parameters_are_refused() -> None:
    with pytest.raises(IntaglioError, match="for other parameters") as e:
        read(sent(parameters=OTHER))
    assert e.value.diagnostics[0].code == "IG0568"


@pytest.mark.parametrize("kind", sorted(wire.KINDS))
def test_lengths_are_bounded_before_the_payload_is_read(kind: str) -> None:
    bound = wire.largest(kind, 1, 2, P)
    assert bound < 3 << 20
    header = wire.Header(kind, 5, 1, 2, bound + 1, P.digest, bytes(32))
    with pytest.raises(IntaglioError) as e:
        wire.parse_header(header.packed() + header.digest, P)
    assert e.value.diagnostics[0].code == "IG0569"


def test_only_keys_of_the_manifest_are_wanted() -> None:
    read(sent() + sent(index=9, level=0) + sent("relin", index=0), MANIFEST)
    for wrong in (
        sent(index=6),
        sent(index=9, level=1),
        sent("relin", index=1),
        sent("relin", index=0, level=0),
        sent("conjugate", index=0),
        sent("secret", index=0),
        sent("ciphertext", index=0),
    ):
        with pytest.raises(IntaglioError) as e:
            read(wrong, MANIFEST)
        assert e.value.diagnostics[0].code == "IG0568"


def test_levels_and_sizes_are_those_of_the_parameters() -> None:
    for fields in ({"level": 2}, {"size": 1}, {"size": 4}):
        with pytest.raises(IntaglioError):
            read(sent("ciphertext", **fields))
