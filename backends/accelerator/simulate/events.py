"""How long a program takes and what it moves: its instructions as events on queues, the array and the DRAM port.

Every queue runs in order; an instruction starts when its tokens are there and its resource is free. DRAM serves loads
and stores one after the other. Times are cycles of the machine. Accesses are counted as instructions are executed, and
are those of `counting.py` exactly; its time is the same model with tiles of average size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....ir.diagnostics import error
from ..emit.network import Program
from ..emit.vector import KINDS
from ..hierarchy import Dataflow, Hierarchy, Rates
from ..isa.instructions import CONTROL, Instruction, Queue
from ..layer import DIMS, OPERANDS, Layer
from ..mapping import Mapping as LayerMapping
from ..plan import Units
from ..vector import PASSES, UNITS
from .inner import Inside, array_of, cycles_of_tile
from .queues import Core

__all__ = ["Bar", "Outcome", "chrome_trace", "simulate_layer", "simulate_program"]


@dataclass(frozen=True)
class Bar:
    """One instruction in time."""

    queue: Queue
    op: str
    start: float
    stop: float


@dataclass
class Outcome:
    """Cycles in all; busy cycles of the array and of DRAM, and bits that DRAM moves; accesses by (memory, operand,
    read | write); the bars."""

    cycles: float = 0.0
    array: float = 0.0
    dram: float = 0.0
    outer_bits: float = 0.0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    bars: list[Bar] = field(default_factory=list)


def simulate_layer(
    program: Mapping[Queue, Sequence[Instruction]],
    layer: Layer | None,
    mapping: LayerMapping | None,
    machine: Hierarchy,
    rates: Rates,
    flow: Dataflow | None,
    lanes: float | Units = 16.0,
) -> Outcome:
    """Run the program of one layer; without a mapping it is vector work, of `lanes` operations a cycle (or as `Units`
    say for each function).

    Raises IG0584 when its queues wait for each other.
    """
    return _Events(program, layer, mapping, machine, rates, flow, lanes).run()


def simulate_program(
    program: Program, machine: Hierarchy, rates: Callable[[Layer], Rates], lanes: float | Units = 16.0
) -> list[Outcome]:
    """Each layer of a program by itself, as they meet at syncs; registers keep what they have from one to the next."""
    found = []
    registers: dict[Queue, dict[str, int]] = {q: {} for q in Queue}
    for piece in program.pieces:
        part = {q: program.queues[q][piece.start[q] : piece.stop[q]] for q in Queue}
        flow, known = None, Rates()
        if piece.layer is not None and piece.mapping is not None:
            flow = next(f for f in machine.dataflows if f.name == piece.mapping.dataflow)
            known = rates(piece.layer)
        events = _Events(part, piece.layer, piece.mapping, machine, known, flow, lanes)
        for q, core in events.cores.items():
            core.registers.update(registers[q])
        found.append(events.run())
        registers = {q: core.registers for q, core in events.cores.items()}
    return found


def chrome_trace(program: Program, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The run as a Chrome trace (about:tracing, Perfetto): a row for each queue, one microsecond a cycle."""
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": q.value, "args": {"name": q.name.lower()}} for q in Queue
    ]
    at = 0.0
    for piece, outcome in zip(program.pieces, outcomes, strict=True):
        layer = {"name": piece.name, "ph": "X", "pid": 1, "tid": 0, "ts": at, "dur": outcome.cycles}
        events.append(layer)
        for bar in outcome.bars:
            row = {"pid": 0, "tid": bar.queue.value, "ts": at + bar.start, "dur": bar.stop - bar.start}
            events.append({"name": bar.op, "ph": "X", **row})
        at += outcome.cycles
    return {"traceEvents": events, "displayTimeUnit": "ns"}


_KINDS = {n: op for op, n in KINDS.items()}
_EXTENTS = {
    "conv": {"K": "k", "C": "c", "P": "p", "Q": "q"},
    "dwconv": {"G": "c", "P": "p", "Q": "q"},
    "gemm": {"P": "m", "K": "n", "C": "k"},
}
"""The fields of an instruction that are extents of a tile; the other loops' stand in registers."""


class _Events:
    def __init__(
        self,
        program: Mapping[Queue, Sequence[Instruction]],
        layer: Layer | None,
        mapping: LayerMapping | None,
        machine: Hierarchy,
        rates: Rates,
        flow: Dataflow | None,
        lanes: float | Units,
    ) -> None:
        self.cores = {q: Core(q, program.get(q, ())) for q in Queue}
        self.layer, self.machine, self.rates = layer, machine, rates
        self.units = lanes if isinstance(lanes, Units) else Units((lanes, 0.0))
        self.lanes = self.units.alu[0]
        self.fill = flow.fill if flow is not None else 0
        self.inside = None if layer is None or mapping is None else Inside(array_of(layer, mapping, machine))
        self.first = {x: self._home(x) for x in OPERANDS}
        self.out = Outcome()
        self.ready = dict.fromkeys(Queue, 0.0)
        self.port = float(machine.latency)
        self.tokens: dict[tuple[Queue, Queue], list[float]] = {(a, b): [] for a in Queue for b in Queue}
        self.pending: dict[tuple[str, str], float] = {}  # bits that the first tier exchanged with DRAM

    def _home(self, x: str) -> str:
        """The memory that a tile of the first tier comes from and goes to, other than DRAM."""
        return next((s.name for s in self.machine.tiers[0] if x in s.holds), "")

    def run(self) -> Outcome:
        for q in Queue:
            self._control(q)
        while True:
            # who became ready first goes first, also where both wait for DRAM; at the same time, the store
            found = [(times, -q, q) for q in Queue if (times := self._start(q)) is not None]
            if not found:
                break
            (start, _), _, q = min(found)
            self._step(q, start)
            self._control(q)
        if any(not c.done for c in self.cores.values()):
            raise error(
                "IG0584", "the program is stuck: its queues wait for each other", hint="compile the model again"
            )
        self.out.cycles = max((b.stop for b in self.out.bars), default=0.0)
        return self.out

    def _start(self, q: Queue) -> tuple[float, float] | None:
        """When the next instruction of a queue can start, and since when it is ready; None while it lacks a token."""
        core = self.cores[q]
        if core.done:
            return None
        one, start = core.program[core.at], self.ready[q]
        for flag, sender in ((one.wait_preceding, q.preceding), (one.wait_following, q.following)):
            if flag:
                if not self.tokens[sender, q]:
                    return None
                start = max(start, self.tokens[sender, q][0])
        moves = one.op in ("load", "loadc", "store", "req") and self._far(one) != (False, False)
        # equal times are equal: no last bit of a sum decides who goes first
        return round(max(start, self.port) if moves else start, 6), round(start, 6)

    def _control(self, q: Queue) -> None:
        """Registers and loops up to the next instruction that takes time or waits."""
        core = self.cores[q]
        while not core.done:
            one = core.program[core.at]
            if one.op not in CONTROL or one.wait_preceding or one.wait_following:
                break
            core.control(one)
            self._send(q, one)

    def _send(self, q: Queue, one: Instruction) -> None:
        if one.send_preceding:
            self.tokens[q, q.preceding].append(self.ready[q])
        if one.send_following:
            self.tokens[q, q.following].append(self.ready[q])

    def _step(self, q: Queue, start: float) -> None:
        core = self.cores[q]
        one = core.program[core.at]
        for flag, sender in ((one.wait_preceding, q.preceding), (one.wait_following, q.following)):
            if flag:
                self.tokens[sender, q].pop(0)
        core.control(one)
        stop = start
        if one.op in ("load", "loadc", "store", "req"):
            moved, inside = self._moved(one)
            if moved:
                self.port = start + moved
                self.out.dram += moved
            stop = start + max(moved, inside, self._along(one))
        elif one.op in ("vec", "lut", "red", "row"):
            stop = start + self._vector(one)
            self.out.array += stop - start
        elif one.op in _EXTENTS:
            stop = start + self._work(one)
            self.out.array += stop - start
        if stop > start:
            self.out.bars.append(Bar(q, one.op, start, stop))
        self.ready[q] = stop
        self._send(q, one)

    def _far(self, one: Instruction) -> tuple[bool, bool]:
        """Whether a transfer's other side is DRAM, and whether its residual lies there."""
        if one.op not in ("store", "req"):
            return True, False
        r = self.cores[Queue.STORE].registers
        return not r[f"near{one['stream']}"], bool(one.op == "req" and one["residual"] and not r["residual_near"])

    def _moved(self, one: Instruction) -> tuple[float, float]:
        """Cycles that a transfer keeps the port busy, and those it takes in local memory."""
        if one.op in ("load", "loadc"):
            return self._loaded(one), 0.0
        far, far_residual = self._far(one)
        counts, home, s = self.out.counts, self.first["I"], one["stream"]
        if one.op == "store" and s == 1:  # what stays is stored besides
            n, bits = one["rows"] * one["columns"] * one["bytes"], self.rates.bits["O"]
            self._local(home, "read", n, bits)
            counts[self.machine.outer.name, "O", "write"] += n
            return self._port(n * bits, writes=True), 0.0
        acc = self.rates.accumulator
        if one.op == "store" and s == 2:  # results of vector work
            n = one["rows"] * one["columns"] * one["bytes"]
            counts[self.machine.outer.name, "O", "write"] += n
            return self._port(8 * n, writes=True), 0.0
        if one.op == "store":
            n = one["rows"] * one["columns"] * one["bytes"] // 4
            counts[self.machine.outer.name, "O", "write"] += n
            self._first("O", "read", n, acc)
            return self._port(n * acc, writes=True), 0.0
        n, bits, port, inside = one["rows"] * one["columns"] * one["count"], self.rates.bits["O"], 0.0, 0.0
        self._first("O", "read", n, acc)
        if far:
            counts[self.machine.outer.name, "O", "write"] += n
            port += self._port(n * bits, writes=True)
        else:
            self._local(home, "write", n, bits)
            inside += n * bits / self.machine.store(home).writing if home else 0.0
        if far_residual:  # what is added comes from DRAM
            port += self._port(n * 8)
        elif one["residual"]:
            self._local(home, "read", n, 8)
            inside += n * 8 / self.machine.store(home).reading if home else 0.0
        return port, inside

    def _port(self, bits: float, *, writes: bool = False) -> float:
        """Cycles of so many bits of DRAM."""
        self.out.outer_bits += bits
        return bits / (self.machine.outer.writing if writes else self.machine.outer.reading)

    def _local(self, name: str, what: str, n: int, bits: float) -> None:
        """Results that go to the memory where they stay, or come from it."""
        if name:
            self.out.counts[name, "O", what] += n
            self.pending[name, what] = self.pending.get((name, what), 0.0) + n * bits

    def _loaded(self, one: Instruction) -> float:
        """Cycles of a load."""
        s, outer, bits = one["stream"], self.machine.outer.name, self.rates.bits
        counts, acc = self.out.counts, self.rates.accumulator
        if s == 3:  # partial sums come back
            n = one["count"] // 4
            counts[outer, "O", "read"] += n
            self._first("O", "write", n, acc)
            return self._port(n * acc)
        if s == 2:  # a table: no operand of the product
            return self._port(one.fields.get("packed", 0) * 8)
        x = "WI"[s]
        stored = self.layer.bits[s] if self.layer is not None else 8
        n = one["count"] * 8 // stored if one.op == "loadc" else one["rows"] * one["columns"] * one["bytes"]
        counts[outer, x, "read"] += n
        self._first(x, "write", n, bits[x])
        return self._port(n * bits[x])

    def _along(self, one: Instruction) -> float:
        """Cycles of the vector unit for sums on their way out: a product and a shift each, a residual's sum."""
        if one.op != "req":
            return 0.0
        return one["rows"] * one["columns"] * one["count"] * (2 + one["residual"]) / self.lanes

    def _vector(self, one: Instruction) -> float:
        """Cycles of vector work: an operation an element, or more; one an element of each window or row."""
        op = _KINDS.get(one["kind"], "") if one.op == "vec" else {"lut": "quant.table"}.get(one.op, "")
        if one.op == "red":
            r = self.cores[Queue.COMPUTE].registers
            count = one["p"] * one["q"] * one["c"] * r["kernel_h"] * r["kernel_w"]
        else:
            count = one["rows"] * one["length"] if one.op == "row" else one["count"]
        return count * PASSES.get(op, 1) / self.units.of(UNITS.get(op, "alu"))[0]

    def _first(self, x: str, what: str, n: int, bits: float) -> None:
        """Traffic of a memory of the first tier with DRAM."""
        if name := self.first[x]:
            self.out.counts[name, x, what] += n
            self.pending[name, what] = self.pending.get((name, what), 0.0) + n * bits

    def _work(self, one: Instruction) -> float:
        """Cycles of a tile: the array, or a memory that cannot keep up."""
        r = self.cores[Queue.COMPUTE].registers
        extents = {"N": r["images"], "G": r["groups"], "R": r["kernel_h"], "S": r["kernel_w"], "K": 1, "C": 1, "Q": 1}
        extents |= {d: one[field] for d, field in _EXTENTS[one.op].items()}
        fresh = frozenset(x for i, x in enumerate("WIO") if r["fresh"] >> i & 1)
        assert self.inside is not None, "a product without a mapping"
        work = self.inside.run({d: extents[d] for d in DIMS}, fresh, not one["more"])
        self.out.counts.update(work.counts)
        cycles = cycles_of_tile(work, self.pending, self.machine, self.rates, self.fill)
        self.pending.clear()
        return cycles
