"""Nodes as torch functions: the ops that networks between quantised layers are made of, for gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...ir.graph import Node, Value
from .plan import Plan

__all__ = ["apply", "forward", "supported"]

SUPPORTED = frozenset(
    {
        "nn.conv", "nn.matmul", "nn.avg_pool", "nn.max_pool", "nn.softmax",
        "math.add", "math.sub", "math.mul", "math.div", "math.relu", "math.minimum", "math.maximum", "math.reduce_mean",
        "math.sigmoid", "math.erf",
        "shape.reshape", "shape.transpose", "shape.squeeze", "shape.unsqueeze", "shape.slice", "shape.pad",
        "shape.concat",
    }
)  # fmt: skip


def supported(node: Node) -> bool:
    """Whether `apply` knows the node."""
    if node.op.name == "nn.conv":
        return len(node.output.type.shape) == 4
    if node.op.name == "shape.slice":
        return all(s > 0 for s in node.attr("steps") or ())
    if node.op.name in ("nn.avg_pool", "nn.max_pool"):
        plain = not node.attr("pads") or not any(node.attr("pads"))
        return plain and not node.attr("ceil") and len(node.output.type.shape) == 4
    return node.op.name in SUPPORTED


def apply(node: Node, x: Sequence[Any]) -> Any:
    """The result of a node for torch tensors; the first axis is the batch, whatever its extent."""
    import torch
    from torch.nn import functional as f

    name, attr = node.op.name, node.attr
    if name == "nn.conv":
        return _conv(node, x)
    if name == "nn.matmul":
        return x[0] @ x[1]
    if name in ("math.add", "math.sub", "math.mul", "math.div", "math.minimum", "math.maximum"):
        return getattr(torch, name.partition(".")[2])(x[0], x[1])
    if name in ("math.relu", "math.sigmoid", "math.erf"):
        return getattr(torch, name.partition(".")[2])(x[0])
    if name == "math.reduce_mean":
        axes = attr("axes") or tuple(range(x[0].ndim))
        return x[0].mean(dim=axes, keepdim=bool(attr("keepdims")))
    if name == "shape.reshape":
        rest = [int(d) if isinstance(d, int) else -1 for d in node.output.type.shape[1:]]
        return x[0].reshape(x[0].shape[0], *rest)
    if name == "shape.transpose":
        return x[0].permute(*attr("perm"))
    if name == "shape.slice":
        return _slice(node, x[0])
    if name == "shape.pad":
        rank = x[0].ndim
        pads = attr("pads")
        return f.pad(x[0], [p for i in reversed(range(rank)) for p in (pads[i], pads[i + rank])])
    if name == "shape.concat":
        return torch.cat(list(x), dim=attr("axis"))
    if name in ("shape.squeeze", "shape.unsqueeze"):
        rest = [int(d) if isinstance(d, int) else -1 for d in node.output.type.shape[1:]]
        return x[0].reshape(x[0].shape[0], *rest)
    if name in ("nn.avg_pool", "nn.max_pool"):
        pool = f.avg_pool2d if name == "nn.avg_pool" else f.max_pool2d
        return pool(x[0], attr("kernel"), attr("strides") or 1)
    if name == "nn.softmax":
        return torch.softmax(x[0], dim=attr("axis"))
    raise AssertionError(f"`supported` says no to {name}")


def forward(
    nodes: Iterable[Node],
    plan: Plan,
    values: Mapping[Value | None, Any],
    constants: Mapping[Value | None, Any],
    weights: Mapping[Node, Any],
    biases: Mapping[Node, Any],
    encode: Callable[[Value, Any], Any],
) -> dict[Value | None, Any]:
    """The values of `nodes`, before codes, with other weights and biases. `encode` rounds one, or gives None."""
    raw = dict(values)
    coded = {v: encode(v, x) for v, x in values.items() if v is not None}
    for node in nodes:
        operands = []
        for i, v in enumerate(node.inputs):
            code = coded.get(v) if v is not None and (node, i) in plan.coded else None
            operands.append(code if code is not None else raw[v] if v in raw else constants.get(v))
        if node in weights:
            operands[1] = weights[node]
        if node in biases and node in plan.added:
            operands[1 if node.inputs[1] in constants else 0] = biases[node]
        elif node in biases:
            operands[2:] = [biases[node]]
        raw[node.output] = y = apply(node, operands)
        coded[node.output] = encode(node.output, y)
    return raw


def _conv(node: Node, x: Sequence[Any]) -> Any:
    from torch.nn import functional as f

    pads = tuple(node.attr("pads") or (0, 0, 0, 0))
    y, same = x[0], pads[:2] == pads[2:]
    if not same:
        y = f.pad(y, (pads[1], pads[3], pads[0], pads[2]))
    bias = x[2] if len(x) > 2 else None
    return f.conv2d(
        y, x[1], bias, stride=node.attr("strides") or 1, padding=pads[:2] if same else 0,
        dilation=node.attr("dilations") or 1, groups=int(node.attr("g")),
    )  # fmt: skip


def _slice(node: Node, x: Any) -> Any:
    pick = [slice(None)] * x.ndim
    starts, stops, steps = node.attr("starts"), node.attr("stops"), node.attr("steps")
    for i, axis in enumerate(node.attr("axes") if node.attr("axes") is not None else range(len(starts))):
        pick[axis] = slice(starts[i], stops[i], steps[i] if steps else 1)
    return x[tuple(pick)]
