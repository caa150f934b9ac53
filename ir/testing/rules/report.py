"""What a check found: a line per rule, and the smallest example that shows what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph import Graph
from ...rewrite import Rule

__all__ = ["Counterexample", "Report", "table"]


@dataclass(frozen=True)
class Counterexample:
    """A graph on which a rule (or a pass) breaks its promise, as small as could be found."""

    title: str
    what: str
    before: Graph
    inputs: Sequence[npt.NDArray[Any]]
    after: Graph | None = None
    results: tuple[Sequence[Any], Sequence[Any]] | None = None

    @property
    def nodes(self) -> int:
        """Nodes of the graph, constants not counted."""
        return sum(n.op.name != "const" for n in self.before.nodes)

    def __str__(self) -> str:
        out = [f"{self.title}: {self.what}", "", str(self.before)]
        shown = [(f"%{v.name}", x) for v, x in zip(self.before.inputs, self.inputs, strict=True)]
        large = [c for n in self.before.nodes if (c := n.constant) is not None and not c.inline]
        shown += [(f'@"{c.name or f"constant{i}"}"', c.array) for i, c in enumerate(large)]
        out += [_line(f"{name} = ", x) for name, x in shown]
        if self.after is not None:
            out += ["", "becomes", "", str(self.after)]
        if self.results is not None:
            for name, a, b in zip(self.before.output_names, *self.results, strict=True):
                out += ["", _line(f"{name} was ", a), _line(f"{' ' * len(name)} now ", b)]
        return "\n".join(out)


def _line(head: str, x: npt.NDArray[Any]) -> str:
    return head + np.array2string(x, separator=", ", threshold=40, max_line_width=110, prefix=head)


@dataclass
class Report:
    """How a rule or a pass did. `examples` were checked, out of `attempts` drawn."""

    name: str
    contract: str
    rule: Rule | None = None
    status: str = "ok"  # ok, wrong, cannot instantiate
    examples: int = 0
    attempts: int = 0
    seconds: float = 0.0
    message: str = ""
    counterexample: Counterexample | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def rate(self) -> float:
        """Examples per second of processor time."""
        return self.examples / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        line = f"{self.name}: {self.status}, {self.examples} examples of {self.attempts} drawn"
        return "\n".join([line, *([self.message] if self.message else []), *self.notes])


def table(reports: Sequence[Report]) -> str:
    """A line per rule."""
    width = max([len(r.name) for r in reports] + [4])
    wide = max([len(r.contract) for r in reports] + [8])
    out = [f"{'rule':{width}}  {'contract':{wide}}  {'fired':>6}  {'drawn':>6}  {'per s':>6}  status"]
    for r in reports:
        out.append(f"{r.name:{width}}  {r.contract:{wide}}  {r.examples:6}  {r.attempts:6}  {r.rate:6.0f}  {r.status}")
    return "\n".join(out)
