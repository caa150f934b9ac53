"""Which element types the values of a pattern may have: the letters of the signatures, unified over the pattern."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ...rewrite.language import Apply, AttrName, Expr, Literal, Pattern, Variable
from ...types import BOOL, Affine, Bool, Elem, Float, Int, Pow2, Sign, elem_named

__all__ = ["EXACT_FLOATS", "REAL_FLOATS", "Elements", "attr_slot", "letter_slot", "value_slot"]

Slot = Hashable

_KINDS: dict[str, tuple[type, ...]] = {
    "T": (Float, Int, Bool, Affine, Sign, Pow2),
    "F": (Float,),
    "I": (Int,),
    "N": (Float, Int),
    "Q": (Affine, Sign, Pow2),
    "B": (Bool,),
}
_NUMBERS = (Float, Int)
_PLAIN = (Float, Int, Bool)

# What an attribute that names an element type may say; None: it follows from the operand (a hook sets it).
_ATTRIBUTES: dict[tuple[str, str], tuple[type, ...] | None] = {
    ("math.cast", "to"): _PLAIN,
    ("math.bitcast", "to"): None,
    ("quant.quantize", "to"): (Affine, Sign, Pow2),
    ("quant.dequantize", "to"): (Float,),
    ("quant.store", "to"): None,
    ("quant.load", "to"): None,
    ("shape.iota", "elem"): _NUMBERS,
}

F32, F64, F16, BF16 = (Float(n) for n in ("f32", "f64", "f16", "bf16"))
EXACT_FLOATS: tuple[Elem, ...] = (F32, F64, F32, F16, BF16)
REAL_FLOATS: tuple[Elem, ...] = (F64, F32, F64, F16)
_OTHERS: dict[type, tuple[Elem, ...]] = {
    Int: tuple(Int(n) for n in ("i32", "i8", "u8", "i64", "i16")),
    Bool: (BOOL,),
    Affine: (Affine(Int("i8"), F32, 0.25), Affine(Int("u8"), F32, 0.5, 128)),
    Sign: (Sign(F32, 0.5),),
    Pow2: (Pow2(4, F32, 3),),
}
_WEIGHTS: dict[type, int] = {Float: 4, Int: 3, Bool: 1, Affine: 1, Sign: 0, Pow2: 0}

_CONDITIONS: dict[str, tuple[type, ...]] = {
    "is_float": (Float,),
    "is_int": (Int,),
    "is_bool": (Bool,),
    "is_quantised": (Affine, Sign, Pow2),
}


def letter_slot(p: Apply, letter: str) -> Slot:
    return ("letter", id(p), letter)


def value_slot(p: Pattern) -> Slot:
    if isinstance(p, Variable) and p.name != "_":
        return ("value", p.name)
    return ("result", id(p), p.result) if isinstance(p, Apply) else ("own", id(p))


def attr_slot(p: Apply, name: str) -> Slot:
    found = dict(p.attrs).get(name)
    return ("attr", found.name) if isinstance(found, AttrName) and found.name != "_" else ("attr", id(p), name)


class Elements:
    """The classes of values that share an element type, and what each may be."""

    def __init__(self, left: Apply, conditions: Sequence[Expr] = ()) -> None:
        self.parent: dict[Slot, Slot] = {}
        self.classes: dict[Slot, tuple[type, ...]] = {}
        self.fixed: dict[Slot, Elem] = {}
        self._visit(left)
        for c in conditions:
            self._condition(c)

    # --- unification --------------------------------------------------------------------------------------------------

    def find(self, slot: Slot) -> Slot:
        while (above := self.parent.get(slot, slot)) != slot:
            slot = above
        return slot

    def unite(self, a: Slot, b: Slot) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        self.parent[a] = b
        if a in self.classes:
            self.restrict(b, self.classes[a])
        if a in self.fixed:
            self.fixed.setdefault(b, self.fixed[a])

    def restrict(self, slot: Slot, classes: Sequence[type]) -> None:
        root = self.find(slot)
        have = self.classes.get(root)
        self.classes[root] = tuple(c for c in (classes if have is None else have) if c in classes)

    def fix(self, slot: Slot, elem: Elem) -> None:
        root = self.find(slot)
        self.fixed[root] = elem
        self.restrict(root, (type(elem),))

    # --- the pattern --------------------------------------------------------------------------------------------------

    def _visit(self, p: Apply) -> None:
        signature = p.op.signature
        for i, a in enumerate(p.args):
            operand = signature.operands[min(i, len(signature.operands) - 1)]
            slot = value_slot(a)
            if operand.elem[0] in _KINDS:
                letter = letter_slot(p, operand.elem)
                self.restrict(letter, _KINDS[operand.elem[0]])
                self.unite(slot, letter)
            else:
                self.fix(slot, elem_named(operand.elem))
            if isinstance(a, Literal):
                self.restrict(slot, _NUMBERS if a.value == int_or_none(a.value) else (Float,))
            if isinstance(a, Apply):
                self._visit(a)
        if p.variadic:
            last = signature.operands[-1].elem
            self.restrict(letter_slot(p, last), _KINDS.get(last[0], _PLAIN))
        if p.op.declared is None:
            self._result(p, signature.operands, signature.results[0 if signature.results[0].repeated else p.result])

    def _result(self, p: Apply, operands: Sequence[Any], result: Any) -> None:
        slot = value_slot(p)
        if any(o.elem == result.elem and o.elem[0] in _KINDS for o in operands):
            self.unite(slot, letter_slot(p, result.elem))
        elif result.elem in p.op.attrs:
            classes = _ATTRIBUTES.get((p.op.name, result.elem), _PLAIN)
            if classes is not None:
                self.restrict(slot, classes)
                self.unite(slot, attr_slot(p, result.elem))
        else:
            self.fix(slot, elem_named(result.elem))

    def _condition(self, c: Expr) -> None:
        """`is_float(x)` and its like as conditions."""
        if c.kind == "call" and c.args[0] in _CONDITIONS and len(c.args[1]) == 1 and c.args[1][0].kind == "name":
            slot = ("value", c.args[1][0].args[0])
            if slot in self.parent or slot in self.classes:
                self.restrict(slot, _CONDITIONS[c.args[0]])
        elif c.kind == "and_":
            for part in c.args:
                self._condition(part)

    # --- drawing ------------------------------------------------------------------------------------------------------

    def choices(self, slot: Slot, floats: Sequence[Elem]) -> tuple[Elem, ...]:
        """What the value may be, the usual ones several times; empty when nothing fits."""
        root = self.find(slot)
        classes = self.classes.get(root, _PLAIN)
        if root in self.fixed:
            return (self.fixed[root],) if type(self.fixed[root]) in classes else ()
        found: list[Elem] = []
        for c in classes:
            pool = tuple(floats) if c is Float else _OTHERS[c]
            found += pool[: max(1, _WEIGHTS[c])] if _WEIGHTS[c] or len(classes) < 4 else ()
            found += pool[max(1, _WEIGHTS[c]) :] if c in (Float, Int) else ()
        return tuple(found)


def int_or_none(number: float) -> float | None:
    return number if number == number and abs(number) < 128 and number == int(number) else None
