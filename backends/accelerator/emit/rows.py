"""Work on rows as a program: some rows at a time through local memory, where what is between the ops stays.

    load     constants once; then the rows of what is read, two pieces in flight
    compute  op by op over the rows of the piece: `vec`, `lut`, `row`
    store    the rows of what others read

Softmax of codes is seven of these ops, layer norm a dozen: nothing but codes goes to and from DRAM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ir.diagnostics import error
from ....ir.graph import Node, Value
from ..allocate import Buffer, place
from ..isa.instructions import LINE, TYPES, Queue
from .groups import Group
from .layouts import dense, reshaped
from .rowwise import constant, extents, form_of, space_of
from .stream import Writer
from .tensors import array_of, bytes_of, clamp, int_of
from .vector import KINDS, ROWS, Flight, Room

if TYPE_CHECKING:
    from .network import Network

__all__ = ["Blocks", "Cut", "RowWork", "blocks_of", "cut", "emit_rows", "operations", "prepare_rows", "row_work"]

LOAD, COMPUTE, STORE = Queue.LOAD, Queue.COMPUTE, Queue.STORE
READ, TABLES, WRITTEN = 1, 2, 2  # streams
PIECES, MOST_ROWS = 4, (1 << 14) - 1


@dataclass(frozen=True)
class Blocks:
    """Constants of a group side by side: bytes, and where each begins, by node and operand."""

    data: bytes
    at: Mapping[tuple[Node, int], int]


@dataclass(frozen=True)
class RowWork:
    """A group's work: `rows` of them; what goes through piece by piece (`read`, `written`) and what once (`shared`)."""

    nodes: tuple[Node, ...]
    rows: int
    read: tuple[Value, ...]
    shared: tuple[Value, ...]
    written: tuple[Value, ...]

    def length(self, v: Value) -> int:
        """Numbers of a value in a row."""
        return extents(v)[-1] if v.type.rank else 1


def row_work(group: Group) -> RowWork:
    """What of a group is read and written."""
    made = {n.output for n in group.nodes}
    read: dict[Value, None] = {}
    shared: dict[Value, None] = {}
    rows = max(_space(n)[0] for n in group.nodes)
    for node in group.nodes:
        for v in _operands(node):
            if v in made or (constant(v) and _form(node, v) in ("one", "columns")):
                continue
            (read if _form(node, v) in ("full", "rows") else shared)[v] = None
    return RowWork(group.nodes, rows, tuple(read), tuple(v for v in shared if v not in read), group.results)


def blocks_of(group: Group) -> Blocks:
    """The constants: operands, tables, factors."""
    data, at = bytearray(), {}
    for node in group.nodes:
        for i, block in _constants(node):
            at[node, i] = len(data)
            data += block + bytes(-len(block) % LINE)
    return Blocks(bytes(data), at)


def prepare_rows(net: Network, group: Group) -> Any:
    """Constants go to DRAM, those that are read row by row by themselves."""
    blocks = blocks_of(group)
    whole = {v: net.constants.add(_bytes(v)) for v in row_work(group).read if constant(v)}
    return net.constants.add(blocks.data) if blocks.data else 0, blocks, whole


@dataclass(frozen=True)
class Cut:
    """Rows of a piece, and where things lie from the start of the room on: what is loaded once, and by value and turn
    the buffers of a piece."""

    rows: int
    once: Mapping[Value, int]
    local: Mapping[tuple[Value, int], int]


def cut(work: RowWork, constants: int, room: int) -> Cut:
    """Some pieces, so that they overlap, and no more rows in one than there is room for; IG0585 if not for one row."""
    once, at = {}, constants
    for v in work.shared:
        once[v] = at
        at += _lines(work.length(v) * bytes_of(v))
    rows = min(max(1, -(-work.rows // PIECES)), MOST_ROWS)
    while (size := _laid(work, rows)[1]) > room - at and rows > 1:
        rows = max(1, min(rows - 1, rows * (room - at) // size))
    if size > room - at:
        raise error("IG0585", f"a local memory of {room} bytes is too small for rows that need {at + size}")
    return Cut(rows, once, {key: at + a for key, a in _laid(work, rows)[0].items()})


def _laid(work: RowWork, rows: int) -> tuple[dict[tuple[Value, int], int], int]:
    """Where the buffers of a piece lie, and their size: two of what is read or written, one of what is between."""
    found, at = dict[tuple[Value, int], int](), 0
    for v in dict.fromkeys((*work.read, *work.written)):
        for turn in (0, 1):
            found[v, turn] = at
            at += _lines(rows * work.length(v) * bytes_of(v))
    last = {v: i for i, n in enumerate(work.nodes) for v in n.inputs if v is not None}
    between = [(i, n.output) for i, n in enumerate(work.nodes) if n.output not in work.written]
    packed = place([Buffer(str(i), _lines(rows * work.length(v) * bytes_of(v)), i, last.get(v, i)) for i, v in between])
    for i, v in between:
        found[v, 0] = found[v, 1] = at + packed.addresses[str(i)]
    return found, at + packed.peak


def _constants(node: Node) -> Iterator[tuple[int, bytes]]:
    op = node.op.name
    if op == "quant.requantize":
        multiplier, shift = (np.atleast_1d(array_of(v)) for v in node.inputs[1:3])
        entries = np.zeros((len(multiplier), 4), np.int32)
        entries[:, 1], entries[:, 2] = multiplier, shift
        yield 1, entries.tobytes()
    elif op == "quant.table":
        yield 1, _bytes(node.inputs[1])
    else:
        for i, v in enumerate(node.inputs):
            if v is not None and constant(v) and _form(node, v) in ("one", "columns"):
                yield i, _bytes(v)


def emit_rows(net: Network, group: Group, to: Writer, room: Room) -> None:
    """Write the layer."""
    dram, blocks, whole = net.weights[group]
    work = row_work(group)
    places = {v: (at, tuple(bytes_of(v) * s for s in dense(extents(v)))) for v, at in whole.items()}
    places |= {v: net.tensors.rows(v) for v in (*work.read, *work.shared, *work.written) if v not in places}
    _Emission(work, blocks, dram, places, room, to).run()


class _Emission:
    def __init__(
        self,
        work: RowWork,
        blocks: Blocks,
        dram: int,
        places: Mapping[Value, tuple[int, tuple[int, ...]]],
        room: Room,
        to: Writer,
    ) -> None:
        self.work, self.blocks, self.dram, self.places, self.to = work, blocks, dram, places, to
        self.base = room.base
        found = cut(work, len(blocks.data), room.size)
        self.rows = found.rows
        self.once = {v: self.base + at for v, at in found.once.items()}
        self.local = {key: self.base + at for key, at in found.local.items()}

    def run(self) -> None:
        to, w = self.to, self.work
        size = len(self.blocks.data)
        if size:
            to.emit("loadc", LOAD, stream=TABLES, dram=self.dram, local=self.base, count=size, packed=size)
        for v in w.shared:
            self._load(v, 0, 1, self.once[v])
        to.set(STORE, base2=0)
        flight = Flight(to)
        for number, first in enumerate(range(0, w.rows, self.rows)):
            rows, turn = min(self.rows, w.rows - first), number % 2
            flight.load()
            for v in w.read:
                self._load(v, first, rows, self.local[v, turn])
            flight.compute()
            for node in w.nodes:
                self._op(node, rows, turn)
            flight.store()
            for v in w.written:
                self._store(v, first, rows, self.local[v, turn])
            flight.done()

    def _load(self, v: Value, first: int, rows: int, local: int) -> None:
        row = self.work.length(v) * bytes_of(v)
        for dram, i, n, (by_row, by_number) in self._runs(v, first, rows):
            place = {"stream": READ, "dram": dram, "local": local + i * row}
            if by_number == bytes_of(v) and (n == 1 or by_row == row):
                self.to.emit("loadc", LOAD, **place, count=n * row, packed=n * row)
                continue
            self.to.set(LOAD, row1=by_row, pixel1=by_number, local_row1=row, local_pixel1=bytes_of(v))
            self.to.emit("load", LOAD, **place, rows=n, **self._row(v, by_number))

    def _store(self, v: Value, first: int, rows: int, local: int) -> None:
        row = self.work.length(v) * bytes_of(v)
        for dram, i, n, (by_row, by_number) in self._runs(v, first, rows):
            self.to.set(STORE, row2=by_row, pixel2=by_number, local_row2=row, local_pixel2=bytes_of(v))
            place = {"stream": WRITTEN, "dram": dram, "local": local + i * row}
            self.to.emit("store", STORE, **place, rows=n, **self._row(v, by_number))

    def _row(self, v: Value, by_number: int) -> dict[str, int]:
        """A row as one piece, or number by number."""
        length, size = self.work.length(v), bytes_of(v)
        if by_number == size:
            return {"columns": 1, "bytes": length * size}
        return {"columns": length, "bytes": size}

    def _runs(self, v: Value, first: int, rows: int) -> Iterator[tuple[int, int, int, tuple[int, int]]]:
        """Rows of a tensor in DRAM as (address, which of the piece, how many, steps by row and by number)."""
        base, steps = self.places[v]
        shape = extents(v) or (1,)
        steps = steps or (bytes_of(v),)
        even = reshaped(shape, steps, (int(np.prod(shape[:-1])), shape[-1]))
        if even is not None:
            by_row, by_number = (s if n > 1 else bytes_of(v) for s, n in zip(even, (2, shape[-1]), strict=True))
            yield base + first * by_row, 0, rows, (by_row, by_number)
            return
        by_number = steps[-1] if shape[-1] > 1 else bytes_of(v)
        inner, at = shape[-2], first
        while at < first + rows:
            outer, i = divmod(at, inner)
            n = min(inner - i, first + rows - at)
            index = np.unravel_index(outer, shape[:-2])
            start = base + sum(int(k) * s for k, s in zip(index, steps, strict=False)) + i * steps[-2]
            yield start, at - first, n, (steps[-2], by_number)
            at += n

    def _op(self, node: Node, rows: int, turn: int) -> None:
        op, to = node.op.name, self.to
        x = _operands(node)[0]
        length = _space(node)[1]
        output = self.local[node.output, turn] // LINE
        to.set(COMPUTE, a_type=_type(x), output_type=_type(node.output))
        if op in ROWS:
            source = self.local[x, turn] // LINE
            to.emit("row", COMPUTE, input=source, output=output, rows=rows, length=length, kind=ROWS[op])
            return
        count = rows * length
        if op == "quant.table":
            table = node.inputs[1]
            assert table is not None
            lowest = int_of(x).range[0] if node.attr("first") is None else node.attr("first")
            to.set(COMPUTE, entries=extents(table)[0], first=lowest)
            line = (self.base + self.blocks.at[node, 1]) // LINE
            to.emit("lut", COMPUTE, input=self.local[x, turn] // LINE, output=output, table=line, count=count)
            return
        a, b = self._operand(node, 0, "a", rows, turn), 0
        if op == "quant.requantize":
            low, high = clamp(node)
            entries = self.blocks.at[node, 1]
            size = len(np.atleast_1d(array_of(node.inputs[1])))
            to.set(COMPUTE, b_repeat=0, b_period=size, output_zero=node.attr("zero"), low=low, high=high)
            b = (self.base + entries) // LINE
        elif len(node.inputs) > 1:
            to.set(COMPUTE, b_type=_type(node.inputs[1]))
            b = self._operand(node, 1, "b", rows, turn)
        if op == "quant.add":
            low, high = clamp(node)
            names = ("a_multiplier", "b_multiplier", "shift", "a_zero", "b_zero")
            to.set(COMPUTE, output_zero=node.attr("zero"), low=low, high=high, **{n: node.attr(n) for n in names})
        to.emit("vec", COMPUTE, a=a, b=b, output=output, count=count, kind=KINDS[op])

    def _operand(self, node: Node, i: int, name: str, rows: int, turn: int) -> int:
        """The line of an operand; how it is repeated goes to the registers."""
        v = node.inputs[i]
        assert v is not None
        form, length = _form(node, v), _space(node)[1]
        repeat, period = {"full": (0, 0), "rows": (length, rows), "columns": (0, length), "one": (0, 1)}[form]
        self.to.set(COMPUTE, **{f"{name}_repeat": repeat, f"{name}_period": period})
        if (node, i) in self.blocks.at:
            return (self.base + self.blocks.at[node, i]) // LINE
        return (self.once[v] if v in self.once else self.local[v, turn]) // LINE


def operations(node: Node) -> int:
    """Numbers of a row that an op looks at."""
    return _space(node)[1]


def _space(node: Node) -> tuple[int, int]:
    found = space_of(node)
    assert found is not None
    return found


def _operands(node: Node) -> list[Value]:
    """What is computed with; not tables and factors."""
    alone = node.op.name in ("quant.table", "quant.requantize")
    return [v for v in (node.inputs[:1] if alone else node.inputs) if v is not None]


def _form(node: Node, v: Value) -> str:
    space = extents(node.inputs[0]) if node.op.name in ROWS and node.inputs[0] is not None else extents(node.output)
    found = form_of(extents(v), space)
    assert found is not None
    return found


def _type(v: Value | None) -> int:
    assert v is not None
    return TYPES.index(int_of(v).name)


def _bytes(v: Value | None) -> bytes:
    assert v is not None
    return np.ascontiguousarray(array_of(v).astype(int_of(v).dtype)).tobytes()


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE
