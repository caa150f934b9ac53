"""From representations to integer ops: codes of a given encoding, and real numbers where a node stays float."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...ir.edit import Editor
from ...ir.graph import Value, attributes
from ...ir.interpret import run_node
from ...ir.ops.quant_integer import fixed_point, rescaled
from ...ir.types import Affine, Float, Int, Tensor
from .values import LIMIT, Code, Function, Joined, Live, Mapped, Moved, Sums, Total, storage

__all__ = ["Encoding", "centred", "codes_of", "reals_of", "span_of", "unary"]

F32, I32 = Float("f32"), Int("i32")
HEADROOM = 1 << 30
"""Products of codes and multipliers, added up, stay below: room for the half that rounds."""

MOST_SHIFT, LEAST_SHIFT = 20, 8
"""Bits behind the binary point in a sum of two; with fewer than the least it would be too coarse."""


@dataclass(frozen=True)
class Encoding:
    """What codes are wanted: real / scale, rounded, + zero, in [low, high], stored as `to`."""

    scale: float
    zero: int
    low: int
    high: int
    to: Int

    @classmethod
    def of(cls, elem: Affine, code: Code) -> Encoding:
        """`code` has the parameters of `elem` as numbers."""
        return cls(code.scale, code.zero, code.low, code.high, storage(elem))

    def bounds(self, low: float, high: float) -> tuple[int, int]:
        """The codes between two real numbers."""
        return self._nearest(low), self._nearest(high)

    def _nearest(self, x: float) -> int:
        if not math.isfinite(x):
            return self.low if x < 0 else self.high
        moved = float(np.rint(np.float32(x) / np.float32(self.scale))) + self.zero
        return int(min(max(moved, self.low), self.high))


def codes_of(editor: Editor, real: Live, want: Encoding) -> Code | None:
    """The codes of a real tensor; None where a sum of two would be too coarse or could overflow."""
    if isinstance(real, Joined):
        parts = [codes_of(editor, part, want) for part in real.parts]
        known = [p for p in parts if p is not None]
        if len(known) < len(parts):
            return None
        made = editor.emit("shape.concat", *[p.raw for p in known], axis=real.axis)
        return Code(made, want.scale, want.zero, min(p.low for p in known), max(p.high for p in known))
    if isinstance(real, Moved):
        code = codes_of(editor, real.source, want)
        return None if code is None else replace(code, raw=real.move(code.raw))
    if isinstance(real, Sums):
        return _requantized(editor, real, want)
    if isinstance(real, Total):
        return _total(editor, real, want)
    if isinstance(real, Function):
        return _function(editor, real, want)
    code = real if isinstance(real, Code) else real.code
    values = real.reals() if isinstance(real, Code) else real.values
    return _looked_up(editor, code, values, want)


def _requantized(editor: Editor, sums: Sums, want: Encoding) -> Code | None:
    if not np.all(sums.largest < LIMIT):
        return None
    low, high = want.bounds(sums.low, sums.high)
    multiplier, shift = fixed_point(np.asarray(sums.scale, np.float64) / want.scale)
    if np.ndim(multiplier) and np.all(multiplier == multiplier[0]) and np.all(shift == shift[0]):
        multiplier, shift = multiplier[0], shift[0]
    made = _emit(
        editor,
        "quant.requantize",
        [raw_of(editor, sums), editor.constant(multiplier), editor.constant(shift)],
        want,
        low,
        high,
        axis=1 if np.ndim(multiplier) == 0 or sums.axis is None else sums.axis,
    )
    # what does not become 0 is at least half a step, and at most doubled by rounding
    total = None if sums.total is None or low > want.zero else 2.001 * sums.total * float(sums.scale) / want.scale
    return Code(made, want.scale, want.zero, low, high, total)


def raw_of(editor: Editor, sums: Sums) -> Value:
    """The int32 sums, bias included."""
    bias = sums.integers
    return sums.emit(None if not np.any(bias) else bias.astype(np.int32))


def _emit(editor: Editor, op: str, operands: list[Value], want: Encoding, low: int, high: int, **attrs: Any) -> Value:
    least, most = want.to.range
    return editor.emit(
        op,
        *operands,
        to=want.to,
        zero=want.zero,
        low=None if low == least else low,
        high=None if high == most else high,
        **attrs,
    )


def _total(editor: Editor, total: Total, want: Encoding) -> Code | None:
    left, right = (_side(editor, side, want.scale) for side in (total.left, total.right))
    if left is None or right is None:
        return None
    span = sum(s.span * s.scale / want.scale for s in (left, right))
    shift = min(MOST_SHIFT, math.floor(math.log2(HEADROOM / max(span, 1.0))))
    if shift < LEAST_SHIFT:
        return None
    low, high = want.bounds(total.low, total.high)
    a, b = (round(s.scale / want.scale * 2.0**shift) for s in (left, right))
    made = _emit(
        editor,
        "quant.add",
        [left.raw, right.raw],
        want,
        low,
        high,
        a_multiplier=a,
        b_multiplier=b,
        shift=shift,
        a_zero=left.zero,
        b_zero=right.zero,
    )
    return Code(made, want.scale, want.zero, low, high)


def _side(editor: Editor, real: Code | Sums | Total, scale: float) -> Code | None:
    """A summand as codes: itself, or i32 with some bits more than the result will have."""
    if isinstance(real, Code):
        return real
    span = _span(real) / scale
    if not math.isfinite(span):
        return None
    bits = min(12, math.floor(math.log2(HEADROOM / max(span, 1.0))) - LEAST_SHIFT)
    if bits < 2:
        return None
    edge = math.ceil(span * 2.0**bits) + 1
    fine = Encoding(scale / 2.0**bits, 0, -edge, edge, I32)
    return codes_of(editor, real, fine)


def _span(real: Code | Sums | Total) -> float:
    """The largest magnitude of a real tensor."""
    if isinstance(real, Code):
        return real.span * real.scale
    if isinstance(real, Sums):
        most = float(np.max(np.asarray(real.scale, np.float64) * real.largest, initial=0.0))
    else:
        most = _span(real.left) + _span(real.right)
    if math.isfinite(real.low) and math.isfinite(real.high):
        return min(most, max(abs(real.low), abs(real.high)))
    return most


span_of = _span

ENTRIES = 1 << 12
"""Of the table of a function of sums: an error of a sixteenth of a step where the function is no steeper than 1."""


def _function(editor: Editor, real: Function, want: Encoding) -> Code | None:
    """The codes of a function of sums: a table of as fine a code of these as the function needs.

    The table spans what is between the sums for which the result no longer changes, at either end.
    """
    found = function_range(real, want)
    if found is None:
        return None
    low, high = found
    step = (high - low) / (ENTRIES - 1)
    first = -ENTRIES // 2
    fine = Encoding(step, first - round(low / step), first, first + ENTRIES - 1, Int("i16"))
    index = codes_of(editor, real.source, fine)
    if index is None:
        return None
    raws = np.arange(first, first + ENTRIES)
    table = _rounded(real.of(((raws - fine.zero) * step).astype(np.float32)), want)
    made = editor.emit("quant.table", index.raw, editor.constant(table.astype(want.to.dtype)), first=first)
    return Code(made, want.scale, want.zero, int(table.min()), int(table.max()))


def function_range(real: Function, want: Encoding) -> tuple[float, float] | None:
    """The sums between which a function of them still changes its code."""
    span = _span(real.source)
    if not math.isfinite(span) or span == 0:
        return None
    low, high = max(-span, real.source.low), min(span, real.source.high)
    x = np.linspace(low, high, 1 << 16)
    codes = _rounded(real.of(x.astype(np.float32)), want)
    left, right = np.flatnonzero(codes != codes[0]), np.flatnonzero(codes != codes[-1])
    if left.size and right.size:
        low, high = x[max(int(left[0]) - 1, 0)], x[min(int(right[-1]) + 1, len(x) - 1)]
    return low, high


def _rounded(values: Any, want: Encoding) -> Any:
    """Real numbers as codes, as `quant.quantize` has it."""
    wide = np.rint(np.asarray(values, np.float32) / np.float32(want.scale)).astype(np.float64) + want.zero
    return np.clip(np.where(np.isnan(wide), want.low, wide), want.low, want.high).astype(np.int64)


def _looked_up(editor: Editor, code: Code, values: Any, want: Encoding) -> Code:
    """The codes of values[raw]: nothing, a clamp, or a table."""
    first, _ = code.raw.type.elem.range  # type: ignore[union-attr]
    table = _rounded(values, want)
    used = table[code.low - first : code.high - first + 1]
    raws = np.arange(code.low, code.high + 1)
    low, high = int(used.min()), int(used.max())
    raw = code.raw
    if want.to is raw.type.elem and np.array_equal(used, np.clip(raws, low, high)):  # type: ignore[union-attr]
        if low > code.low:
            raw = editor.emit("math.maximum", raw, editor.constant(np.array(low, want.to.dtype)))
        if high < code.high:
            raw = editor.emit("math.minimum", raw, editor.constant(np.array(high, want.to.dtype)))
        return Code(raw, want.scale, want.zero, low, high)
    made = _rescaled(editor, code, raws, used, want, low, high)
    if made is None:
        made = editor.emit("quant.table", raw, editor.constant(table.astype(want.to.dtype)))
    return Code(made, want.scale, want.zero, low, high)


def _rescaled(editor: Editor, code: Code, raws: Any, used: Any, want: Encoding, low: int, high: int) -> Value | None:
    """A change of scale by arithmetic, faster than tables in vectors, where that gives the same for every code."""
    multiplier, shift = fixed_point(code.scale / want.scale)
    if not np.array_equal(used, np.clip(rescaled(raws - code.zero, multiplier, shift) + want.zero, low, high)):
        return None
    wide = centred(editor, code)
    return _emit(
        editor, "quant.requantize", [wide, editor.constant(multiplier), editor.constant(shift)], want, low, high
    )


def centred(editor: Editor, code: Code) -> Value:
    """raw - zero in i32."""
    wide = editor.emit("math.cast", code.raw, to=I32)
    return editor.emit("math.sub", wide, editor.constant(np.int32(code.zero))) if code.zero else wide


# --- back to real numbers -------------------------------------------------------------------------------------------


def reals_of(editor: Editor, real: Live) -> Value:
    """The f32 numbers that a representation stands for."""
    assert not isinstance(real, (Function, Moved)), "it is computed by the ops that it is made of"
    if isinstance(real, Joined):
        return editor.emit("shape.concat", *[reals_of(editor, part) for part in real.parts], axis=real.axis)
    if isinstance(real, Code):
        raw = real.raw
        elem = Affine(raw.type.elem, F32, real.scale, real.zero)  # type: ignore[union-attr, arg-type]
        return editor.emit("quant.dequantize", editor.emit("quant.load", raw, to=elem), to=F32)
    if isinstance(real, Mapped):
        scale = _proportional(real)
        if scale is not None:
            return reals_of(editor, replace(real.code, scale=scale))
        return editor.emit("quant.table", real.code.raw, editor.constant(np.asarray(real.values, np.float32)))
    if isinstance(real, Sums):
        value = editor.emit("math.cast", raw_of(editor, real), to=F32)
        value = editor.emit("math.mul", value, editor.constant(_along(real, value).astype(np.float32)))
    else:
        value = editor.emit("math.add", reals_of(editor, real.left), reals_of(editor, real.right))
    if real.low > -math.inf:
        value = editor.emit("math.maximum", value, editor.constant(np.float32(real.low)))
    if real.high < math.inf:
        value = editor.emit("math.minimum", value, editor.constant(np.float32(real.high)))
    return value


def _proportional(real: Mapped) -> float | None:
    """The scale of which the values are multiples, to two units in the last place: a product is faster than a table."""
    first, last = real.code.raw.type.elem.range  # type: ignore[union-attr]
    steps = np.arange(first - real.code.zero, last - real.code.zero + 1).astype(np.float64)
    far = int(np.argmax(np.abs(steps)))
    scale = float(np.float32(real.values[far] / steps[far]))
    if not math.isfinite(scale) or scale <= 0:
        return None
    close = np.abs(real.values - steps * scale) <= np.abs(steps * scale) * 2.0**-22
    return scale if np.all(close) else None


def _along(sums: Sums, value: Value) -> Any:
    """The scale, shaped to broadcast against the sums."""
    scale = np.asarray(sums.scale, np.float64)
    if not scale.ndim:
        return scale
    rank = len(value.type.shape)
    after = rank - 1 - (sums.axis or 0) % rank
    return scale.reshape(-1, *[1] * after)


def unary(node: Any, values: list[Any]) -> Any:
    """The function of a node whose operands are 1-d arrays of every raw value, or constants of one element."""
    with np.errstate(all="ignore"):
        count = max(v.size for v in values)
        given = [v if v.size == count and v.ndim == 1 else v.reshape(()) for v in values]
        types = [Tensor(v.shape, x.type.elem) for v, x in zip(given, node.inputs, strict=True)]
        editor = Editor()
        inputs = [editor.input(f"x{i}", t) for i, t in enumerate(types)]
        made = editor.apply(node.op, inputs, attributes(dict(node.attrs)))
        return run_node(made, given, {})[0]
