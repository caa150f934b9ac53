"""Three queues of instructions, run in an order that their tokens allow.

Programs come from files. Whatever is in them, the run ends: with the outcome, or with IG0584 that says which queue
waits for what, or which messages nobody took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ....ir.diagnostics import IntaglioError, error
from ..isa.instructions import REGISTERS, Instruction, Queue

__all__ = ["MOST", "Core", "run"]

MOST = 50_000_000
"""Instructions that a run executes at most, repetitions counted."""

Execute = Callable[[Instruction, Mapping[str, int]], None]


class Core:
    """One queue: where it is in its program, its registers, its loops."""

    def __init__(self, queue: Queue, program: Sequence[Instruction]) -> None:
        self.queue, self.program = queue, program
        self.at = 0
        self.registers = dict.fromkeys(REGISTERS[queue], 0)
        self.loops: list[list[int]] = []  # [first instruction, rounds left]
        self.syncs = 0

    @property
    def done(self) -> bool:
        return self.at >= len(self.program)

    def waits(self, tokens: Counter[tuple[Queue, Queue]], syncs: int) -> str:
        """Empty when the next instruction can start, else what it waits for."""
        one = self.program[self.at]
        for flag, sender in ((one.wait_preceding, self.queue.preceding), (one.wait_following, self.queue.following)):
            if flag and not tokens[sender, self.queue]:
                return f"a token of the {sender.name.lower()} queue"
        return "" if one.op != "sync" or syncs > self.syncs else "the other queues' `sync`"

    def control(self, one: Instruction) -> None:
        """What is not work: registers and loops. Moves on to the next instruction."""
        self.at += 1
        if one.op == "cfg":
            names = REGISTERS[self.queue]
            if one["register"] >= len(names):
                raise error("IG0583", f"the {self.queue.name.lower()} queue has no register {one['register']}")
            name = names[one["register"]]
            self.registers[name] = one["value"] + (self.registers[name] if one["add"] else 0)
        elif one.op == "loop":
            if len(self.loops) >= 8 or one["count"] < 1:
                raise error("IG0583", "loops run at least once and are at most eight deep")
            self.loops.append([self.at, one["count"]])
        elif one.op == "end":
            if not self.loops:
                raise error("IG0583", "`end` of no loop")
            self.loops[-1][1] -= 1
            if self.loops[-1][1]:
                self.at = self.loops[-1][0]
            else:
                self.loops.pop()
        elif one.op == "sync":
            self.syncs += 1


def run(program: Mapping[Queue, Sequence[Instruction]], execute: Mapping[Queue, Execute]) -> None:
    """Run to the end; `execute` does the work of each queue. Raises IG0583 for what cannot be executed, with its place
    in the program, and IG0584 when the queues wait for each other or tokens are left over."""
    cores = [Core(q, program.get(q, ())) for q in Queue]
    tokens: Counter[tuple[Queue, Queue]] = Counter()
    left, moved = MOST, True
    while moved:
        moved = False
        for core in cores:
            syncs = _arrived(cores)
            while not core.done and not core.waits(tokens, syncs):
                one, place = core.program[core.at], core.at
                if one.wait_preceding:
                    tokens[core.queue.preceding, core.queue] -= 1
                if one.wait_following:
                    tokens[core.queue.following, core.queue] -= 1
                try:
                    if one.queue is not core.queue:
                        raise error("IG0583", f"it is of the {one.queue.name.lower()} queue")
                    core.control(one)
                    if one.op not in ("cfg", "loop", "end", "sync"):
                        execute[core.queue](one, core.registers)
                except IntaglioError as e:
                    raise _placed(e, core.queue, place, one) from None
                if one.send_preceding:
                    tokens[core.queue, core.queue.preceding] += 1
                if one.send_following:
                    tokens[core.queue, core.queue.following] += 1
                moved, left = True, left - 1
                if not left:
                    raise error("IG0584", f"the program has not ended after {MOST} instructions")
    if stuck := [c for c in cores if not c.done]:
        who = "; ".join(
            f"{c.queue.name.lower()} queue, instruction {c.at}, for {c.waits(tokens, _arrived(cores))}" for c in stuck
        )
        raise error("IG0584", "the program is stuck", label=f"waiting: {who}", hint="compile the model again")
    if over := [pair for pair, count in tokens.items() if count]:
        pairs = ", ".join(f"{a.name.lower()} to {b.name.lower()}" for a, b in over)
        raise error("IG0584", f"tokens are left over at the end: {pairs}", hint="compile the model again")
    if any(c.loops for c in cores):
        raise error("IG0584", "a loop has no end", hint="compile the model again")


def _arrived(cores: Sequence[Core]) -> int:
    """How many syncs all queues have come to: a queue that is done, or stands before one, has come to its next."""
    return min(c.syncs + (not c.done and c.program[c.at].op == "sync") for c in cores)


def _placed(e: IntaglioError, queue: Queue, place: int, one: Instruction) -> IntaglioError:
    found = e.diagnostics[0]
    where = f"{queue.name.lower()} queue, instruction {place}: `{one.op}`"
    return error("IG0583", found.message, label=where, hint=found.hint or "compile the model again")
