"""Writing three queues at once: registers, and tokens as semaphores.

A token is one bit of an instruction, and tokens are alike, so what counts is how many have been sent and taken between
two queues. Whoever writes a program says "wait until the n-th message of that kind is out" and this file turns it into
as many waits as are still missing; messages that nobody waits for are not sent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..isa.instructions import REGISTERS, TOKENS, Instruction, Queue

__all__ = ["Writer"]

_Pair = tuple[Queue, Queue]


@dataclass
class Writer:
    """The instructions of the three queues so far, each queue in its order."""

    queues: dict[Queue, list[Instruction]] = field(default_factory=lambda: {q: [] for q in Queue})
    _registers: dict[tuple[Queue, str], int] = field(default_factory=dict)
    _waiting: dict[Queue, list[str]] = field(default_factory=lambda: {q: [] for q in Queue})
    _sent: dict[_Pair, list[int]] = field(default_factory=dict)  # places of the senders in their queue
    _taken: Counter[_Pair] = field(default_factory=Counter)

    def emit(self, op: str, at: Queue, **fields: int) -> None:
        """Append an instruction, which takes what waits are pending in its queue."""
        pending = self._waiting[at]
        while len(pending) > len(set(pending)):  # more of one side than one instruction can take
            side = next(p for p in pending if pending.count(p) > 1)
            pending.remove(side)
            self.queues[at].append(_nothing(at, **{f"wait_{side}": True}))
        self.queues[at].append(Instruction(op, fields, **{f"wait_{side}": True for side in pending}))
        pending.clear()

    def set(self, queue: Queue, **registers: int) -> None:
        """Registers to these numbers; one that has its number already costs nothing."""
        for name, value in registers.items():
            if self._registers.get((queue, name)) != value:
                self._registers[queue, name] = value
                register = REGISTERS[queue].index(name)
                self.emit("cfg", queue, queue=queue.value, add=0, register=register, value=int(value))

    def nothing(self, queue: Queue) -> None:
        """An instruction that only carries tokens: adds 0 to the first register."""
        self.emit("cfg", queue, **_NOTHING, queue=queue.value)

    def send(self, sender: Queue, receiver: Queue) -> int:
        """The last instruction of the sender sends when it is done; the number of the message, from 1."""
        places = self._sent.setdefault((sender, receiver), [])
        if not self.queues[sender] or (places and places[-1] == len(self.queues[sender]) - 1):
            self.nothing(sender)
        places.append(len(self.queues[sender]) - 1)
        return len(places)

    def wait(self, receiver: Queue, sender: Queue, number: int) -> None:
        """The next instruction of the receiver starts after that message; 0 waits for none."""
        pair = (sender, receiver)
        side = "preceding" if receiver.preceding is sender else "following"
        while self._taken[pair] < number:
            self._taken[pair] += 1
            self._waiting[receiver].append(side)

    def sync(self) -> None:
        """All queues meet. What was sent before is settled: messages count from 1 again."""
        self._settle()
        for queue in Queue:
            self.emit("sync", queue, queue=queue.value)

    def finished(self) -> dict[Queue, list[Instruction]]:
        """The queues, with the messages that are waited for. Nothing may be written afterwards."""
        self._settle()
        return self.queues

    def _settle(self) -> None:
        """Waits that are pending get an instruction, messages that somebody waits for are sent, the others are not."""
        for queue in Queue:
            if self._waiting[queue]:
                self.nothing(queue)
        for (sender, receiver), places in self._sent.items():
            side = "send_preceding" if sender.preceding is receiver else "send_following"
            for place in places[: self._taken[sender, receiver]]:
                self.queues[sender][place] = _with(self.queues[sender][place], side)
        self._sent.clear()
        self._taken.clear()


def _with(one: Instruction, token: str) -> Instruction:
    flags = {t: getattr(one, t) or t == token for t in TOKENS}
    return Instruction(one.op, one.fields, **flags)


_NOTHING = {"add": 1, "register": 0, "value": 0}


def _nothing(queue: Queue, **tokens: bool) -> Instruction:
    return Instruction("cfg", {"queue": queue.value, **_NOTHING}, **tokens)
