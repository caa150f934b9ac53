"""A graph in torch, to be trained with polynomials in place of its activations.

Convolutions are normalised by batch while they learn (`Layer`), polynomials are held in Hermite's basis of their
normalised input. Both are folded away when the graph is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.edit import Editor
from ...ir.graph import Graph, Node, Value
from ..polynomial import ACTIVATIONS, weighted_fit
from .hermite import HERMITE, PART, change, polynomial_of

__all__ = ["INTERVAL", "Network"]

INTERVAL = 4.0  # deviations from the mean; what lies beyond is penalised
LIMIT = 6.0  # and what lies beyond this is pulled in while training: one outlier would be the end of all weights
EPSILON = 1e-5


class Network:
    """Constants that are operands of layers are trained; the teacher (`original=True`) keeps them as they were.

    `tensors` is everything that training changes, by a name that is the same in every run: a checkpoint.
    """

    def __init__(self, graph: Graph, torch: Any, degree: int, half: bool = False) -> None:
        self.graph, self.torch, self.degree = graph, torch, degree
        self.dtype = torch.bfloat16 if half else torch.float32
        self.constants: dict[Value | None, Any] = {}
        self.parameters: dict[str, Any] = {}
        self.moments: dict[str, Any] = {}
        self.learnt: dict[Value | None, str] = {}  # constants that are parameters
        self.part, self.limit = PART, LIMIT
        self.linear = False  # whether the penalty grows linearly beyond one deviation, squares before
        self.momentum = 0.02  # of the running moments
        self.index = {node: i for i, node in enumerate(graph.nodes)}
        self.polynomial = polynomial_of(torch)
        readers = Counter(v for n in graph.nodes for v in n.inputs)
        self.layers = [n for n in graph.nodes if n.op.name == "nn.conv" and _normalisable(n, readers)]
        for node in graph.nodes:
            if node.constant is not None:
                self.constants[node.output] = torch.from_numpy(np.array(node.constant.array))
        normalised = set(self.layers)
        for node in graph.nodes:
            if node.op.name in ("nn.conv", "nn.matmul", "math.add"):
                operands = node.inputs[1:2] if node in normalised else node.inputs
                for v in operands[1:] if node.op.name == "nn.conv" and node not in normalised else operands:
                    if v in self.constants and v not in self.learnt and self.constants[v].is_floating_point():
                        self.learnt[v] = f"constant{self.index[v.node]}"  # type: ignore[union-attr, index]
                        self.parameters[self.learnt[v]] = self.constants[v].clone()
        self.activations = [n for n in graph.nodes if n.op.name in ACTIVATIONS]

    @property
    def tensors(self) -> dict[str, Any]:
        return {**self.parameters, **self.moments}

    def image(self, x: Any) -> Any:
        """A batch as layers take it."""
        x = x.to(self.dtype)
        return x.contiguous(memory_format=self.torch.channels_last) if x.ndim == 4 else x

    def run(
        self,
        x: Any,
        share: float,
        *,
        original: bool = False,
        batch: bool = False,
        limited: bool = False,
        observe: Any = None,
    ) -> tuple[Any, Any]:
        """The output and the range penalty.

        `share` is that of the polynomials in the activations. `batch` normalises by this batch's moments and keeps
        track of them; otherwise the running ones are folded into the weights. `limited` cuts outliers off.
        """
        torch = self.torch
        held: dict[Value | None, Any] = {None: None, self.graph.inputs[0]: self.image(x)}
        for v, constant in self.constants.items():
            found = constant if original or v not in self.learnt else self.parameters[self.learnt[v]]
            held[v] = found.to(self.dtype) if found.is_floating_point() else found
        penalty = torch.zeros(())
        normalised = set() if original else set(self.layers)
        for node in self.graph.nodes:
            if node.constant is not None:
                continue
            operands = [held[v] for v in node.inputs]
            if observe is not None:
                observe(node, operands)
            if node.op.name in ACTIVATIONS:
                y = self._activation(node, operands[0]) if original or share < 1 else None
                if not original:
                    smooth, outside = self._smooth(node, operands[0], batch, limited)
                    penalty = penalty + outside
                    y = smooth if y is None else torch.lerp(y, smooth, share)
                held[node.output] = y
            elif node in normalised:
                held[node.output] = self._normalised(node, operands, batch)
            else:
                held[node.output] = self._layer(node, operands)
        return held[self.graph.outputs[0]].float(), penalty

    def _smooth(self, node: Node, x: Any, batch: bool, limited: bool) -> tuple[Any, Any]:
        """The polynomial that stands for an activation, and the penalty for what is out of its range."""
        looked = max(1, len(x) // self.part)
        mean, deviation = self._seen(node, x.detach()[:looked]) if batch else self._normal(node)
        ends, limits = ((mean - k * deviation, mean + k * deviation) for k in (INTERVAL, self.limit))
        coeffs = self._monomials(node, mean, deviation)
        cap = deviation if self.linear else None
        y, outside = self.polynomial.apply(x, coeffs, ends, limits if limited else None, looked, cap)
        return y, outside / deviation**2

    def furthest(self, x: Any, chosen: Any, batch: int) -> Any:
        """How many deviations from the mean the values of each chosen sample reach, with outliers cut off."""
        torch = self.torch
        far = np.zeros(len(chosen))

        def observe(node: Node, operands: list[Any]) -> None:
            if node.op.name in ACTIVATIONS:
                mean, deviation = self._normal(node)
                most = (operands[0].float() - mean).abs().flatten(1).amax(1) / deviation
                np.maximum(far[at : at + batch], most.numpy(), out=far[at : at + batch])

        with torch.no_grad():
            for at in range(0, len(chosen), batch):
                self.run(x[torch.from_numpy(chosen[at : at + batch])], 1.0, limited=True, observe=observe)
        return far

    def _seen(self, node: Node, values: Any) -> tuple[float, float]:
        """Mean and deviation of an activation's input in this batch, which the running ones follow.

        Squares of sums of squares explode unless every polynomial finds its input where it is well behaved.
        """
        moments = self.moments[f"normal{self.index[node]}"]
        variance, mean = self.torch.var_mean(values.float(), correction=0)
        moments.lerp_(self.torch.stack([mean, variance]), self.momentum)
        return float(mean), max(float(variance), EPSILON) ** 0.5

    def _normal(self, node: Node) -> tuple[float, float]:
        mean, variance = self.moments[f"normal{self.index[node]}"].tolist()
        return mean, max(variance, EPSILON) ** 0.5

    def _monomials(self, node: Node, mean: float, deviation: float) -> Any:
        """The polynomial's coefficients in powers of its input, lowest first."""
        torch = self.torch
        c = self.parameters[f"poly{self.index[node]}"].double() / torch.tensor(HERMITE[: self.degree + 1])
        return torch.from_numpy(change(self.degree, mean, deviation)) @ c

    def _normalised(self, node: Node, operands: list[Any], batch: bool) -> Any:
        functional, i = self.torch.nn.functional, self.index[node]
        weight = self.parameters[self.learnt[node.inputs[1]]]
        gain, shift = self.parameters[f"gain{i}"], self.parameters[f"shift{i}"]
        mean, variance = self.moments[f"mean{i}"], self.moments[f"variance{i}"]
        if batch:
            y = self._layer(node, [operands[0], weight.to(self.dtype), None])
            return functional.batch_norm(y, mean, variance, gain, shift, True, self.momentum, EPSILON)
        weight, bias = self._folded(node)
        return self._layer(node, [operands[0], weight.to(self.dtype), bias.to(self.dtype)])

    def _folded(self, node: Node) -> tuple[Any, Any]:
        """Weight and bias with the normalisation in them."""
        i = self.index[node]
        by = self.parameters[f"gain{i}"] / (self.moments[f"variance{i}"] + EPSILON).sqrt()
        weight = self.parameters[self.learnt[node.inputs[1]]] * by.reshape(-1, 1, 1, 1)
        return weight, self.parameters[f"shift{i}"] - self.moments[f"mean{i}"] * by

    def calibrate(self, x: Any) -> None:
        """Where the values of layers and activations lie, and so where training starts: at the original network."""
        torch, layers = self.torch, set(self.layers)

        def observe(node: Node, operands: list[Any]) -> None:
            i = self.index[node]
            if node in layers:
                weight = self.parameters[self.learnt[node.inputs[1]]]
                # normalised, a layer may have weights of any size: of one that suits one learning rate for all
                by = (2 / weight[0].numel()) ** 0.5 / max(float(weight.square().mean()) ** 0.5, 1e-12)
                weight.mul_(by)
                y = self._layer(node, [operands[0], weight, None]).float()
                variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
                bias = 0 if len(operands) < 3 or operands[2] is None else operands[2].float()
                self.moments[f"mean{i}"], self.moments[f"variance{i}"] = mean, variance
                self.parameters[f"gain{i}"] = (variance + EPSILON).sqrt() / by
                self.parameters[f"shift{i}"] = mean / by + bias
            elif node.op.name in ACTIVATIONS:
                (mean, deviation), start = self._fitted(node, operands[0].double().reshape(-1).numpy())
                self.moments[f"normal{i}"] = torch.tensor([mean, deviation**2])
                self.parameters[f"poly{i}"] = torch.from_numpy(start.astype(np.float32))

        kept, self.dtype = self.dtype, torch.float32
        with torch.no_grad():
            self.run(x, 0.0, original=True, observe=observe)
        self.dtype = kept
        for tensor in self.parameters.values():
            tensor.requires_grad_()

    def _fitted(self, node: Node, flat: Any) -> tuple[tuple[float, float], Any]:
        """Mean and deviation of an activation's input, and the polynomial of least squares there."""
        mean, deviation = float(flat.mean()), float(max(flat.std(), 1e-6))
        f = lambda v: self._activation(node, self.torch.from_numpy(mean + deviation * v)).numpy()  # noqa: E731
        counts = np.histogram((flat - mean) / deviation, 512, (-INTERVAL, INTERVAL))[0].astype(float)
        fitted = weighted_fit(f, -INTERVAL, INTERVAL, self.degree, counts + 1e-3 * counts.mean())
        start = np.polynomial.hermite_e.poly2herme(fitted)
        return (mean, deviation), start * np.array(HERMITE)[: len(start)]

    def _activation(self, node: Node, x: Any) -> Any:
        functional = self.torch.nn.functional
        functions: Mapping[str, Callable[[Any], Any]] = {
            "math.relu": self.torch.relu,
            "math.leaky_relu": lambda v: functional.leaky_relu(v, node.attr("alpha")),
            "math.sigmoid": self.torch.sigmoid,
            "math.tanh": self.torch.tanh,
            "math.softplus": functional.softplus,
            "math.erf": self.torch.erf,
            "math.abs": self.torch.abs,
            "nn.gelu": functional.gelu,
        }
        return functions[node.op.name](x)

    def _layer(self, node: Node, x: list[Any]) -> Any:
        functional, name, batch = self.torch.nn.functional, node.op.name, len(x[0]) if x[0] is not None else 0
        if name == "nn.conv" and x[1].ndim == 4:
            top, left, bottom, right = node.attr("pads") or (0, 0, 0, 0)
            bias = x[2] if len(x) > 2 else None
            strides, groups = tuple(node.attr("strides") or (1, 1)), node.attr("g")
            if (top, left) == (bottom, right):  # padding within the convolution spares a copy
                return functional.conv2d(x[0], x[1], bias, strides, (top, left), groups=groups)
            padded = functional.pad(x[0], (left, right, top, bottom))
            return functional.conv2d(padded, x[1], bias, strides, groups=groups)
        if name == "nn.matmul":
            return x[0] @ x[1]
        if name == "math.add":
            return x[0] + x[1]
        if name == "math.mul":
            return x[0] * x[1]
        if name == "math.reduce_mean":
            return x[0].mean(tuple(node.attr("axes")), keepdim=node.attr("keepdims"))
        if name == "shape.reshape":
            return x[0].reshape(batch, *[int(d) for d in node.output.type.shape[1:]])  # type: ignore[arg-type]
        if name == "shape.slice" and tuple(node.attr("axes")) == (2, 3) and not any(node.attr("starts")):
            down, right = node.attr("steps") or (1, 1)
            return x[0][:, :, ::down, ::right]
        if name == "shape.pad" and len(node.attr("pads")) == 8:
            p = node.attr("pads")
            return functional.pad(x[0], (p[3], p[7], p[2], p[6], p[1], p[5]))
        if name == "approx.poly":
            return sum(c * x[0] ** i for i, c in enumerate(node.attr("coeffs")))
        notes = (f"from: {node.loc}",) if node.loc is not None else ()
        raise error("IG0552", f"`{name}` cannot be trained here", notes=notes, hint="run `canonicalize` before")

    def written(self) -> Graph:
        """The graph with what was learnt."""
        editor, layers = Editor(self.graph), set(self.layers)
        copies = list(editor.nodes)
        for old, node in zip(self.graph.nodes, copies, strict=True):
            editor.loc = old.loc
            if old in layers:
                weight, bias = self._folded(old)
                name = old.inputs[1].name if old.inputs[1] is not None else ""
                made = [
                    editor.constant(_array(weight), f"{name}.tuned"),
                    editor.constant(_array(bias), f"{name}.shift"),
                ]
                editor.replace(node, [editor.emit("nn.conv", node.inputs[0], *made, **dict(old.attrs))])
            elif old.constant is not None and old.output in self.learnt:
                learnt = _array(self.parameters[self.learnt[old.output]])
                editor.replace(node, [editor.constant(learnt, f"{old.constant.name}.tuned")])
            elif old.op.name in ACTIVATIONS:
                found = self._monomials(old, *self._normal(old)).detach().numpy()
                coeffs = tuple(float(f"{c:.8g}") for c in found)
                editor.replace(node, [editor.emit("approx.poly", node.inputs[0], coeffs=coeffs)])
        return editor.freeze()


def _normalisable(node: Node, readers: Mapping[Value | None, int]) -> bool:
    """Whether a convolution has weights of its own, which may be held at another size."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    fixed = all(v is None or (v.node is not None and v.node.constant is not None) for v in (weight, bias))
    return fixed and weight is not None and len(weight.type.shape) == 4 and readers[weight] == 1


def _array(tensor: Any) -> Any:
    return np.array(tensor.detach().float().numpy())
