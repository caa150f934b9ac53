"""A convolution or product as a program: the outermost nest of its mapping, tile by tile.

    load     the tiles of W and I that are new in this step, and partial sums that come back
    compute  one convolution over what is in local memory
    store    finished sums, requantised on their way out (with a residual added, if there is one), or partial ones

Every step is ready when its loads are, and its buffers are free `copies` steps later: that is double buffering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..counting import Order
from ..formats import DENSE, Format
from ..isa.compression import number_of
from ..isa.instructions import LINE, Queue
from ..layer import DIMS, RELEVANT, Layer
from .rings import Ring
from .stream import Writer
from .tiles import Span, Step, coordinates, runs, steps, volume
from .weights import Places

__all__ = ["ENTRY", "Activation", "Buffers", "Contraction", "Packed", "Residual", "emit", "sizes"]

LOAD, COMPUTE, STORE = Queue.LOAD, Queue.COMPUTE, Queue.STORE
W, I, O, P = range(4)  # noqa: E741  # streams: weights, input, output, partial sums
ENTRY = 16
"""Bytes of a channel's entry in the table of requantisation: bias, multiplier, shift, nothing."""


@dataclass(frozen=True)
class Activation:
    """A tensor in DRAM: bytes from element to element along (batch, group, channel, row, column), from `base` on."""

    base: int
    strides: tuple[int, int, int, int, int]
    signed: bool = False
    zero: int = 0


@dataclass(frozen=True)
class Packed:
    """Constant weights in DRAM, tile after tile as `packed_weights` lays them out."""

    base: int
    signed: bool = True
    zero: int = 0
    form: Format = DENSE


@dataclass(frozen=True)
class Residual:
    """What is added to the requantised sums: `quant.add` with its attributes, the sums being its `a`.

    It lies in DRAM from `base` on as the output does, and is read on the way out.
    """

    base: int
    signed: bool
    a_multiplier: int
    b_multiplier: int
    shift: int
    a_zero: int
    b_zero: int
    zero: int
    low: int
    high: int


@dataclass(frozen=True)
class Contraction:
    """A layer with its mapping and its tensors. `table`: local line of its first entry; `partial`: DRAM for sums."""

    layer: Layer
    tiles: Mapping[str, int]
    order: Order
    input: Activation
    weights: Packed | Activation
    output: Activation
    table: int
    low: int
    high: int
    partial: int = 0
    residual: Residual | None = None
    input_bits: int = 8
    weight_bits: int = 8
    output_bits: int = 8


@dataclass(frozen=True)
class Buffers:
    """Where the tiles of an operand lie in local memory: bytes from the start, how many of them, and their size."""

    base: int
    copies: int
    size: int


def sizes(c: Contraction) -> dict[str, int]:
    """Bytes of the largest tile of each operand in local memory."""
    e = c.tiles
    weights = -(-e["G"] * e["K"] * e["C"] * e["R"] * e["S"] * c.weight_bits // 8)
    spread = e["N"] * e["G"]
    return {
        "W": weights,
        "I": spread * e["C"] * _most(c.layer, 0, c.tiles) * _most(c.layer, 1, c.tiles),
        "O": 4 * spread * e["K"] * e["P"] * e["Q"],
    }


def _most(layer: Layer, axis: int, tiles: Mapping[str, int]) -> int:
    from ..tiling import distinct

    _, _, stride, dilation, _, image = layer.axis(axis)
    p, r = (tiles["P"], tiles["R"]) if axis == 0 else (tiles["Q"], tiles["S"])
    return max(1, min(image, int(distinct(np.asarray(p), np.asarray(r), stride, dilation))))


def emit(c: Contraction, buffers: Mapping[str, Buffers], places: Places, to: Writer) -> None:
    """Write the program of a layer; `places` are those of `packed_weights`."""
    _Emission(c, buffers, places, to).run()


class _Emission:
    def __init__(self, c: Contraction, buffers: Any, places: Any, to: Writer) -> None:
        self.c, self.layer, self.buffers, self.places, self.to = c, c.layer, buffers, places, to
        self.rows, self.columns = (_most(c.layer, axis, c.tiles) for axis in (0, 1))
        self.pixel = c.tiles["G"] * c.tiles["C"]  # bytes of a pixel in local memory
        # the halo is kept along the innermost loop that moves the input
        busy = [d for d in c.order.loops if c.tiles[d] < c.layer.extent[d] and d in RELEVANT["I"]]
        moving = busy[-1] if busy else ""
        axis, copies = int(moving == "Q"), buffers["I"].copies
        self.moving = moving
        # with holes between its rows a tile does not hold what later ones share
        keeps = moving in ("P", "Q") and c.layer.dilations[axis] == 1
        self.ring = Ring(axis, copies * (self.columns if axis else self.rows), keeps)
        self.turns = {x: -1 for x in "WO"}  # which tile it is; its buffer is that modulo copies
        self.ends: list[int] = []  # message of the end of each step, to the load queue
        self.stored: list[int] = []  # of each visit of O, to the compute queue
        self.freed: list[int] = []  # the same, to the load queue
        self.spilled: dict[tuple[Span, ...], int] = {}  # of each tile of partial sums, to the load queue

    def run(self) -> None:
        self._registers()
        ahead = min(self.buffers["W"].copies, self.buffers["I"].copies)
        before: Step | None = None
        for number, step in enumerate(steps(self.layer, self.c.tiles, self.c.order)):
            if number >= ahead:
                self.to.wait(LOAD, COMPUTE, self.ends[number - ahead])
            loaded = self._loads(step, before)
            self.to.wait(COMPUTE, LOAD, loaded)
            self._compute(step)
            self.ends.append(self.to.send(COMPUTE, LOAD))
            if step.leaves:
                self.to.wait(STORE, COMPUTE, self.to.send(COMPUTE, STORE))
                self._store(step)
                self.stored.append(self.to.send(STORE, COMPUTE))
                self.freed.append(self.to.send(STORE, LOAD))
                self.spilled[step.tile("O")] = self.freed[-1]
            before = step

    # --- registers ----------------------------------------------------------------------------------------------------

    def _registers(self) -> None:
        c, e = self.c, self.layer
        self.to.set(
            COMPUTE,
            stride_h=e.strides[0],
            stride_w=e.strides[1],
            dilation_h=e.dilations[0],
            dilation_w=e.dilations[1],
            image_h=e.image[0],
            image_w=e.image[1],
            ring_h=self.ring.size if self.ring.axis == 0 else self.rows,
            ring_w=self.ring.size if self.ring.axis == 1 else self.columns,
            pitch=self.pixel,
            input_bits=c.input_bits,
            input_signed=int(c.input.signed),
            input_zero=c.input.zero,
            weight_bits=c.weight_bits,
            weight_signed=int(c.weights.signed),
            weight_zero=c.weights.zero,
        )
        self.to.set(
            STORE,
            base2=c.output.base,
            bits=c.output_bits,
            signed=int(c.output.signed),
            zero=c.output.zero,
            low=c.low,
            high=c.high,
        )
        if (r := c.residual) is not None:
            self.to.set(
                STORE,
                residual=r.base,
                residual_signed=int(r.signed),
                a_multiplier=r.a_multiplier,
                b_multiplier=r.b_multiplier,
                shift=r.shift,
                a_zero=r.a_zero,
                b_zero=r.b_zero,
                add_zero=r.zero,
                add_low=r.low,
                add_high=r.high,
            )

    # --- loads --------------------------------------------------------------------------------------------------------

    def _loads(self, step: Step, before: Step | None) -> int:
        """The step's loads; the number of the message that they are done."""
        if "W" in step.fresh:
            self.turns["W"] += 1
            self._load_weights(step)
        if "I" in step.fresh:
            self._load_input(step, before)
        if "O" in step.fresh:
            self.turns["O"] += 1
            if not step.first:
                if (room := self.turns["O"] - self.buffers["O"].copies) >= 0:
                    self.to.wait(LOAD, STORE, self.freed[room])
                self._load_sums(step)
        return self.to.send(LOAD, COMPUTE)

    def _buffer(self, operand: str) -> int:
        b: Buffers = self.buffers[operand]
        return b.base + self.turns[operand] % b.copies * b.size

    def _load_weights(self, step: Step) -> None:
        local = self._buffer("W")
        spans = {d: step.at[d] for d in ("G", "K", "C", "R", "S")}
        if isinstance(self.c.weights, Packed):
            offset, stored, count = self.places[tuple(spans.values())]
            dram = self.c.weights.base + offset
            self.to.set(LOAD, format0=number_of(self.c.weights.form))
            self.to.emit("loadc", LOAD, stream=W, dram=dram, local=local, count=count, packed=stored)
            return
        # the second operand of a product: [g, k, c] from wherever it lies
        t = self.c.weights
        (g0, gn), (k0, kn), (c0, cn) = spans["G"], spans["K"], spans["C"]
        _, by_group, by_channel, by_row, _ = t.strides
        self.to.set(LOAD, local_row0=cn, local_pixel0=1)
        for g in range(gn):
            start = t.base + (g0 + g) * by_group + k0 * by_row + c0 * by_channel
            at = local + g * kn * cn
            if by_channel == 1:
                self.to.set(LOAD, row0=by_row, pixel0=0)
                self.to.emit("load", LOAD, stream=W, dram=start, local=at, rows=kn, columns=1, bytes=cn)
            else:
                self.to.set(LOAD, row0=by_row, pixel0=by_channel)
                self.to.emit("load", LOAD, stream=W, dram=start, local=at, rows=kn, columns=cn, bytes=1)

    def _load_input(self, step: Step, before: Step | None) -> None:
        at, ring = step.at, self.ring
        wanted = [coordinates(self.layer, 0, at["P"], at["R"]), coordinates(self.layer, 1, at["Q"], at["S"])]
        same = before is not None and all(before.at[d] == at[d] for d in RELEVANT["I"] if d != self.moving)
        place, shared = ring.turn(wanted[ring.axis], same)
        fresh = list(wanted)
        fresh[ring.axis] = wanted[ring.axis][shared:]
        ring_w = ring.size if ring.axis else self.columns
        image = (ring.size if ring.axis == 0 else self.rows) * ring_w * self.pixel
        (c0, cn), (g0, gn), (n0, nn) = at["C"], at["G"], at["N"]
        by_image, by_group, by_channel, by_row, by_column = self.c.input.strides
        assert by_channel == 1, "channels of an activation lie side by side"
        whole = by_group == self.layer.extent["C"] == cn
        parts = [(g0, c0, gn * cn, 0)] if whole else [(g0 + g, c0, cn, g * cn) for g in range(gn)]
        base = self.buffers["I"].base
        self.to.set(LOAD, local_row1=ring_w * self.pixel, local_pixel1=self.pixel)
        for n in range(nn):
            for i0, row, step_h, many in _pieces(fresh[0], ring.size - place if ring.axis == 0 else None):
                for j0, column, step_w, wide in _pieces(fresh[1], ring.size - place if ring.axis == 1 else None):
                    self.to.set(LOAD, row1=step_h * by_row, pixel1=step_w * by_column)
                    slot_h = (place + i0) % ring.size if ring.axis == 0 else i0
                    slot_w = (place + j0) % ring.size if ring.axis == 1 else j0
                    for g, channel, length, offset in parts:
                        self.to.emit(
                            "load",
                            LOAD,
                            stream=I,
                            dram=self.c.input.base
                            + (n0 + n) * by_image
                            + g * by_group
                            + channel
                            + row * by_row
                            + column * by_column,
                            local=base + n * image + (slot_h * ring_w + slot_w) * self.pixel + offset,
                            rows=many,
                            columns=wide,
                            bytes=length,
                        )

    def _load_sums(self, step: Step) -> None:
        self.to.wait(LOAD, STORE, self.spilled[step.tile("O")])
        offset, length = self._spill(step)
        self.to.emit("loadc", LOAD, stream=P, dram=offset, local=self._buffer("O"), count=length, packed=length)

    def _spill(self, step: Step) -> tuple[int, int]:
        """Where a tile of partial sums lies in DRAM: one full tile's room for each, and its bytes."""
        tile = dict(zip([d for d in DIMS if d in RELEVANT["O"]], step.tile("O"), strict=True))
        number = 0
        for d, (first, _) in tile.items():
            number = number * -(-self.layer.extent[d] // self.c.tiles[d]) + first // self.c.tiles[d]
        return self.c.partial + number * self.buffers["O"].size, 4 * volume(list(tile.values()))

    # --- compute ------------------------------------------------------------------------------------------------------

    def _compute(self, step: Step) -> None:
        at = step.at
        if "O" in step.fresh and (visit := self.turns["O"]) >= self.buffers["O"].copies:
            self.to.wait(COMPUTE, STORE, self.stored[visit - self.buffers["O"].copies])
        layer, ring = self.layer, self.ring
        first = [0, 0]
        first[ring.axis] = ring.first
        self.to.set(
            COMPUTE,
            images=at["N"][1],
            groups=at["G"][1],
            kernel_h=at["R"][1],
            kernel_w=at["S"][1],
            origin_h=at["P"][0] * layer.strides[0] + at["R"][0] * layer.dilations[0] - layer.pads[0],
            origin_w=at["Q"][0] * layer.strides[1] + at["S"][0] * layer.dilations[1] - layer.pads[1],
            first_h=first[0],
            first_w=first[1],
            fresh=sum(1 << i for i, x in enumerate("WIO") if x in step.fresh),
        )
        more = int(not (step.first))
        where = {
            "input": self.buffers["I"].base // LINE,
            "weights": self._buffer("W") // LINE,
            "sums": self._buffer("O") // LINE,
        }
        if layer.extent["K"] == layer.extent["C"] == 1 and layer.extent["G"] > 1 and layer.kind != "gemm":
            self.to.emit("dwconv", COMPUTE, **where, c=at["G"][1], p=at["P"][1], q=at["Q"][1], more=more)
            return
        if layer.kind == "gemm":
            self.to.emit("gemm", COMPUTE, **where, m=at["P"][1], n=at["K"][1], k=at["C"][1], more=more)
            return
        self.to.emit("conv", COMPUTE, **where, k=at["K"][1], c=at["C"][1], p=at["P"][1], q=at["Q"][1], more=more)

    # --- stores -------------------------------------------------------------------------------------------------------

    def _store(self, step: Step) -> None:
        if step.last:
            self._store_output(step)
            return
        offset, length = self._spill(step)
        self.to.set(STORE, row3=0, pixel3=0, local_row3=0, local_pixel3=0)
        for at in range(0, length, 0xFFFC):
            part = min(0xFFFC, length - at)
            self.to.emit(
                "store", STORE, stream=P, dram=offset + at, local=self._buffer("O") + at, rows=1, columns=1, bytes=part
            )

    def _store_output(self, step: Step) -> None:
        """A tile [n, p, q, g, k] of sums, dense, to its place in the output."""
        (n0, nn), (g0, gn), (k0, kn) = step.at["N"], step.at["G"], step.at["K"]
        (p0, pn), (q0, qn) = step.at["P"], step.at["Q"]
        by_image, by_group, by_channel, by_row, by_column = self.c.output.strides
        assert by_channel == 1, "channels of an activation lie side by side"
        pixel = 4 * gn * kn
        self.to.set(STORE, row2=by_row, pixel2=by_column, local_row2=qn * pixel, local_pixel2=pixel)
        whole = by_group == self.layer.extent["K"] == kn
        parts = [(g0, gn * kn, 0)] if whole else [(g0 + g, kn, g * kn) for g in range(gn)]
        for n in range(nn):
            for g, count, offset in parts:
                self.to.set(STORE, table=self.c.table + (g * self.layer.extent["K"] + k0) * ENTRY // LINE)
                self.to.emit(
                    "req",
                    STORE,
                    stream=O,
                    dram=(n0 + n) * by_image + g * by_group + k0 + p0 * by_row + q0 * by_column,
                    local=self._buffer("O") + (n * pn * qn * gn * kn + offset) * 4,
                    rows=pn,
                    columns=qn,
                    count=count,
                    residual=int(self.c.residual is not None),
                )


def _pieces(places: tuple[int, ...], room: int | None) -> list[tuple[int, int, int, int]]:
    """Runs, cut where a ring with `room` places left before its end starts again."""
    if room is None:
        return runs(places)
    return runs(places[:room]) + [(room + i, c, s, n) for i, c, s, n in runs(places[room:])]
