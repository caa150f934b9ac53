"""`tile`: decisions about execution that the compiler takes in the IR instead of leaving them to a backend."""

from __future__ import annotations

from typing import Any

from ..diagnostics import error
from ..op import Body, op


def _as_body(types: Any, attrs: Any, results: Any) -> None:
    """Operands and results have the types of the body's inputs and outputs."""
    body = attrs["body"]
    if tuple(types) != tuple(v.type for v in body.inputs):
        raise error("IG0209", f"`tile.kernel` operands do not have the types of its body's {len(body.inputs)} inputs")
    if tuple(results) != tuple(v.type for v in body.outputs):
        raise error("IG0209", f"`tile.kernel` results do not have the types of its body's {len(body.outputs)} outputs")


@op("tile.kernel", "xs: T[*S]... -> any[?]", declared=_as_body)
def kernel(*xs, body: Body):
    """A fusion group: `body` becomes one kernel of the backend. Means what its body means."""
    from ..interpret import evaluate

    return evaluate(body, xs)
