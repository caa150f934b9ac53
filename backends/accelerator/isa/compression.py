"""Streams that `loadc` decompresses: codes of 8 bits with zeros left out. The sizes are those of `formats.size_of`.

    dense     the codes
    bitmask   a bit for each code (the first in the lowest bit), then the codes that are not zero
    rlc:k     entries of (zeros before, code), k bits and 8, packed one after the other; an entry's code may be zero
    nm:N:M    N codes of every M, then their places among the M, packed; what is missing at the end counts as zeros

A format is one number, as register `format` of a stream holds it: kind + 8 a + 256 m.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.diagnostics import error
from ..formats import Format

__all__ = ["compress", "decompress", "format_of", "number_of"]

KINDS = ("dense", "bitmask", "rlc", "nm")


def number_of(form: Format) -> int:
    """The number of a format; those that no stream has raise IG0580."""
    if form.kind not in KINDS:
        raise error("IG0580", f"there are no streams of format {form}", hint=f"one of {', '.join(KINDS)}")
    return KINDS.index(form.kind) + 8 * form.a + 256 * form.m


def format_of(number: int) -> Format:
    """The format of a number; IG0583 for one that is none."""
    kind, a, m = number & 7, number >> 3 & 31, number >> 8
    if number < 0 or kind >= len(KINDS):
        raise error("IG0583", f"there is no format {number}")
    found = Format(KINDS[kind], a, m)
    fine = {"dense": a == m == 0, "bitmask": a == m == 0, "rlc": 0 < a <= 16 and m == 0, "nm": 0 < a <= m <= 16}
    if not fine[found.kind]:
        raise error("IG0583", f"there is no format {number}")
    return found


def compress(codes: bytes, form: Format) -> bytes:
    """Codes as a stream; N:M of codes with more than N that are not zero raises ValueError."""
    values = np.frombuffer(codes, np.uint8)
    if form.kind == "dense":
        return codes
    if form.kind == "bitmask":
        return np.packbits(values != 0, bitorder="little").tobytes() + values[values != 0].tobytes()
    if form.kind == "rlc":
        return _pack_runs(values, form.a)
    padded = np.concatenate([values, np.zeros(-len(values) % form.m, np.uint8)]).reshape(-1, form.m)
    if (padded != 0).sum(1).max(initial=0) > form.a:
        raise ValueError(f"more than {form.a} of {form.m} codes are not zero")
    places = np.sort(np.argsort(padded == 0, axis=1, kind="stable")[:, : form.a], axis=1)
    kept = np.take_along_axis(padded, places, axis=1)
    return kept.tobytes() + _bits(places.reshape(-1), (form.m - 1).bit_length())


def _pack_runs(values: Any, k: int) -> bytes:
    entries = []
    run, most = 0, (1 << k) - 1
    for v in values.tolist():
        if v == 0 and run < most:
            run += 1
            continue
        entries.append(v << k | run)
        run = 0
    if run:
        entries.append(run - 1)  # the last zero as a code
    return _bits(np.array(entries, np.int64), k + 8)


def _bits(numbers: Any, width: int) -> bytes:
    """Numbers of `width` bits one after the other, the first in the lowest bits."""
    if width == 0 or not len(numbers):
        return b""
    raised = (np.asarray(numbers, np.int64)[:, None] >> np.arange(width)) & 1
    return np.packbits(raised.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def _numbers(data: Any, width: int, count: int) -> Any:
    if len(data) * 8 < width * count:
        raise error("IG0583", f"a stream of {len(data)} bytes ends early")
    raised = np.unpackbits(data, bitorder="little")[: width * count].reshape(count, width)
    return raised.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))


def decompress(data: Any, form: Format, count: int) -> Any:
    """`count` codes of a stream (uint8 both); IG0583 for a stream that does not hold as many."""
    if form.kind == "dense":
        if len(data) != count:
            raise error("IG0583", f"{len(data)} bytes as they are make {len(data)} codes, not {count}")
        return data
    if form.kind == "bitmask":
        head = -(-count // 8)
        mask = np.unpackbits(data[:head], bitorder="little")[:count].astype(bool)
        if len(data) != head + int(mask.sum()) or len(mask) != count:
            raise error("IG0583", f"a stream of {len(data)} bytes does not hold {count} codes")
        found = np.zeros(count, np.uint8)
        found[mask] = data[head:]
        return found
    if form.kind == "rlc":
        width = form.a + 8
        entries = _numbers(data, width, len(data) * 8 // width)
        at = np.cumsum((entries & (1 << form.a) - 1) + 1) - 1
        inside = at < count  # what is left of the last byte is no entry
        found = np.zeros(count, np.uint8)
        found[at[inside]] = entries[inside] >> form.a
        return found
    groups, width = -(-count // form.m), (form.m - 1).bit_length()
    kept = data[: groups * form.a].reshape(-1, form.a) if len(data) >= groups * form.a else None
    if kept is None:
        raise error("IG0583", f"a stream of {len(data)} bytes does not hold {count} codes")
    places = _numbers(data[groups * form.a :], width, groups * form.a).reshape(groups, form.a)
    if places.max(initial=0) >= form.m:
        raise error("IG0583", "a stream puts a code outside of its group")
    found = np.zeros((groups, form.m), np.uint8)
    np.put_along_axis(found, places, kept, axis=1)
    return found.reshape(-1)[:count]
