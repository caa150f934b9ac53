"""The text of a program, one instruction a line, with the names of queues and registers.

    cfg compute kernel_h = 3
    load stream=0 dram=4096 local=0 rows=9 columns=9 bytes=16 | send following
    conv input=0 weights=128 sums=512 k=16 c=16 p=7 q=7 more=0 | wait preceding, send preceding following

`assemble` and `disassemble` are each other's inverse on canonical text; `#` starts a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ....ir.diagnostics import IntaglioError, Position, error
from .instructions import OPCODES, REGISTERS, TOKENS, Instruction, Queue

__all__ = ["assemble", "disassemble"]


def disassemble(instructions: Iterable[Instruction]) -> str:
    """Canonical text."""
    return "".join(f"{_line(one)}\n" for one in instructions)


def _line(one: Instruction) -> str:
    fields = dict(one.fields)
    words = [one.op]
    if "queue" in fields:
        words.append(Queue(fields.pop("queue")).name.lower())
    if one.op == "cfg":
        names = REGISTERS[one.queue]
        register = fields["register"]
        name = names[register] if register < len(names) else f"r{register}"
        words += [name, "+=" if fields["add"] else "=", str(fields["value"])]
    else:
        words += [f"{name}={number}" for name, number in fields.items()]
    tokens = []
    for verb in ("wait", "send"):
        sides = [side for side in ("preceding", "following") if getattr(one, f"{verb}_{side}")]
        tokens += [f"{verb} {' '.join(sides)}"] if sides else []
    return " ".join(words) + (f" | {', '.join(tokens)}" if tokens else "")


def assemble(text: str, file: str = "<program>") -> list[Instruction]:
    """The instructions of a text; IG0582 with file and line for what is none."""
    made = []
    for number, line in enumerate(text.splitlines(), 1):
        code = line.partition("#")[0].strip()
        if not code:
            continue
        try:
            made.append(_instruction(code))
        except _Wrong as e:
            raise error("IG0582", str(e), position=Position(file, number, 1, len(line), line)) from None
        except IntaglioError as e:
            found = e.diagnostics[0]
            place = Position(file, number, 1, len(line), line)
            raise error("IG0582", found.message, position=place, label=found.label, hint=found.hint) from None
    return made


class _Wrong(Exception):
    """What a line gets wrong."""


def _instruction(code: str) -> Instruction:
    head, _, tail = code.partition("|")
    op, *words = head.split() or [""]
    if op not in OPCODES:
        raise _Wrong(f"there is no instruction `{op}`; there are {', '.join(OPCODES)}")
    fields: dict[str, int] = {}
    if any(f.name == "queue" for f in OPCODES[op].fields):
        fields["queue"] = _queue(words).value
        words = words[1:]
    if op == "cfg":
        fields |= _register(words, Queue(fields["queue"]))
    else:
        for word in words:
            name, found, value = word.partition("=")
            if not found or name in fields:
                raise _Wrong(f"`{word}` is not a field and its number, once")
            fields[name] = _number(value)
    return Instruction(op, fields, **_tokens(tail))


def _queue(words: list[str]) -> Queue:
    name = words[0].upper() if words else ""
    if name not in Queue.__members__:
        raise _Wrong("say first of which queue: load, compute or store")
    return Queue[name]


def _register(words: list[str], queue: Queue) -> dict[str, int]:
    if len(words) != 3 or words[1] not in ("=", "+="):
        raise _Wrong("`cfg` reads: cfg QUEUE REGISTER = NUMBER, or += NUMBER")
    name, sign, value = words
    names = REGISTERS[queue]
    if name in names:
        register = names.index(name)
    elif re.fullmatch(r"r\d+", name):
        register = int(name[1:])
    else:
        raise _Wrong(f"the {queue.name.lower()} queue has no register `{name}`; it has {', '.join(names)}")
    return {"add": int(sign == "+="), "register": register, "value": _number(value)}


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise _Wrong(f"`{text}` is no number") from None


def _tokens(tail: str) -> dict[str, bool]:
    found = {}
    for part in filter(None, (p.strip() for p in tail.split(","))):
        verb, *sides = part.split()
        for side in sides:
            name = f"{verb}_{side}"
            if name not in TOKENS:
                raise _Wrong(f"`{part}` is no token: wait or send, preceding or following")
            found[name] = True
        if not sides:
            raise _Wrong(f"`{part}` names no side: preceding or following")
    return found
