"""An ONNX model as a torch module: the ops of the benchmark's models, for `torch.compile` to see through.

Run by worker.py in the peers' environment; it needs torch and onnx only. Shapes, axes and what is computed of them are
Python numbers, which are constants to `torch.compile`: the inputs' shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

__all__ = ["OnnxModule"]


class OnnxModule(torch.nn.Module):
    """Runs the graph of a file node by node; positional inputs, a tuple of outputs."""

    def __init__(self, path: str) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        self.weights: dict[str, Any] = {}
        for i, t in enumerate(graph.initializer):
            array = torch.from_numpy(numpy_helper.to_array(t).copy())
            if array.dtype == torch.int64 and array.ndim <= 1 and array.numel() < 16:
                self.weights[t.name] = array.tolist()  # shapes and axes are Python numbers
            else:
                self.register_buffer(f"w{i}", array)
                self.weights[t.name] = f"w{i}"
        self.inputs = [v.name for v in graph.input if v.name not in self.weights]
        self.outputs = [v.name for v in graph.output]
        self.nodes = [
            (OPS[n.op_type], list(n.input), list(n.output), {a.name: _attribute(a) for a in n.attribute})
            for n in graph.node
        ]

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        env: dict[str, Any] = {"": None, **dict(zip(self.inputs, inputs, strict=True))}
        for name, value in self.weights.items():
            env[name] = getattr(self, value) if isinstance(value, str) else value
        for run, operands, results, attrs in self.nodes:
            found = run(*(env[name] for name in operands), **attrs)
            env.update(zip(results, found if len(results) > 1 else [found], strict=True))
        return tuple(env[name] for name in self.outputs)


def _attribute(a: Any) -> Any:
    value = onnx.helper.get_attribute_value(a)
    return value.decode() if isinstance(value, bytes) else value


def _conv(x: Any, w: Any, b: Any = None, *, strides: Any = (1, 1), pads: Any = (0, 0, 0, 0), **attrs: Any) -> Any:
    options = {"dilation": attrs.get("dilations", (1, 1)), "groups": attrs.get("group", 1)}
    if attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        spans = [_same(x.shape[i + 2], w.shape[i + 2], strides[i], attrs["auto_pad"]) for i in (0, 1)]
        pads = (spans[0][0], spans[1][0], spans[0][1], spans[1][1])
    if pads[0] == pads[2] and pads[1] == pads[3]:
        return F.conv2d(x, w, b, strides, (pads[0], pads[1]), **options)
    return F.conv2d(F.pad(x, (pads[1], pads[3], pads[0], pads[2])), w, b, strides, 0, **options)


def _same(extent: int, kernel: int, stride: int, side: str) -> tuple[int, int]:
    total = max(0, (-(-extent // stride) - 1) * stride + kernel - extent)
    small = total // 2
    return (small, total - small) if side == "SAME_UPPER" else (total - small, small)


def _batch_norm(x: Any, scale: Any, bias: Any, mean: Any, var: Any, *, epsilon: float = 1e-5, **attrs: Any) -> Any:
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def _max_pool(x: Any, *, kernel_shape: Any, strides: Any = (1, 1), pads: Any = (0, 0, 0, 0), **attrs: Any) -> Any:
    x = F.pad(x, (pads[1], pads[3], pads[0], pads[2]), value=float("-inf")) if any(pads) else x
    return F.max_pool2d(x, kernel_shape, strides, ceil_mode=bool(attrs.get("ceil_mode", 0)))


def _gemm(a: Any, b: Any, c: Any = None, *, alpha: float = 1, beta: float = 1, transA: int = 0, transB: int = 0) -> Any:
    y = (a.T if transA else a) @ (b.T if transB else b)
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + (c if beta == 1 else c * beta)


def _pad(x: Any, pads: Any, value: Any = None, axes: Any = None, *, mode: str = "constant") -> Any:
    rank = x.ndim
    flat: list[int] = []
    for i in reversed(range(rank)):
        flat += [pads[i], pads[i + rank]]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


def _slice(x: Any, starts: Any, stops: Any, axes: Any = None, steps: Any = None) -> Any:
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        index[axis] = slice(starts[i], stops[i], 1 if steps is None else steps[i])
    return x[tuple(index)]


def _reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(shape)])


def _split(x: Any, sizes: Any = None, *, axis: int = 0, num_outputs: int = 0) -> Any:
    return torch.split(x, sizes if sizes is not None else -(-x.shape[axis] // num_outputs), axis)


def _gather(x: Any, index: Any, *, axis: int = 0) -> Any:
    if isinstance(index, int):
        return x.select(axis, index)
    made = torch.index_select(x, axis, index.reshape(-1))
    return made.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _unsqueeze(x: Any, axes: Sequence[int]) -> Any:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Any, axes: Any = None) -> Any:
    return x[0] if isinstance(x, list) else x.squeeze(tuple(axes))


def _layer_norm(x: Any, scale: Any, bias: Any = None, *, epsilon: float = 1e-5, axis: int = -1, **attrs: Any) -> Any:
    return F.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def _reduce(how: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axes=None, *, keepdims=1, **attrs: how(x, tuple(axes), bool(keepdims))


OPS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b,
    "Relu": F.relu,
    "Clip": lambda x, low=None, high=None, **attrs: torch.clamp(x, low, high),
    "Gelu": lambda x, approximate="none": F.gelu(x, approximate=approximate),
    "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "MatMul": lambda a, b: a @ b,
    "Gemm": _gemm,
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Flatten": lambda x, axis=1: x.flatten(axis),
    "Identity": lambda x: x,
    "Transpose": lambda x, perm: x.permute(perm),
    "Reshape": _reshape,
    "Gather": _gather,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Cast": lambda x, to: x.to({1: torch.float32, 7: torch.int64}[to]),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Shape": lambda x, start=0, end=None: list(x.shape[start:end]),
    "Range": torch.arange,
}
