"""What a target runs, as a table: patterns of op names with conditions, all of it data.

    TABLE = Legality(
        Case("math.*", elems=("f32", "f16")),
        Case("math.einsum", refuse="write it as matrix products"),
        Case("nn.conv", elems=("f32",), ranks=(4,), attrs={"g": (1,)}),
        Case("shape.*", static=True),
    )
    TABLE.explain(node)     # "" or why not

The last case whose pattern fits an op decides: general cases first, exceptions after them. An op that no case names is
not legal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .graph import Node, Value
from .types import Tensor

__all__ = ["Case", "Legality"]


@dataclass(frozen=True)
class Case:
    """What is legal of the ops whose names fit `ops` (* and ? are wild). An empty condition allows everything.

    `elems` are the element types of all operands and results (a quantised type counts as the one it is stored in),
    `ranks` the numbers of axes of the first result, `attrs` the values that attributes may have; `static` asks for
    known extents, `refuse` is the reason why none is legal.
    """

    ops: str
    elems: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    attrs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    static: bool = False
    refuse: str = ""

    def explain(self, node: Node) -> str:
        """Why the node is not legal; empty when it is."""
        if self.refuse:
            return self.refuse
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        for v in values:
            name = _stored(v)
            if self.elems and name not in self.elems:
                return f"{name} is none of {', '.join(self.elems)}"
            if self.static and not v.type.static:
                return f"{v.type} has no fixed shape"
        rank = len(node.outputs[0].type.shape)
        if self.ranks and rank not in self.ranks:
            return f"a result of {rank} axes, not {' or '.join(map(str, self.ranks))}"
        for name, allowed in self.attrs.items():
            value = node.attr(name)
            if value not in allowed:
                return f"{name} = {value} is none of {', '.join(map(str, allowed))}"
        return ""


def _stored(v: Value) -> str:
    elem = v.type.elem if isinstance(v.type, Tensor) else v.type
    return str(getattr(elem, "store", elem))


class Legality:
    """The table. `explain` is what `Target.legal` answers."""

    def __init__(self, *cases: Case) -> None:
        self.cases = cases
        self._by_op: dict[str, Case | None] = {}

    def case(self, op: str) -> Case | None:
        """The case that decides about an op, if any."""
        if op not in self._by_op:
            found = [c for c in self.cases if fnmatchcase(op, c.ops)]
            self._by_op[op] = found[-1] if found else None
        return self._by_op[op]

    def explain(self, node: Node) -> str:
        """Empty when the target runs the node, else the reason why not."""
        found = self.case(node.op.name)
        return f"there is no `{node.op.name}`" if found is None else found.explain(node)
