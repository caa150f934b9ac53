"""Layers without products: sums of tensors, tables, pools; piece by piece through local memory, double buffered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ....ir.diagnostics import error
from ..isa.instructions import LINE, Queue
from ..tiling import Axis
from .contraction import ENTRY, Activation
from .stream import Writer
from .tiles import coordinates_of, runs

__all__ = [
    "CODES",
    "KINDS",
    "Flight",
    "POOLS",
    "ROWS",
    "Pool",
    "Requantization",
    "Room",
    "Sum",
    "Table",
    "emit_pool",
    "emit_sum",
    "emit_table",
]

LOAD, COMPUTE, STORE = Queue.LOAD, Queue.COMPUTE, Queue.STORE
A, B, OUT = 1, 3, 2  # streams
KINDS = {
    op: i
    for i, op in enumerate(
        (
            *("quant.add", "math.add", "math.sub", "math.mul", "math.div", "math.maximum", "math.minimum"),
            *("math.shift_right", "math.cast", "quant.isqrt", "quant.requantize"),
        )
    )
}
POOLS = {"max": 0, "sum": 1}
ROWS = {op: i for i, op in enumerate(("math.reduce_sum", "math.reduce_max", "math.reduce_min"))}
"""The numbers of what `vec`, `red` and `row` do, by the op that they compute."""
CODES = dict.fromkeys(
    ("a_type", "b_type", "output_type", "a_repeat", "a_period", "b_repeat", "b_period", "entries", "first"), 0
)
"""Registers of vector work on codes of 8 bits, element by element."""
LONGEST = 1 << 15
"""Bytes of a piece that one instruction moves."""


@dataclass(frozen=True)
class Room:
    """Local memory that a layer may use: bytes from `base` on."""

    base: int
    size: int


@dataclass(frozen=True)
class Sum:
    """`quant.add` of two dense tensors of `count` bytes."""

    a: Activation
    b: Activation
    output: Activation
    count: int
    a_multiplier: int
    b_multiplier: int
    shift: int
    low: int
    high: int


@dataclass(frozen=True)
class Table:
    """`quant.table` of a dense tensor of `count` bytes; the table lies at local line `table`."""

    input: Activation
    output: Activation
    count: int
    table: int


@dataclass(frozen=True)
class Requantization:
    """What sums become on their way out; `table` is the local line of the first channel's entry."""

    table: int
    low: int
    high: int


@dataclass(frozen=True)
class Pool:
    """A pool of an image [rows, columns, channels]: the maximum, or the sum of codes minus zero, requantised.

    `axes`: (outputs, window, stride, dilation, pad, image) of rows and of columns.
    """

    input: Activation
    output: Activation
    channels: int
    axes: tuple[Axis, Axis]
    sums: Requantization | None = None


def emit_sum(s: Sum, room: Room, to: Writer) -> None:
    """Both operands piece by piece."""
    to.set(
        COMPUTE,
        input_signed=int(s.a.signed),
        weight_signed=int(s.b.signed),
        output_zero=s.output.zero,
        low=s.low,
        high=s.high,
        a_multiplier=s.a_multiplier,
        b_multiplier=s.b_multiplier,
        shift=s.shift,
        a_zero=s.a.zero,
        b_zero=s.b.zero,
        **CODES,
    )

    def work(buffers: Sequence[int], count: int) -> None:
        a, b, out = (x // LINE for x in buffers)
        to.emit("vec", COMPUTE, a=a, b=b, output=out, count=count, kind=KINDS["quant.add"])

    _pieces([s.a, s.b], s.output, s.count, room, to, work)


def emit_table(t: Table, room: Room, to: Writer) -> None:
    """The table is in local memory already."""
    to.set(COMPUTE, input_signed=int(t.input.signed), **CODES)

    def work(buffers: Sequence[int], count: int) -> None:
        to.emit("lut", COMPUTE, input=buffers[0] // LINE, output=buffers[1] // LINE, table=t.table, count=count)

    _pieces([t.input], t.output, t.count, room, to, work)


def _pieces(
    inputs: Sequence[Activation],
    output: Activation,
    count: int,
    room: Room,
    to: Writer,
    work: Callable[[Sequence[int], int], None],
) -> None:
    """Dense tensors in pieces of equal size, two of each in flight."""
    parts = len(inputs) + 1
    size = min(room.size // (2 * parts) // LINE * LINE, LONGEST, -(-count // LINE) * LINE)
    if size < LINE:
        raise error("IG0585", f"a local memory of {room.size} bytes is too small for elementwise work")
    to.set(STORE, row2=0, pixel2=0, local_row2=0, local_pixel2=0, base2=output.base)
    flight = Flight(to)
    for number, at in enumerate(range(0, count, size)):
        n = min(size, count - at)
        buffers = [room.base + (2 * i + number % 2) * size for i in range(parts)]
        flight.load()
        for x, local in zip(inputs, buffers, strict=False):
            to.emit("loadc", LOAD, stream=A, dram=x.base + at, local=local, count=n, packed=n)
        flight.compute()
        work(buffers, n)
        flight.store()
        to.emit("store", STORE, stream=OUT, dram=at, local=buffers[-1], rows=1, columns=1, bytes=n)
        flight.done()


class Flight:
    """Tokens of pieces that are loaded, worked on and stored in turn, with two buffers of each."""

    def __init__(self, to: Writer) -> None:
        self.to = to
        self.worked: list[int] = []
        self.stored: list[int] = []

    def load(self) -> None:
        if len(self.worked) >= 2:
            self.to.wait(LOAD, COMPUTE, self.worked[-2])

    def compute(self) -> None:
        self.to.wait(COMPUTE, LOAD, self.to.send(LOAD, COMPUTE))
        if len(self.stored) >= 2:
            self.to.wait(COMPUTE, STORE, self.stored[-2])

    def store(self) -> None:
        self.worked.append(self.to.send(COMPUTE, LOAD))
        self.to.wait(STORE, COMPUTE, self.to.send(COMPUTE, STORE))

    def done(self) -> None:
        self.stored.append(self.to.send(STORE, COMPUTE))


def emit_pool(pool: Pool, room: Room, to: Writer) -> None:
    """Rows of outputs piece by piece: as many rows and channels as local memory has room for."""
    (p, kh, sh, dh, top, height), (q, kw, sw, dw, left, width) = pool.axes
    columns = coordinates_of(pool.axes[1], (0, q), (0, kw))
    sums = pool.sums
    element = 4 if sums is not None else 1
    rows, channels, size = _portion(pool, len(columns), element, room)
    to.set(COMPUTE, images=1, kernel_h=kh, kernel_w=kw, stride_h=sh, stride_w=sw, dilation_h=dh, dilation_w=dw)
    to.set(COMPUTE, image_h=height, image_w=width, origin_w=-left, first_h=0, first_w=0, input_zero=pool.input.zero)
    to.set(COMPUTE, ring_w=len(columns), input_bits=8, input_signed=int(pool.input.signed))
    to.set(STORE, base2=pool.output.base, row2=pool.output.strides[3], pixel2=pool.output.strides[4])
    if sums is not None:
        to.set(STORE, bits=8, zero=pool.output.zero, low=sums.low, high=sums.high)
    flight, number = Flight(to), 0
    for c in range(0, pool.channels, channels):
        cn = min(channels, pool.channels - c)
        for p0 in range(0, p, rows):
            pn = min(rows, p - p0)
            wanted = coordinates_of(pool.axes[0], (p0, pn), (0, kh))
            base = room.base + number % 2 * size
            out = base + _lines(len(wanted) * len(columns) * cn)
            flight.load()
            to.set(LOAD, local_row1=len(columns) * cn, local_pixel1=cn)
            for i, row, step_h, many in runs(wanted):
                for j, column, step_w, wide in runs(columns):
                    to.set(LOAD, row1=step_h * pool.input.strides[3], pixel1=step_w * pool.input.strides[4])
                    start = pool.input.base + row * pool.input.strides[3] + column * pool.input.strides[4] + c
                    local = base + (i * len(columns) + j) * cn
                    to.emit("load", LOAD, stream=A, dram=start, local=local, rows=many, columns=wide, bytes=cn)
            flight.compute()
            to.set(COMPUTE, origin_h=p0 * sh - top, ring_h=max(1, len(wanted)), pitch=cn)
            kind = POOLS["max" if sums is None else "sum"]
            to.emit("red", COMPUTE, input=base // LINE, output=out // LINE, p=pn, q=q, c=cn, kind=kind)
            flight.store()
            to.set(STORE, local_row2=q * cn * element, local_pixel2=cn * element)
            place = {"stream": OUT, "dram": p0 * pool.output.strides[3] + c, "local": out, "rows": pn, "columns": q}
            if sums is None:
                to.emit("store", STORE, **place, bytes=cn)
            else:
                to.set(STORE, table=sums.table + c * ENTRY // LINE)
                to.emit("req", STORE, **place, count=cn, residual=0)
            flight.done()
            number += 1


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _portion(pool: Pool, columns: int, element: int, room: Room) -> tuple[int, int, int]:
    """Rows and channels of a piece, and the bytes of its input and output: two pieces fit in the room."""
    (p, kh, sh, dh, _, _), (q, *_) = pool.axes

    def size_of(rows: int, channels: int) -> int:
        seen = (rows - 1) * sh + dh * (kh - 1) + 1
        return _lines(seen * columns * channels) + _lines(rows * q * channels * element)

    rows, channels = p, pool.channels
    while 2 * size_of(rows, channels) > room.size and rows > 1:
        rows = -(-rows // 2)
    while 2 * size_of(rows, channels) > room.size and channels > 1:
        channels = -(-channels // 2)
    if 2 * size_of(rows, channels) > room.size:
        raise error("IG0585", f"a local memory of {room.size} bytes is too small for a row of a pool")
    return rows, channels, size_of(rows, channels)
