"""What this backend cannot compile, said so that the user can act on it."""

from __future__ import annotations

from ....ir.diagnostics import IntaglioError, error
from ....ir.dims import UNKNOWN, Extent, symbols
from ....ir.graph import Node
from ....ir.types import Tensor

__all__ = ["data_dependent", "refused", "static_only", "unbound"]


def _notes(node: Node | None) -> list[str]:
    return [f"from: {node.loc}"] if node is not None and node.loc is not None else []


def _label(node: Node) -> str:
    return ", ".join("absent" if v is None else str(v.type) for v in node.inputs)


def refused(node: Node, reason: str, hint: str = "") -> IntaglioError:
    """IG0502: the node cannot run on this target at all."""
    hint = hint or "run it with --target reference"
    message = f"`{node.op.name}` does not compile for cpu: {reason}"
    return error("IG0502", message, label=_label(node), notes=_notes(node), hint=hint)


def data_dependent(node: Node) -> IntaglioError:
    """IG0502: what only running the model can tell."""
    hint = "freeze its operands, or run it with --target reference"
    return refused(node, "it has a data-dependent shape", hint)


def static_only(node: Node, why: str) -> IntaglioError:
    """IG0503: the node wants known extents."""
    types = [v.type for v in (*node.inputs, *node.outputs) if v is not None]
    names = sorted(symbols(tuple(d for t in types if isinstance(t, Tensor) for d in t.shape)))
    advice = ", ".join(f"{n}=..." for n in names) or "N=..."
    message = f"`{node.op.name}` needs known extents: {why}"
    hint = f"fix them with the pass freeze{{{advice}}}"
    return error("IG0503", message, label=_label(node), notes=_notes(node), hint=hint)


def unbound(node: Node | None, extent: Extent) -> IntaglioError:
    """An extent that no operand of the kernel tells."""
    if extent is UNKNOWN:
        name = f"`{node.op.name}`" if node is not None else "a kernel"
        hint = "freeze the values that the shape depends on, or run it with --target reference"
        return error("IG0502", f"{name} has a data-dependent shape", notes=_notes(node), hint=hint)
    if node is not None:
        return static_only(node, f"extent {extent} does not follow from its operands' shapes")
    message = f"extent {extent} does not follow from the operands' shapes"
    return error("IG0503", message, hint="fix it with the pass freeze{...}")
