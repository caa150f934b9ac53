"""Quantities of a description, "16 GB/s" or "100 pJ/B", into the base units: bytes, cycles, bytes/cycle, pJ, bits.

    size        B, KB, KiB, MB, MiB, GB, GiB; b (bits), Kib; "inf"
    bandwidth   GB/s, Gb/s; B/cyc, b/cyc; "inf"
    access      pJ/B, pJ/b, pJ/64b (a word of 64 bits); fJ, nJ
    time        cyc; ns, us, ms, s
    clock       Hz, kHz, MHz, GHz          power     W, mW, uW (pJ per cycle at the clock)
    energy      pJ, fJ, nJ                 bits      b

Kilo is 1000 and kibi 1024; B is byte, b is bit.
"""

from __future__ import annotations

import difflib
import math
import re

__all__ = ["DIMENSIONS", "UnitError", "quantity"]

DIMENSIONS = {
    "size": "a size, such as 256 KiB",
    "bandwidth": "a bandwidth, such as 16 GB/s or 64 B/cyc",
    "access": "an energy per access, such as 6 pJ/B or 10 pJ/64b",
    "time": "a time, such as 60 cyc or 40 ns",
    "clock": "a frequency, such as 800 MHz",
    "power": "a power, such as 20 mW",
    "energy": "an energy, such as 0.344 pJ",
    "bits": "a width, such as 32 b",
}

DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
SMALL = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "": 1.0}
BYTES = {
    **{p + "B": f for p, f in (DECIMAL | BINARY).items()},
    **{p + "b": f / 8 for p, f in (DECIMAL | BINARY).items()},
    **{p + "bit": f / 8 for p, f in (DECIMAL | BINARY).items()},
}
JOULE = {p + "J": f * 1e12 for p, f in SMALL.items()}
CYCLE = ("cyc", "cycle", "cycles")

NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf)\s*(.*?)\s*")


class UnitError(ValueError):
    """A quantity that cannot be read; `hint` says how it is written."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def table(dimension: str, clock: float) -> dict[str, float]:
    """Every unit of a dimension and what one of it is in base units; `clock` in Hz."""
    match dimension:
        case "size":
            return BYTES
        case "bandwidth":
            return {f"{b}/s": f / clock for b, f in BYTES.items()} | {
                f"{b}/{c}": f for b, f in BYTES.items() for c in CYCLE
            }
        case "access":
            return {f"{j}/{b}": f / BYTES[b] for j, f in JOULE.items() for b in ("B", "b", "bit")}
        case "time":
            return dict.fromkeys(CYCLE, 1.0) | {p + "s": f * clock for p, f in SMALL.items()}
        case "clock":
            return {p + "Hz": f for p, f in DECIMAL.items()}
        case "power":
            return {p + "W": f * 1e12 / clock for p, f in SMALL.items()}
        case "energy":
            return JOULE
    return {"b": 1.0, "bit": 1.0, "bits": 1.0, "B": 8.0}


def quantity(text: object, dimension: str, clock: float = 1e9) -> float:
    """A quantity in base units: bytes, bytes/cycle, pJ/byte, cycles, Hz, pJ/cycle, pJ or bits."""
    wanted = DIMENSIONS[dimension]
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise UnitError(f"`{text}` is not {wanted.split(',')[0]}", f"write {wanted}")
    found = NUMBER.fullmatch(str(text))
    if not found:
        raise UnitError(f"`{text}` does not begin with a number", f"write {wanted}")
    value, unit = float(found[1].replace("_", "")), found[2]
    if value < 0 or math.isnan(value):
        raise UnitError(f"`{text}` is negative", f"write {wanted}")
    if value == math.inf:
        if dimension in ("size", "bandwidth"):
            return math.inf
        raise UnitError(f"{wanted.split(',')[0]} is never infinite", f"write {wanted}")
    if not unit:
        if value == 0:
            return 0.0
        raise UnitError(f"`{text}` has no unit", f"write {wanted}")
    word = re.fullmatch(r"(.?J)/(\d+) ?(b|bit|bits|B)", unit)
    if dimension == "access" and word and word[1] in JOULE and int(word[2]):
        return value * JOULE[word[1]] / (int(word[2]) * (1.0 if word[3] == "B" else 0.125))
    units = table(dimension, clock)
    if unit in units:
        return value * units[unit]
    for other, example in DIMENSIONS.items():
        if other != dimension and unit in table(other, clock):
            raise UnitError(f"`{text}` is {example.split(',')[0]}, not {wanted.split(',')[0]}", f"write {wanted}")
    near = [u for u in units if u.lower() == unit.lower()] or difflib.get_close_matches(unit, units, n=3)
    raise UnitError(f"there is no unit `{unit}`", f"{' or '.join(near)}?" if near else f"write {wanted}")
