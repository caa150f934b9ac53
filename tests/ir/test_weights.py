"""Files of constants: what is written is read again, by us and by the safetensors package; lies are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from safetensors import deserialize
from safetensors.numpy import load_file, save_file

from intaglio.ir import IntaglioError
from intaglio.ir.types import ELEM_NAMES, elem_named
from intaglio.ir.weights import Weights, save_weights

PLAIN = ["bool", *(f"{k}{b}" for k in "iu" for b in (8, 16, 32, 64)), "f16", "f32", "f64"]


@st.composite
def arrays(draw: Any, names: list[str]) -> np.ndarray[Any, Any]:
    dtype = elem_named(draw(st.sampled_from(names))).dtype
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if dtype.kind == "b" or dtype.kind in "iuf":
        return np.asarray(rng.integers(0, 2 if dtype.kind == "b" else 100, shape)).astype(dtype)
    bits = 4 if dtype.name in ("int4", "uint4", "float4_e2m1fn") else 2 if dtype.name in ("int2", "uint2") else 8
    codes = rng.integers(0, 1 << min(bits, 8), (*shape, dtype.itemsize)).astype(np.uint8)
    if dtype.name in ("int4", "int2"):  # their bytes are sign-extended
        half = 1 << (bits - 1)
        return (np.asarray(codes[..., 0]).astype(np.int8) - half).astype(dtype)
    return np.ascontiguousarray(codes).view(dtype).reshape(shape)


NAMES = st.one_of(st.sampled_from(["w", "layer.0/kernel:0", "é", "", "intaglio"]), st.text(max_size=5)).filter(
    lambda name: name != "__metadata__" and not any(0xD800 <= ord(c) < 0xE000 for c in name)
)


def bits(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return array.dtype.name, array.shape, array.tobytes()


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(NAMES, arrays(sorted(ELEM_NAMES)), max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory: Any, tensors: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "all.safetensors"
    save_weights(path, tensors, {"made by": "us"})
    found = Weights(path)
    assert found.metadata == {"made by": "us"}
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in tensors.items()}
    assert not any(v.flags.writeable for v in found.values())
    deserialize(path.read_bytes())  # the package accepts every such file


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(NAMES, arrays(PLAIN), max_size=5))
def test_the_package_reads_and_writes_the_same(tmp_path_factory: Any, tensors: dict[str, Any]) -> None:
    ours, theirs = (tmp_path_factory.getbasetemp() / f"{n}.safetensors" for n in ("ours", "theirs"))
    save_weights(ours, tensors)
    save_file(tensors, theirs)
    expected = {k: bits(v) for k, v in tensors.items()}
    assert {k: bits(v) for k, v in load_file(ours).items()} == expected
    assert {k: bits(v) for k, v in Weights(theirs).items()} == expected


def test_narrow_floats_have_the_names_of_the_format(tmp_path: Path) -> None:
    types = {
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F4": ml_dtypes.float4_e2m1fn,
    }
    save_weights(tmp_path / "f", {name: np.array([1.0, 2.0]).astype(t) for name, t in types.items()})
    found = dict(deserialize((tmp_path / "f").read_bytes()))
    assert {name: entry["dtype"] for name, entry in found.items()} == {name: name for name in types}
    assert bytes(found["F4"]["data"]) == b"\x42"  # 2.0 is code 4, 1.0 code 2; the first element is the lower half


def test_packing(tmp_path: Path) -> None:
    """Two or four elements a byte, the first lowest, zeros after the last."""
    array = np.array([1, -1, -8, 7, 3], np.int8).astype(ml_dtypes.int4)
    save_weights(tmp_path / "w", {"w": array})
    (name, entry), *rest = deserialize((tmp_path / "w").read_bytes())
    assert (name, entry["dtype"], entry["shape"], rest) == ("w", "U8", [3], [])
    assert bytes(entry["data"]) == bytes([0xF1, 0x78, 0x03])
    assert Weights(tmp_path / "w")["w"].astype(np.int8).tolist() == [1, -1, -8, 7, 3]


def test_data_is_aligned_and_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": np.ones(3, np.int8), "b": np.ones(5), "c": np.ones((16, 16), np.float32)})
    found = Weights(path)
    for name, alignment in (("a", 1), ("b", 8), ("c", 64)):
        assert found[name].ctypes.data % alignment == 0
        assert not found[name].flags.owndata
    assert found["c"].ctypes.data == found["c"].ctypes.data


def test_arrays_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": np.arange(100)})
    array = Weights(path)["a"]
    save_weights(path, {"a": np.zeros(2)})
    path.unlink()
    assert array.sum() == 4950


def test_writing_replaces_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": np.zeros(2)})
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(IntaglioError) as caught:
        save_weights(path, {"a": np.zeros(2), "b": np.zeros(2, np.complex64)})
    assert caught.value.diagnostics[0].code == "IG0202"
    assert path.read_bytes() == before
    save_weights(path, {"a": np.ones(2)})
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    with pytest.raises(IntaglioError) as caught:
        save_weights(tmp_path / "no" / "folder", {})
    assert caught.value.diagnostics[0].code == "IG0005"


# --- headers that lie -------------------------------------------------------------------------------------------------


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "U8", shape: Any = (4,), begin: Any = 0, end: Any = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


LIES: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x02\0\0\0\0\0\0\0{",
    "huge length": file_of({}, length=1 << 62),
    "length beyond the file": file_of({}, length=100),
    "no json": file_of(b"{nope}"),
    "no utf-8": file_of(b'{"\xff": 1}'),
    "deep json": file_of(b"[" * 100_000),
    "long number": file_of(b'{"a": ' + b"9" * 10_000 + b"}"),
    "a list": file_of([]),
    "entry is no table": file_of({"a": 3}),
    "entry without type": file_of({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"1"),
    "unknown type": file_of({"a": entry("C64", (1,), 0, 8)}, bytes(8)),
    "type is a list": file_of({"a": entry([])}, bytes(4)),
    "negative extent": file_of({"a": entry(shape=(-4,))}, bytes(4)),
    "fractional extent": file_of({"a": entry(shape=(4.0,))}, bytes(4)),
    "true as extent": file_of({"a": entry(shape=(True,), end=1)}, bytes(1)),
    "huge extent": file_of({"a": entry(shape=(1 << 70,))}, bytes(4)),
    "product overflows": file_of({"a": entry(shape=(1 << 40, 1 << 40))}, bytes(4)),
    "empty but huge": file_of({"a": entry(shape=(0, 1 << 59, 1 << 59), end=0)}),
    "many axes": file_of({"a": entry(shape=[1] * 1000, end=1)}, bytes(1)),
    "wrong size": file_of({"a": entry("F32")}, bytes(4)),
    "outside": file_of({"a": entry(begin=100, end=104)}, bytes(4)),
    "negative offset": file_of({"a": entry(begin=-4, end=0)}, bytes(4)),
    "backwards": file_of({"a": entry(shape=(0,), begin=4, end=0)}, bytes(4)),
    "overlap": file_of({"a": entry(), "b": entry(begin=2, end=6)}, bytes(6)),
    "same bytes twice": file_of({"a": entry(), "b": entry()}, bytes(4)),
    "gap": file_of({"a": entry(), "b": entry(begin=8, end=12)}, bytes(12)),
    "data after the end": file_of({"a": entry()}, bytes(5)),
    "data is missing": file_of({"a": entry()}, bytes(3)),
    "one name twice": file_of(
        b'{"a": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}, "a": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "metadata is a list": file_of({"__metadata__": [1]}),
    "metadata are numbers": file_of({"__metadata__": {"a": 1}}),
    "half a byte": file_of({"a": entry("F4", (3,), 0, 2)}, bytes(2)),
    "note is no json": file_of({"__metadata__": {"intaglio": "{"}, "a": entry()}, bytes(4)),
    "note is a list": file_of({"__metadata__": {"intaglio": "[]"}, "a": entry()}, bytes(4)),
    "note of nothing": file_of({"__metadata__": {"intaglio": '{"a": 3}'}, "a": entry()}, bytes(4)),
    "note of a list": file_of(
        {"__metadata__": {"intaglio": '{"a": {"dtype": [], "shape": [8]}}'}, "a": entry()}, bytes(4)
    ),
    "note with a shape that lies": file_of(
        {"__metadata__": {"intaglio": '{"a": {"dtype": "i4", "shape": [1000000000]}}'}, "a": entry()}, bytes(4)
    ),
    "note on floats": file_of(
        {"__metadata__": {"intaglio": '{"a": {"dtype": "i4", "shape": [8]}}'}, "a": entry("F32", (1,))}, bytes(4)
    ),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_lies_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(data)
    with pytest.raises(IntaglioError) as caught:
        Weights(path)
    assert caught.value.diagnostics[0].code in {"IG0004", "IG0006", "IG0007"}
    assert str(path) in str(caught.value)


SOUND = file_of({"a": entry("F32", (1,)), "b": entry("I8", (2, 3), 4, 10), "__metadata__": {"k": "v"}}, bytes(10))


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(SOUND) - 1), st.binary(max_size=3), st.integers(0, 3))
@example(0, b"", 0)
def test_damaged_files_are_read_or_refused(tmp_path_factory: Any, at: int, put: bytes, drop: int) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(SOUND[:at] + put + SOUND[at + drop :])
    try:
        found = Weights(path)
        assert sum(v.nbytes for v in found.values()) <= len(SOUND)
    except IntaglioError as e:
        assert e.diagnostics[0].code in {"IG0004", "IG0006", "IG0007"}


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(IntaglioError) as caught:
            Weights(path)
        assert caught.value.diagnostics[0].code == "IG0001"


def test_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(IntaglioError):
        save_weights(tmp_path / "w", {"__metadata__": np.zeros(1)})
