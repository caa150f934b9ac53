"""Machines and layers for tests of programs: drawn at random, of the sizes that people build."""

from __future__ import annotations

import random
from collections.abc import Callable

from intaglio.backends.accelerator.hierarchy import Dataflow, Hierarchy, Rates, Store
from intaglio.backends.accelerator.layer import Layer, conv, gemm
from intaglio.backends.accelerator.mapper import search
from intaglio.backends.accelerator.mapping import Mapping

__all__ = ["RATES", "draw_layer", "draw_machine", "finder", "systolic"]

RATES = Rates(energy=0.3)


def systolic(dram: int = 128) -> Hierarchy:
    """16 x 16 elements, a scratchpad of 256 KiB for W and I, an accumulator of 64 KiB; `dram` bits a cycle."""
    return Hierarchy(
        "systolic",
        Store("dram", frozenset("WIO"), read=12.5, write=12.5, bandwidth=dram),
        (
            (
                Store("spad", frozenset("WI"), 256 * 8192, 0.75, 0.75, 2048, True),
                Store("acc", frozenset("O"), 64 * 8192, 0.75, 0.75, 4096, True),
            ),
        ),
        rows=16,
        cols=16,
        dataflows=(
            Dataflow("ws", frozenset("W"), ("C", "G"), ("K", "G"), fill=30),
            Dataflow("os", frozenset("O"), ("P", "Q", "G"), ("K", "G"), fill=30),
        ),
    )


def draw_layer(rng: random.Random) -> Layer:
    """A convolution, a depthwise one, or a product."""
    if rng.random() < 0.2:
        return gemm("gemm", rng.randint(1, 200), rng.randint(8, 200), rng.randint(8, 200))
    if rng.random() < 0.2:
        c, side = rng.randint(4, 64), rng.randint(5, 32)
        return conv("dw", c, c, (side, side), (3, 3), groups=c, strides=(rng.choice([1, 2]),) * 2, pads=(1, 1, 1, 1))
    groups, side, window = rng.choice([1, 1, 1, 1, 2]), rng.randint(7, 40), rng.choice([1, 3, 3, 5])
    return conv(
        "conv",
        groups * rng.randint(4, 64),
        groups * rng.randint(3, 64),
        (side, side),
        (window, window),
        groups=groups,
        strides=(rng.choice([1, 1, 2]),) * 2,
        pads=(window // 2,) * 4,
    )


def draw_machine(rng: random.Random) -> Hierarchy:
    """One or two memories on the chip, one of three dataflows, 8 to 32 rows and columns."""

    def store(name: str, holds: str, *kib: int) -> Store:
        speed = rng.choice([512, 2048, 1e9])
        return Store(name, frozenset(holds), rng.choice(kib) * 8192, 1, 1, speed, True)

    split = rng.random() < 0.5
    tier = (
        (store("spad", "WI", 16, 64, 256), store("acc", "O", 8, 32, 64)) if split else (store("buf", "WIO", 32, 128),)
    )
    flow = rng.choice(
        [
            Dataflow("ws", frozenset("W"), ("C",), ("K",), fill=30),
            Dataflow("os", frozenset("O"), ("P", "Q"), ("K",), fill=8),
            Dataflow("wide", frozenset("W"), ("C", "R", "S", "G"), ("K", "G"), fill=16),
        ]
    )
    side = rng.choice([8, 16, 32])
    dram = Store(
        "dram", frozenset("WIO"), read=rng.choice([10, 100]), write=100, bandwidth=rng.choice([32, 64, 128, 512])
    )
    return Hierarchy("drawn", dram, (tier,), rows=side, cols=side, dataflows=(flow,))


def finder(machine: Hierarchy) -> Callable[[Layer], Mapping]:
    """The best mapping of each layer, searched once."""
    known: dict[object, Mapping] = {}

    def find(layer: Layer) -> Mapping:
        key = layer.key()
        if key not in known:
            known[key] = search(layer, machine, RATES).mapping
        return known[key]

    return find
