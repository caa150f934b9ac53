"""A convolution or product as a program: the outermost nest of its mapping, tile by tile.

    load     the tiles of W and I that are new in this step, and partial sums that come back
    compute  one convolution over what is in local memory
    store    finished sums, requantised on their way out (with a residual added, if there is one), or partial ones

Every step is ready when its loads are, and its buffers are free `copies` steps later: that is double buffering.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..isa.compression import number_of
from ..isa.instructions import LINE, Queue
from ..layer import RELEVANT
from .operands import ENTRY, Activation, Buffers, Contraction, Kept, Packed, Residual, sizes
from .rings import longest, moving_loop, pieces, ring_of
from .stores import Stores
from .stream import Writer
from .tiles import Span, Step, coordinates, steps
from .weights import Places

__all__ = ["ENTRY", "Activation", "Buffers", "Contraction", "Kept", "Packed", "Residual", "emit", "sizes"]

LOAD, COMPUTE, STORE = Queue.LOAD, Queue.COMPUTE, Queue.STORE
W, I, O, P = range(4)  # noqa: E741  # streams: weights, input, output, partial sums


def emit(c: Contraction, buffers: Mapping[str, Buffers], places: Places, to: Writer) -> None:
    """Write the program of a layer; `places` are those of `packed_weights`."""
    _Emission(c, buffers, places, to).run()


class _Emission:
    def __init__(self, c: Contraction, buffers: Any, places: Any, to: Writer) -> None:
        self.c, self.layer, self.buffers, self.places, self.to = c, c.layer, buffers, places, to
        self.rows, self.columns = (longest(c.layer, axis, c.tiles) for axis in (0, 1))
        self.pixel = c.tiles["G"] * c.tiles["C"]  # bytes of a pixel in local memory
        self.moving = moving_loop(c.layer, c.tiles, c.order)
        self.ring = ring_of(c.layer, c.tiles, c.order, buffers["I"].copies if "I" in buffers else 1)
        self.stores = Stores(c, buffers["O"].size, to)
        self.turns = {x: -1 for x in "WO"}  # which tile it is; its buffer is that modulo copies
        self.ends: list[int] = []  # message of the end of each step, to the load queue
        self.stored: list[int] = []  # of each visit of O, to the compute queue
        self.freed: list[int] = []  # the same, to the load queue
        self.spilled: dict[tuple[Span, ...], int] = {}  # of each tile of partial sums, to the load queue

    def run(self) -> None:
        self._registers()
        far = [x for x, near in (("W", self.c.near_weights), ("I", self.c.near_input)) if near is None]
        ahead = min((self.buffers[x].copies for x in far), default=2)
        before: Step | None = None
        if self.c.loads_weights:
            self._keep_weights()
        for number, step in enumerate(steps(self.layer, self.c.tiles, self.c.order)):
            if any(x in step.fresh for x in far) or ("O" in step.fresh and not step.first):
                if number >= ahead:
                    self.to.wait(LOAD, COMPUTE, self.ends[number - ahead])
                self.to.wait(COMPUTE, LOAD, self._loads(step, before))
            self._compute(step)
            self.ends.append(self.to.send(COMPUTE, LOAD))
            if step.leaves:
                self.to.wait(STORE, COMPUTE, self.to.send(COMPUTE, STORE))
                self.stores.store(step, self._buffer("O"))
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
            **self._ring(),
            input_bits=c.input_bits,
            input_signed=int(c.input.signed),
            input_zero=c.input.zero,
            weight_bits=c.weight_bits,
            weight_signed=int(c.weights.signed),
            weight_zero=c.weights.zero,
        )
        self.to.set(
            STORE,
            base2=c.output.base if c.near_output is None else c.near_output.base,
            near2=int(c.near_output is not None),
            bits=c.output_bits,
            signed=int(c.output.signed),
            zero=c.output.zero,
            low=c.low,
            high=c.high,
        )
        if (r := c.residual) is not None:
            self.to.set(
                STORE,
                residual_near=int(c.near_residual is not None),
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

    def _ring(self) -> dict[str, int]:
        """How the input lies in local memory: a tile, or a tensor that stays."""
        if (kept := self.c.near_input) is not None:
            return {"ring_h": kept.rows, "ring_w": kept.row // kept.pixel, "pitch": kept.pixel, "spaced": 1}
        return {
            "ring_h": self.ring.size if self.ring.axis == 0 else self.rows,
            "ring_w": self.ring.size if self.ring.axis == 1 else self.columns,
            "pitch": self.pixel,
            "spaced": 0,
        }

    # --- loads --------------------------------------------------------------------------------------------------------

    def _loads(self, step: Step, before: Step | None) -> int:
        """The step's loads; the number of the message that they are done."""
        if "W" in step.fresh and self.c.near_weights is None:
            self.turns["W"] += 1
            self._load_weights(step)
        if "I" in step.fresh and self.c.near_input is None:
            self._load_input(step, before)
        if "O" in step.fresh and not step.first:
            if (room := self.turns["O"] + 1 - self.buffers["O"].copies) >= 0:
                self.to.wait(LOAD, STORE, self.freed[room])
            self._load_sums(step)
        return self.to.send(LOAD, COMPUTE)

    def _buffer(self, operand: str, later: int = 0) -> int:
        b: Buffers = self.buffers[operand]
        return b.base + (self.turns[operand] + later) % b.copies * b.size

    def _keep_weights(self) -> None:
        """All tiles of the weights to where they stay."""
        assert isinstance(self.c.weights, Packed) and self.c.near_weights is not None
        self.to.set(LOAD, format0=number_of(self.c.weights.form))
        for tile, local in self.c.near_weights.items():
            offset, stored, count = self.places[tile]
            dram = self.c.weights.base + offset
            self.to.emit("loadc", LOAD, stream=W, dram=dram, local=local, count=count, packed=stored)
        self.to.wait(COMPUTE, LOAD, self.to.send(LOAD, COMPUTE))

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
            for i0, row, step_h, many in pieces(fresh[0], ring.size - place if ring.axis == 0 else None):
                for j0, column, step_w, wide in pieces(fresh[1], ring.size - place if ring.axis == 1 else None):
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
        offset, length = self.stores.spill(step)
        self.to.emit("loadc", LOAD, stream=P, dram=offset, local=self._buffer("O", 1), count=length, packed=length)

    # --- compute ------------------------------------------------------------------------------------------------------

    def _compute(self, step: Step) -> None:
        at = step.at
        if "O" in step.fresh:
            self.turns["O"] += 1
            if (visit := self.turns["O"]) >= self.buffers["O"].copies:
                self.to.wait(COMPUTE, STORE, self.stored[visit - self.buffers["O"].copies])
        layer = self.layer
        place, first = self._input(step)
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
            skip=place % LINE,
            fresh=sum(1 << i for i, x in enumerate("WIO") if x in step.fresh),
        )
        more = int(not (step.first))
        where = {
            "input": place // LINE,
            "weights": self._weights(step) // LINE,
            "sums": self._buffer("O") // LINE,
        }
        if layer.extent["K"] == layer.extent["C"] == 1 and layer.extent["G"] > 1 and layer.kind != "gemm":
            self.to.emit("dwconv", COMPUTE, **where, c=at["G"][1], p=at["P"][1], q=at["Q"][1], more=more)
            return
        if layer.kind == "gemm":
            self.to.emit("gemm", COMPUTE, **where, m=at["P"][1], n=at["K"][1], k=at["C"][1], more=more)
            return
        self.to.emit("conv", COMPUTE, **where, k=at["K"][1], c=at["C"][1], p=at["P"][1], q=at["Q"][1], more=more)

    def _input(self, step: Step) -> tuple[int, list[int]]:
        """Where the input begins in local memory, and the places of its tile's first row and column in the ring."""
        first = [0, 0]
        if (kept := self.c.near_input) is None:
            first[self.ring.axis] = self.ring.first
            return self.buffers["I"].base, first
        at = step.at
        for axis, (p, r) in enumerate((("P", "R"), ("Q", "S"))):
            seen = coordinates(self.layer, axis, at[p], at[r])
            first[axis] = (seen[0] if seen else 0) % (kept.rows if axis == 0 else kept.row // kept.pixel)
        channel = at["G"][0] * self.layer.extent["C"] + at["C"][0]
        return kept.base + channel, first

    def _weights(self, step: Step) -> int:
        if self.c.near_weights is None:
            return self._buffer("W")
        return self.c.near_weights[tuple(step.at[d] for d in ("G", "K", "C", "R", "S"))]
