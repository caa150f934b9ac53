"""What a pass is: a function on graphs, its options, and what it promises.

    @dataclass(frozen=True)
    class Scale:
        by: float = option(2.0, "the factor")

    @define_pass("scale", contract="real", options=Scale)
    def scale(graph: Graph, options: Scale, context: Context) -> Graph:
        \"\"\"One line that `intaglio passes` prints. ...\"\"\"

The function may leave out the parameters `options` and `context` if it has no use for them. It returns a new graph; the
pipeline verifies it. Contracts, from the strongest promise to the weakest:

    exact     the same bits for every input
    real      equal over the reals: rounding may differ
    bounded   the error stays within a bound that the pass books
    lossy     the error is measured on calibration data and charged to the ledger
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..ir.graph import Graph
from ..ir.target import Target
from .options import NoOptions, keywords

__all__ = ["CONTRACTS", "Claim", "Context", "Contract", "Pass", "Stage", "define_pass"]

Contract = Literal["exact", "real", "bounded", "lossy"]
CONTRACTS: tuple[Contract, ...] = get_args(Contract)

Range = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Claim:
    """A loss that a pass admits to: at most `loss`, in terms of `metric`."""

    metric: str
    loss: float
    note: str = ""


class Stage(str):
    """What a pass is at, told to those who also hear of the steps of a pipeline."""

    __slots__ = ()


@dataclass
class Context:
    """What a pass may know beside the graph.

    `target` answers what is legal and what it costs; `dims` are the ranges of symbolic dimensions; `calibration` holds
    batches of inputs by name, and is empty when the user gave none.

    `observe` is told what a pass is at, through `stage`: those that take long show their progress.

    What a pass did goes to `claims` (through `book`) and `notes` (through `note`): both end up in the ledger.
    """

    target: Target | None = None
    dims: Mapping[str, Range] = field(default_factory=dict)
    calibration: Sequence[Mapping[str, Any]] = ()
    observe: Callable[[str], None] | None = None
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def book(self, metric: str, loss: float, note: str = "") -> None:
        """Charge a loss to the ledger; several of one metric add up."""
        self.claims.append(Claim(metric, loss, note))

    def stage(self, what: str) -> None:
        """Say what the pass is at."""
        if self.observe is not None:
            self.observe(Stage(what))

    def note(self, text: str) -> None:
        """Say in the ledger what was done."""
        self.notes.append(text)


@dataclass(frozen=True)
class Pass:
    """A named rewrite of graphs. Calling it runs it: `fold(graph, limit=100)`."""

    name: str
    run: Callable[[Graph, Any, Context], Graph]
    options: type
    contract: Contract
    doc: str

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.doc.partition("\n")[0]

    def __call__(self, graph: Graph, context: Context | None = None, **options: Any) -> Graph:
        made = keywords(self.options, options, owner=f"pass `{self.name}`")
        return self.run(graph, made, context or Context())


def define_pass(name: str, *, contract: Contract, options: type = NoOptions) -> Callable[[Callable[..., Graph]], Pass]:
    """Make a `Pass` of a function; see the module. The author's mistakes raise ValueError at once."""
    if contract not in CONTRACTS:
        raise ValueError(f"pass {name!r}: contract is one of {', '.join(CONTRACTS)}, not {contract!r}")

    def define(function: Callable[..., Graph]) -> Pass:
        wanted = list(inspect.signature(function).parameters)[1:]
        if not set(wanted) <= {"options", "context"}:
            raise ValueError(f"pass {name!r}: its function takes (graph, options, context), not {wanted}")
        doc = inspect.getdoc(function)
        if not doc:
            raise ValueError(f"pass {name!r} has no docstring")

        def run(graph: Graph, made: Any, context: Context) -> Graph:
            given = {"options": made, "context": context}
            return function(graph, **{k: given[k] for k in wanted})

        return Pass(name, run, options, contract, doc)

    return define
