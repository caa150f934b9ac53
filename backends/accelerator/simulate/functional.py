"""What a program computes, bit for bit, by the integer rules of `ir.ops.quant_integer`.

Memories are arrays of bytes; an instruction that reaches outside of one raises IG0583 before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....ir.diagnostics import error
from ....ir.ops.quant_integer import rescaled
from ..emit.vector import POOLS
from ..isa.compression import decompress, format_of
from ..isa.instructions import LINE, Instruction, Queue
from .queues import run
from .vectors import elementwise, looked_up, over_rows

__all__ = ["Memory", "simulate"]

Registers = Mapping[str, int]
MOST = 1 << 28
"""Elements that one instruction may look at: none of ours comes near."""


class Memory:
    """Bytes with checked windows."""

    def __init__(self, name: str, data: Any) -> None:
        self.name, self.data = name, data

    def window(self, start: int, shape: Sequence[int], strides: Sequence[int], dtype: Any = np.uint8) -> Any:
        """A view of `shape` elements, `strides` in bytes; none is outside, whatever the numbers are."""
        size = np.dtype(dtype).itemsize
        if any(n < 0 for n in shape):
            raise error("IG0583", f"{self.name}: a window of {list(shape)} elements")
        if 0 in shape:
            return np.zeros(shape, dtype)
        reach = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
        low = start + sum(r for r in reach if r < 0)
        high = start + sum(r for r in reach if r > 0) + size
        if low < 0 or high > len(self.data):
            raise error("IG0583", f"bytes {low} to {high} of {self.name}, which has {len(self.data)}")
        if start % size or any(s % size for s in strides):
            raise error("IG0583", f"{self.name}: byte {start} is no place for {np.dtype(dtype).name}")
        whole = self.data[start % size :]
        whole = whole[: len(whole) // size * size].view(dtype)
        return np.lib.stride_tricks.as_strided(whole[start // size :], shape, strides)

    def vector(self, start: int, count: int, dtype: Any = np.uint8) -> Any:
        return self.window(start, (count,), (np.dtype(dtype).itemsize,), dtype)


def simulate(program: Mapping[Queue, Sequence[Instruction]], dram: Any, local_bytes: int) -> None:
    """Run a program on `dram` (uint8, changed in place) and an empty local memory."""
    machine = _Machine(Memory("DRAM", dram), Memory("local memory", np.zeros(local_bytes, np.uint8)))
    run(program, {Queue.LOAD: machine.load, Queue.COMPUTE: machine.compute, Queue.STORE: machine.store})


class _Machine:
    def __init__(self, dram: Memory, local: Memory) -> None:
        self.dram, self.local = dram, local

    # --- moves --------------------------------------------------------------------------------------------------------

    def load(self, one: Instruction, r: Registers) -> None:
        s = one["stream"]
        start = r[f"base{s}"] + one["dram"]
        if one.op == "loadc":
            packed = self.dram.vector(start, one["packed"])
            codes = decompress(packed, format_of(r[f"format{s}"]), one["count"])
            self.local.vector(one["local"], one["count"])[:] = codes
            return
        source, target = self._pixels(one, r, start, one["bytes"])
        target[:] = source

    def store(self, one: Instruction, r: Registers) -> None:
        start = r[f"base{one['stream']}"] + one["dram"]
        if one.op == "store":
            target, source = self._pixels(one, r, start, one["bytes"], near=bool(r[f"near{one['stream']}"]))
            target[:] = source
            return
        self._requantize(one, r, start)

    def _pixels(self, one: Instruction, r: Registers, start: int, count: int, *, near: bool = False) -> tuple[Any, Any]:
        """The same pixels in DRAM (where they are `near`, elsewhere in local memory) and in local memory."""
        s, shape = one["stream"], (one["rows"], one["columns"], count)
        far = (self.local if near else self.dram).window(start, shape, (r[f"row{s}"], r[f"pixel{s}"], 1))
        return far, self.local.window(one["local"], shape, (r[f"local_row{s}"], r[f"local_pixel{s}"], 1))

    def _requantize(self, one: Instruction, r: Registers, start: int) -> None:
        s, shape = one["stream"], (one["rows"], one["columns"], one["count"])
        steps = (r[f"local_row{s}"], r[f"local_pixel{s}"], 4)
        sums = self.local.window(one["local"], shape, steps, np.int32)
        entries = self.local.window(r["table"] * LINE, (one["count"], 3), (16, 4), np.int32)
        multiplier, shift = entries[:, 1], entries[:, 2]
        if np.any((shift < 1) | (shift > 62)) or np.any(multiplier < 0):
            raise error("IG0583", "a table of requantisation with shifts outside of 1 to 62 or negative multipliers")
        _bits(r["bits"], 8, 16, 32)
        width = r["bits"] // 8
        if width > 1 and one["residual"]:
            raise error("IG0583", f"a residual of {r['bits']} bits")
        y = rescaled(sums + entries[:, 0], multiplier, shift) + r["zero"]
        y = np.clip(y, r["low"], r["high"])
        if one["residual"]:
            if not 1 <= r["shift"] <= 62:
                raise error("IG0583", f"a shift of {r['shift']}")
            holder = self.local if r["residual_near"] else self.dram
            other = holder.window(r["residual"] + one["dram"], shape, (r[f"row{s}"], r[f"pixel{s}"], 1))
            b = other.view(np.int8) if r["residual_signed"] else other
            left = (y - r["a_zero"]) * r["a_multiplier"] + (b.astype(np.int64) - r["b_zero"]) * r["b_multiplier"]
            y = np.clip(rescaled(left, 1, r["shift"]) + r["add_zero"], r["add_low"], r["add_high"])
        holder = self.local if r[f"near{s}"] else self.dram
        kind = np.dtype(f"u{width}")
        target = holder.window(start, shape, (r[f"row{s}"], r[f"pixel{s}"], width), kind)
        target[:] = (y & (1 << r["bits"]) - 1).astype(kind)

    # --- arithmetic ---------------------------------------------------------------------------------------------------

    def compute(self, one: Instruction, r: Registers) -> None:
        getattr(self, f"_{one.op}")(one, r)

    def _conv(self, one: Instruction, r: Registers) -> None:
        self._contract(one, r, r["groups"], one["k"], one["c"], one["p"], one["q"])

    def _dwconv(self, one: Instruction, r: Registers) -> None:
        self._contract(one, r, one["c"], 1, 1, one["p"], one["q"])

    def _gemm(self, one: Instruction, r: Registers) -> None:
        self._contract(one, r, r["groups"], one["n"], one["k"], one["m"], 1)

    def _counts(self, one: Instruction, r: Registers, *names: str) -> None:
        for name in (*names, "stride_h", "stride_w", "dilation_h", "dilation_w"):
            if not 1 <= r[name] <= 1 << 16:
                raise error("IG0583", f"`{one.op}` with {name} = {r[name]}")
        for name in ("k", "c", "p", "q", "m", "n"):
            if one.fields.get(name, 1) < 1:
                raise error("IG0583", f"`{one.op}` with {name} = 0")

    def _contract(self, one: Instruction, r: Registers, g: int, k: int, c: int, p: int, q: int) -> None:
        """sums[n, p, q, g, k] (+)= windows of the input [n, p, q, kernel, g, c] times w [g, k, kernel, c]."""
        n = r["images"]
        kernel = (r["kernel_h"], r["kernel_w"])
        self._counts(one, r, "images", "groups", "kernel_h", "kernel_w")
        x = self._window(one["input"] * LINE + r["skip"], r, n, g * c, p, q).reshape(n, p, q, *kernel, g, c)
        _bits(r["weight_bits"], 8, 4, 2)
        count = g * k * kernel[0] * kernel[1] * c
        data = self.local.vector(one["weights"] * LINE, -(-count * r["weight_bits"] // 8))
        w = unpack(data, r["weight_bits"], bool(r["weight_signed"]), count).astype(np.float64) - r["weight_zero"]
        w = w.reshape(g, k, *kernel, c)
        columns = x.transpose(5, 0, 1, 2, 3, 4, 6).reshape(g, n * p * q, -1)
        y = np.matmul(columns, w.reshape(g, k, -1).transpose(0, 2, 1))  # [g, npq, k]: exact, sums stay below 2**53
        y = y.reshape(g, n, p, q, k).transpose(1, 2, 3, 0, 4).astype(np.int64).astype(np.int32)
        sums = self.local.vector(one["sums"] * LINE, y.size, np.int32).reshape(y.shape)
        sums[:] = sums + y if one["more"] else y

    def _vec(self, one: Instruction, r: Registers) -> None:
        elementwise(one, r, self.local)

    def _lut(self, one: Instruction, r: Registers) -> None:
        looked_up(one, r, self.local)

    def _row(self, one: Instruction, r: Registers) -> None:
        over_rows(one, r, self.local)

    def _red(self, one: Instruction, r: Registers) -> None:
        if one["kind"] not in POOLS.values():
            raise error("IG0583", f"`red` has no kind {one['kind']}")
        self._counts(one, r, "images", "kernel_h", "kernel_w")
        of = (one["input"] * LINE, r, r["images"], one["c"], one["p"], one["q"])
        if one["kind"] == POOLS["sum"]:
            sums = self._window(*of).sum((3, 4))
            self.local.vector(one["output"] * LINE, sums.size, np.int32)[:] = sums.astype(np.int32).reshape(-1)
            return
        y = self._window(*of, -math.inf).max((3, 4)) + r["input_zero"]
        y = np.clip(y, *((-128, 127) if r["input_signed"] else (0, 255))).astype(np.int64)
        self.local.vector(one["output"] * LINE, y.size)[:] = (y & 0xFF).astype(np.uint8).reshape(-1)

    def _window(self, base: int, r: Registers, n: int, channels: int, p: int, q: int, outside: float = 0.0) -> Any:
        """[n, p, q, kernel_h, kernel_w, channels] minus the zero point, `outside` of the image; float64."""
        if min(r["ring_h"], r["ring_w"]) < 1 or max(r["ring_h"], r["ring_w"]) > 1 << 16:
            raise error("IG0583", f"a ring of {r['ring_h']} x {r['ring_w']}")
        if n * p * q * r["kernel_h"] * r["kernel_w"] * channels > MOST:
            raise error("IG0583", f"a window of more than {MOST} elements")
        rows, row_in = _places(r, "h", p)
        columns, column_in = _places(r, "w", q)
        pitch = r["pitch"]
        size = r["ring_h"] * r["ring_w"] * pitch
        tile = self.local.window(
            base,
            (n, r["ring_h"], r["ring_w"], channels),
            (size, r["ring_w"] * pitch, pitch, 1),
        )
        _bits(r["input_bits"], 8)
        if r["input_signed"]:
            tile = tile.view(np.int8)
        picked = tile[:, rows.reshape(-1)][:, :, columns.reshape(-1)].astype(np.float64) - r["input_zero"]
        picked = picked.reshape(n, *rows.shape, *columns.shape, channels)  # [n, p, kh, q, kw, channels]
        inside = row_in[:, :, None, None] & column_in[None, None]
        return np.where(inside[None, ..., None], picked, outside).transpose(0, 1, 3, 2, 4, 5)


def _places(r: Registers, axis: str, outputs: int) -> tuple[Any, Any]:
    """[outputs, taps]: the ring's row (column) of each tap, and whether it lies in the image."""
    at = np.arange(outputs)[:, None] * r[f"stride_{axis}"] + np.arange(r[f"kernel_{axis}"]) * r[f"dilation_{axis}"]
    at = at + r[f"origin_{axis}"]
    inside = (at >= 0) & (at < r[f"image_{axis}"])
    seen, rank = np.unique(at[inside], return_inverse=True)
    ring = r[f"ring_{axis}"]
    count = len(seen)
    if r["spaced"] and count:
        count, rank = int(seen[-1] - seen[0]) + 1, at[inside] - seen[0]
    if count > ring:
        raise error("IG0583", f"a tile of {count} rows or columns in a ring of {ring}")
    found = np.zeros(at.shape, np.int64)
    found[inside] = (rank + r[f"first_{axis}"]) % ring
    return found, inside


def unpack(data: Any, bits: int, signed: bool, count: int) -> Any:
    """The inverse of `emit.weights.pack`."""
    if bits == 8:
        return (data.view(np.int8) if signed else data)[:count]
    parts = (data[:, None] >> np.arange(8 // bits, dtype=np.uint8) * bits) & (1 << bits) - 1
    flat = parts.reshape(-1)[:count].astype(np.int16)
    return np.where(flat >> bits - 1, flat - (1 << bits), flat) if signed else flat


def _bits(found: int, *known: int) -> None:
    if found not in known:
        raise error("IG0583", f"numbers of {found} bits", hint=f"known: {', '.join(map(str, known))}")
