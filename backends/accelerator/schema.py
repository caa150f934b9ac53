"""The tables and keys of a description, what kind of value each takes, and its default.

A kind is a dimension of `units.py` (the value is text with a unit), or one of

    text, flag, count (an integer from 1), number (from 0, no unit), words (one text or a list of them), type ("i8")
"""

from __future__ import annotations

from dataclasses import dataclass

from .bits import KINDS
from .machine import DATAFLOWS, LOOPS, OPERANDS

__all__ = ["MODELS", "SCHEMA", "UNIT_KINDS", "Key"]

UNIT_KINDS = ("lut", "lut_interp", "pwl", "poly", "exact")


@dataclass(frozen=True)
class Key:
    """One key: its kind, the value when it is left out (None: it may not be), and what values there are."""

    kind: str
    default: object = None
    choices: tuple[str, ...] = ()


SCHEMA: dict[str, dict[str, Key]] = {
    "accel": {
        "name": Key("text"),
        "clock": Key("clock", "1 GHz"),
        "tech": Key("text", ""),
        "static": Key("power", "0 mW"),
    },
    "array": {
        "dims": Key("dims"),
        "dataflow": Key("words", ["ws"], tuple(DATAFLOWS)),
        "pipeline_fill": Key("text", "0"),
        "unroll": Key("unroll", {}),
        "bits": Key("text", "fixed", KINDS),
    },
    "level": {
        "name": Key("text"),
        "size": Key("size"),
        "holds": Key("words", list(OPERANDS), OPERANDS),
        "bw": Key("bandwidth", "inf"),
        "read_bw": Key("bandwidth", "inf"),
        "write_bw": Key("bandwidth", "inf"),
        "read": Key("access", "0 pJ/B"),
        "write": Key("access", "0 pJ/B"),
        "burst": Key("size", "1 B"),
        "latency": Key("time", "0 cyc"),
        "banks": Key("count", 1),
        "double_buffer": Key("flag", False),
        "word": Key("bits", "0 b"),
        "scope": Key("text", "chip", ("chip", "pe")),
    },
    "mode": {
        "w": Key("type"),
        "a": Key("type"),
        "macs_per_pe": Key("number", 0),  # 0: what `bits` of the array gives
        "energy": Key("energy", ""),  # "": the 45 nm table of bits.py
    },
    "sparsity": {
        "format": Key("text", "dense"),
        "action": Key("text", "none", ("none", "gate", "skip")),
        "energy": Key("energy", "0 pJ"),
    },
    "unit": {
        "op": Key("text"),
        "kind": Key("text", "exact", UNIT_KINDS),
        "segments": Key("count", 1),
        "entries": Key("count", 1),
        "bits": Key("bits", "8 b"),
        "lanes": Key("count", 1),
        "latency": Key("time", "1 cyc"),
        "energy": Key("energy", "0 pJ"),
    },
}

DIMS = {"row": Key("count", 1), "col": Key("count", 1)}
UNROLL = {"row": Key("words", [], LOOPS), "col": Key("words", [], LOOPS)}

MODELS: dict[str, dict[str, Key]] = {
    "scalesim": {},
    "nvdla": {"winograd": Key("flag", False), "fc_batch": Key("count", 1), "batch": Key("count", 1)},
    "tpu": {"efficiency": Key("number", 1.0), "vector": Key("number", 0.0)},
    "eie": {"queue": Key("count", 8)},
    "bitfusion": {},
    "eyeriss": {"turn": Key("number", 0), "link": Key("number", 4), "unit": Key("number", 1)},
    "eyeriss_v2": {},
}
"""Machines whose timing is a closed form of its own (models/), and the parameters of [model]."""
