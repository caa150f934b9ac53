"""Files of constants: a reader and a writer of the safetensors format.

    8 bytes: length of the header   header: JSON {name: {dtype, shape, data_offsets}}   data, without gaps

Reading maps the file and copies nothing; no number in a header is believed before it was checked against the file.
Writing goes to a temporary name first, so an interrupted run leaves no half file.

Our own reader, because NumPy's loader of the safetensors package has no bfloat16 and no fp8, and no reader knows
integers of 4 and 2 bits. Those are packed into U8, the first element in the lowest bits, with a note under `intaglio`
in `__metadata__`; so are fp4 tensors of an odd number of elements.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .diagnostics import IntaglioError, error
from .types import Bool, Float, Int, elem_named, elem_of

__all__ = ["Weights", "replace_file", "save_weights"]

Array = npt.NDArray[Any]

ALIGNMENT = (
    64  # of the data's start, and of every tensor whose size is a multiple of it: a cache line, a vector register
)
LONGEST_HEADER = 100_000_000  # the format's own limit

_NAMES = {
    "bool": "BOOL",
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in "iu" for bits in (8, 16, 32, 64)},
    **{f"f{bits}": f"F{bits}" for bits in (16, 32, 64)},
    "bf16": "BF16",
    "f8e4m3fn": "F8_E4M3",
    "f8e5m2": "F8_E5M2",
    "f8e4m3fnuz": "F8_E4M3FNUZ",
    "f8e5m2fnuz": "F8_E5M2FNUZ",
    "f8e8m0": "F8_E8M0",
    "f4e2m1": "F4",
}
_ELEMS = {theirs: elem_named(ours) for ours, theirs in _NAMES.items()}
_NARROW = {"i4": 4, "u4": 4, "i2": 2, "u2": 2, "f4e2m1": 4}  # bits of what is packed


class Entry(NamedTuple):
    """One tensor as the header describes it, checked."""

    elem: Float | Int | Bool
    bits: int
    shape: tuple[int, ...]
    begin: int  # in the file
    end: int


class Weights(Mapping[str, Array]):
    """The arrays of a safetensors file by name, read-only views of the mapped file; `metadata` is the file's own.

    Only packed data is copied, when it is asked for.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < 10:
                    raise self._bad("it is too short")
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise error("IG0001", f"there is no file `{self.path}`") from None
        except OSError as e:
            raise error("IG0001", f"`{self.path}` cannot be read: {e.strerror}") from None
        self.metadata: dict[str, str] = {}
        self._entries = self._header(size)

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        if entry.begin == entry.end:
            return _read_only(np.zeros(entry.shape, entry.elem.dtype))
        if entry.bits < 8:
            packed = np.frombuffer(self._data, np.uint8, entry.end - entry.begin, entry.begin)
            return _read_only(_unpack(packed, entry.elem, entry.bits, entry.shape))
        dtype = entry.elem.dtype
        return np.frombuffer(self._data, dtype, math.prod(entry.shape), entry.begin).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Weights({str(self.path)!r}, {len(self)} arrays)"

    # --- the header ---------------------------------------------------------------------------------------------------

    def _bad(self, why: str, code: str = "IG0004") -> IntaglioError:
        return error(code, f"`{self.path}` is no sound safetensors file: {why}")

    def _header(self, size: int) -> dict[str, Entry]:
        length = int.from_bytes(self._data[:8], "little")
        if length > min(size - 8, LONGEST_HEADER):
            raise self._bad(f"its header claims {length} bytes of {size}")
        try:
            header = json.loads(self._data[8 : 8 + length].decode(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as e:
            raise self._bad(f"its header cannot be read: {e}") from None
        if not isinstance(header, dict):
            raise self._bad("its header is no table")
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise self._bad("its metadata are no strings")
        notes = self._notes(metadata)
        self.metadata = metadata
        entries = {name: self._entry(name, found, notes.get(name), 8 + length) for name, found in header.items()}
        at = 8 + length
        for name, entry in sorted(entries.items(), key=lambda item: item[1][3:]):
            if entry.begin != at:
                what = "overlaps another tensor" if entry.begin < at else "leaves a gap before it"
                raise self._bad(f"the data of `{name}` {what}", "IG0006")
            at = entry.end
        if at != size:
            raise self._bad(f"its tensors end at byte {at}, the file at {size}", "IG0006")
        return entries

    def _notes(self, metadata: dict[str, str]) -> dict[str, Any]:
        """What we noted about packed tensors when we wrote the file."""
        try:
            notes = json.loads(metadata.pop("intaglio", "{}"))
        except (ValueError, RecursionError):
            notes = None
        if not isinstance(notes, dict):
            raise self._bad("the note on packed tensors cannot be read")
        return notes

    def _entry(self, name: str, found: Any, note: Any, start: int) -> Entry:
        fields: dict[str, Any] = found if isinstance(found, dict) else {}
        dtype, shape, offsets = (fields.get(k, 0) for k in ("dtype", "shape", "data_offsets"))
        if not (isinstance(dtype, str) and _sizes(shape) and _sizes(offsets) and len(offsets) == 2):
            raise self._bad(f"the entry of `{name}` is malformed")
        elem = _ELEMS.get(dtype)
        if elem is None:
            raise error("IG0007", f"`{self.path}`: tensor `{name}` has elements {dtype}, which the IR has not")
        if note is not None:
            fields = note if isinstance(note, dict) else {}
            packed, shape = str(fields.get("dtype")), fields.get("shape", 0)
            if packed not in _NARROW or not _sizes(shape) or dtype != "U8":
                raise self._bad(f"the note on `{name}` is malformed")
            elem = elem_named(packed)
        bits = _NARROW.get(str(elem), 8 * elem.dtype.itemsize)
        begin, end = offsets
        if note is None and math.prod(shape) * bits % 8:
            raise self._bad(f"`{name}` ends inside a byte", "IG0006")
        if end - begin != (math.prod(shape) * bits + 7) // 8:
            raise self._bad(f"`{name}` is {elem}{shape} in {end - begin} bytes", "IG0006")
        return Entry(elem, bits, tuple(shape), start + begin, start + end)


def _sizes(found: Any) -> bool:
    """Whether this is a list of sizes that NumPy can count with."""
    if not isinstance(found, list) or not all(type(n) is int and 0 <= n < 1 << 60 for n in found):
        return False
    return len(found) <= 64 and math.prod(n for n in found if n) < 1 << 60


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is used twice")
    return made


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


# --- packing --------------------------------------------------------------------------------------------------------


def _pack(array: Array, bits: int) -> Array:
    """Elements of 4 or 2 bits in bytes, the first one lowest."""
    codes = np.ascontiguousarray(array).view(np.uint8).reshape(-1) & np.uint8((1 << bits) - 1)
    per = 8 // bits
    codes = np.concatenate([codes, np.zeros(-len(codes) % per, np.uint8)]).reshape(-1, per)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(codes << shifts, axis=1).astype(np.uint8)


def _unpack(packed: Array, elem: Float | Int | Bool, bits: int, shape: tuple[int, ...]) -> Array:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = ((packed[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[: math.prod(shape)]
    if isinstance(elem, Int):
        numbers = codes.astype(np.int8)
        if elem.signed:
            numbers = np.where(numbers >> (bits - 1), numbers - (1 << bits), numbers).astype(np.int8)
        return numbers.astype(elem.dtype).reshape(shape)
    return codes.view(elem.dtype).reshape(shape)


# --- writing --------------------------------------------------------------------------------------------------------


def save_weights(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, all of it or nothing.

    The order in the file makes alignment come for free: sizes that are multiples of 64 first, then by element width.
    """
    header: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    stored: list[tuple[str, str, list[int], Array]] = []
    for name, array in arrays.items():
        if name == "__metadata__":
            raise error("IG0007", "no tensor can be called `__metadata__` in a safetensors file")
        elem = str(elem_of(array.dtype))
        if elem in _NARROW:
            data = _pack(array, _NARROW[elem])
            if elem in _NAMES and array.size % 2 == 0:
                stored.append((name, _NAMES[elem], list(array.shape), data))
            else:
                notes[name] = {"dtype": elem, "shape": list(array.shape)}
                stored.append((name, "U8", [len(data)], data))
        else:
            little = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.kind in "iuf" else array
            stored.append((name, _NAMES[elem], list(array.shape), np.ascontiguousarray(little)))
    stored.sort(key=lambda s: (s[3].nbytes % ALIGNMENT != 0, -s[3].itemsize, s[0]))
    extra = dict(metadata or {}) | ({"intaglio": json.dumps(notes, sort_keys=True)} if notes else {})
    if extra:
        header["__metadata__"] = extra
    at = 0
    for name, dtype, shape, data in stored:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + data.nbytes]}
        at += data.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the format allows spaces after the header
    pieces = [len(text).to_bytes(8, "little"), text]
    replace_file(path, [*pieces, *(data.reshape(-1).view(np.uint8) for *_, data in stored if data.nbytes)])


def replace_file(path: str | os.PathLike[str], pieces: list[Any]) -> None:
    """Write the bytes of `pieces` to a temporary file beside `path`, and rename it when they are on the disk."""
    target = Path(path)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                os.chmod(temporary, target.stat().st_mode & 0o777)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as e:
        raise error("IG0005", f"`{target}` cannot be written: {e.strerror or e}") from e
