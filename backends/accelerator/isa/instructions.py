"""The instruction set: fifteen instructions of sixteen bytes, over three queues that each run in order.

    load     DRAM to local memory            cfg sync loop end | load loadc
    compute  local memory to local memory    cfg sync loop end | gemm conv dwconv vec lut red row
    store    local memory to DRAM            cfg sync loop end | store req

The queues run ahead of each other and agree by tokens: an instruction may wait for one token of either neighbour before
it starts, and send one to either when it is done. The neighbours form a ring, load - compute - store - load, so a tile
that is ready, a buffer that is free and a tensor that is back in DRAM are all the same mechanism (VTA, Moreau et al.
2019, section 2.2, has it between two pairs of three).

An instruction is a 128-bit little-endian number: opcode in the lowest five bits, the four token bits, then the fields
in the order of the table. Bits that no field owns are zero. Local addresses run over all on-chip memories, one after
the other, and count bytes in `load` and `store`, lines of 8 bytes elsewhere; DRAM addresses count bytes from the base
of the stream. What stays the same over many
instructions of a layer (strides, kernel, zero points) stands in registers that `cfg` writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ....ir.diagnostics import error

__all__ = [
    "BYTES",
    "CONTROL",
    "LINE",
    "OPCODES",
    "REGISTERS",
    "TYPES",
    "Field",
    "Instruction",
    "Opcode",
    "Queue",
    "decode",
    "encode",
]

BYTES = 16
"""Bytes of an instruction."""

LINE = 8
"""Bytes of a line of local memory: what local addresses count."""


class Queue(IntEnum):
    """The three queues, in the order of the ring of tokens."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2

    @property
    def following(self) -> Queue:
        return _RING[self + 1]

    @property
    def preceding(self) -> Queue:
        return _RING[self + 2]


_RING = (*Queue, *Queue)


@dataclass(frozen=True)
class Field:
    """One field: its width in bits, and whether it is a two's complement number."""

    name: str
    bits: int
    signed: bool = False

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest number that it holds."""
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)


@dataclass(frozen=True)
class Opcode:
    """One instruction of the table. `queue` is None where a field says which."""

    name: str
    number: int
    queue: Queue | None
    fields: tuple[Field, ...]
    meaning: str


_ROWS = (
    ("sync", "any", "queue:2", "wait until every queue has come to its sync of this number"),
    ("cfg", "any", "queue:2 add:1 register:7 value:+44", "write a register of the queue, or add to it"),
    ("loop", "any", "queue:2 count:24", "run what follows, up to the matching end, `count` times"),
    ("end", "any", "queue:2", "end of a loop"),
    ("load", "load", "stream:2 dram:36 local:25 rows:14 columns:14 bytes:16", "pixels from DRAM to local memory"),
    ("loadc", "load", "stream:2 dram:36 local:25 count:26 packed:26", "`packed` bytes, decompressed to `count` bytes"),
    ("gemm", "compute", "input:22 weights:22 sums:22 m:17 n:14 k:14 more:1", "sums[m, n] (+)= input[m, k] w[n, k]"),
    ("conv", "compute", "input:22 weights:22 sums:22 k:13 c:13 p:12 q:12 more:1", "sums[p, q, k] (+)= windows . w"),
    ("dwconv", "compute", "input:22 weights:22 sums:22 c:13 p:12 q:12 more:1", "the same, channel by channel"),
    ("vec", "compute", "a:22 b:22 output:22 count:26 kind:4", "elementwise, b repeated: sums, quotients, roots, casts"),
    ("lut", "compute", "input:22 output:22 table:22 count:26", "output = table[input]"),
    ("red", "compute", "input:22 output:22 p:14 q:14 c:14 kind:4", "over windows: pools"),
    ("store", "store", "stream:2 dram:36 local:25 rows:14 columns:14 bytes:16", "`load` the other way"),
    ("req", "store", "stream:2 dram:36 local:25 rows:14 columns:14 count:14 residual:1", "`store` of requantised sums"),
    ("row", "compute", "input:22 output:22 rows:20 length:14 kind:4", "over rows of any integers: sums, maxima"),
)

_QUEUES = {"any": None, "load": Queue.LOAD, "compute": Queue.COMPUTE, "store": Queue.STORE}

_OPCODE_BITS, _TOKEN_BITS = 5, 4
TOKENS = ("wait_preceding", "wait_following", "send_preceding", "send_following")


def _field(text: str) -> Field:
    name, _, width = text.partition(":")
    return Field(name, int(width.removeprefix("+")), width.startswith("+"))


def _opcodes() -> dict[str, Opcode]:
    found = {}
    for number, (name, queue, fields, meaning) in enumerate(_ROWS, 1):  # 0 is none: erased memory is no program
        found[name] = Opcode(name, number, _QUEUES[queue], tuple(map(_field, fields.split())), meaning)
        assert _OPCODE_BITS + _TOKEN_BITS + sum(f.bits for f in found[name].fields) <= 8 * BYTES, name
    return found


OPCODES: dict[str, Opcode] = _opcodes()
_BY_NUMBER = {o.number: o for o in OPCODES.values()}

TYPES = ("", "i8", "u8", "i16", "u16", "i32", "u32", "i64")
"""The integers that vector instructions compute with, by the number in a register; 0 is a code of 8 bits."""

REGISTERS: dict[Queue, tuple[str, ...]] = {
    # of each of four streams: the bytes from row to row and from pixel to pixel in DRAM and in local memory, where it
    # starts in DRAM, and how its bytes are compressed (formats.py)
    Queue.LOAD: tuple(
        f"{n}{i}" for i in range(4) for n in ("base", "row", "pixel", "local_row", "local_pixel", "format")
    ),
    Queue.COMPUTE: (
        *("images", "groups", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"),
        # where in the image the first tap of the first output lies, the image's extent, and the tile of it in local
        # memory: a ring of rows and columns of which `first` is the place of the tile's first
        *("origin_h", "origin_w", "image_h", "image_w", "ring_h", "ring_w", "first_h", "first_w", "pitch"),
        "fresh",  # operands (W, I, O from the lowest bit on) whose tiles are not those of the instruction before
        *("input_bits", "input_signed", "input_zero", "weight_bits", "weight_signed", "weight_zero"),
        *("output_zero", "low", "high"),
        *("a_multiplier", "b_multiplier", "shift", "a_zero", "b_zero"),
        "skip",  # bytes from the line of an input to its first channel
        "spaced",  # 1: each row and column of the image has a place in the ring, whether a tap touches it or not
        # types of operands and results of `vec`, `lut` and `row` (TYPES), 0 for codes of 8 bits with the signs above;
        # element i of an operand is its (i / repeat) mod period, 0 for i itself; a table's length and first number
        *("a_type", "b_type", "output_type", "a_repeat", "a_period", "b_repeat", "b_period", "entries", "first"),
    ),
    Queue.STORE: (
        *(f"{n}{i}" for i in range(4) for n in ("base", "row", "pixel", "local_row", "local_pixel")),
        *("table", "bits", "signed", "zero", "low", "high"),
        *(
            "residual",
            "residual_signed",
            "a_multiplier",
            "b_multiplier",
            "shift",
            "a_zero",
            "b_zero",
            "add_zero",
            "add_low",
            "add_high",
        ),
        # 1: what a stream is stored to, or the residual, lies in local memory, as do base and steps from row to row
        *(f"near{i}" for i in range(4)),
        "residual_near",
    ),
}
"""Registers that `cfg` writes, by queue; the field `register` counts them."""


CONTROL = frozenset({"sync", "cfg", "loop", "end"})
"""Instructions that take no time; a field says which queue runs them."""

_RANGES = {name: {f.name: f.range for f in opcode.fields} for name, opcode in OPCODES.items()}


@dataclass(frozen=True)
class Instruction:
    """One instruction: the numbers of its fields by name, and its tokens.

    Raises IG0580 for a field that is missing, unknown or out of range.
    """

    op: str
    fields: dict[str, int] = field(default_factory=dict)
    wait_preceding: bool = False
    wait_following: bool = False
    send_preceding: bool = False
    send_following: bool = False

    def __post_init__(self) -> None:
        wanted = _RANGES.get(self.op)
        if wanted is None:
            raise error("IG0580", f"there is no instruction `{self.op}`", hint=f"one of {', '.join(OPCODES)}")
        if self.fields.keys() != wanted.keys():
            name = next(n for n in (*self.fields, *wanted) if (n in self.fields) != (n in wanted))
            what = "has no field" if name not in wanted else "lacks its field"
            raise error("IG0580", f"`{self.op}` {what} `{name}`", hint=f"its fields: {', '.join(wanted)}")
        for name, number in self.fields.items():
            low, high = wanted[name]
            if not low <= number <= high:
                raise error("IG0580", f"`{self.op}`: {name} = {number} does not fit", label=f"from {low} to {high}")
        if self.op in CONTROL and self.fields["queue"] >= len(Queue):
            raise error("IG0580", f"`{self.op}`: there is no queue {self.fields['queue']}", hint="0 to 2")

    @property
    def queue(self) -> Queue:
        """The queue in which it runs."""
        own = OPCODES[self.op].queue
        return Queue(self.fields["queue"]) if own is None else own

    def __getitem__(self, name: str) -> int:
        return self.fields[name]


def encode(instructions: Any) -> bytes:
    """The bytes of a program, sixteen for each instruction."""
    out = bytearray()
    for one in instructions:
        opcode = OPCODES[one.op]
        word, at = opcode.number, _OPCODE_BITS
        for token in TOKENS:
            word |= getattr(one, token) << at
            at += 1
        for f in opcode.fields:
            word |= (one.fields[f.name] & (1 << f.bits) - 1) << at
            at += f.bits
        out += word.to_bytes(BYTES, "little")
    return bytes(out)


def decode(data: bytes) -> list[Instruction]:
    """The instructions of a program; IG0581 with the offset for bytes that are none."""
    if len(data) % BYTES:
        raise error("IG0581", f"a program of {len(data)} bytes is cut off", hint=f"an instruction has {BYTES} bytes")
    return [_decoded(int.from_bytes(data[i : i + BYTES], "little"), i) for i in range(0, len(data), BYTES)]


def _decoded(word: int, offset: int) -> Instruction:
    opcode = _BY_NUMBER.get(word & (1 << _OPCODE_BITS) - 1)
    if opcode is None:
        raise error("IG0581", f"no instruction at byte {offset} of the program", label=f"opcode {word & 31}")
    word >>= _OPCODE_BITS
    tokens = {}
    for token in TOKENS:
        tokens[token] = bool(word & 1)
        word >>= 1
    fields = {}
    for f in opcode.fields:
        number = word & (1 << f.bits) - 1
        fields[f.name] = number - (1 << f.bits) if f.signed and number >> f.bits - 1 else number
        word >>= f.bits
    if word:
        raise error("IG0581", f"`{opcode.name}` at byte {offset} of the program has bits that no field owns")
    return Instruction(opcode.name, fields, **tokens)
