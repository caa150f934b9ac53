"""SmoothQuant computes the same, and eight bits then lose less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from intaglio.ir import Editor, Graph, IntaglioError, Tensor, verify
from intaglio.ir.interpret import evaluate
from intaglio.ir.types import Float
from intaglio.passes.definition import Context
from intaglio.passes.quantize.quantize import quantize
from intaglio.passes.quantize.smooth import smooth


def transformer(residual: bool = False) -> Graph:
    """A norm with channels that stick out by a factor of 100, before two products."""
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((4, 6, 16), Float("f32")))
    scale = np.ones(16, np.float32)
    scale[3], scale[9] = 100, 50
    h = e.emit("nn.layer_norm", x, e.constant(scale, "scale"), e.constant(np.zeros(16, np.float32) + 0.1, "bias"))
    parts = [e.emit("nn.matmul", h, e.constant(_weights(rng, scale), f"w{i}")) for i in range(2)]
    y = e.emit("math.mul", *parts)
    e.output(e.emit("math.add", y, h) if residual else y, "y")
    return e.freeze()


def _weights(rng: Any, scale: Any) -> Any:
    return (rng.standard_normal((16, 16)) / scale[:, None]).astype(np.float32)


def test_same_function_and_less_loss() -> None:
    x = np.random.default_rng(1).standard_normal((4, 6, 16)).astype(np.float32)
    context, graph = Context(calibration=[{"x": x}]), transformer()
    made = smooth(graph, context)
    verify(made)
    want = evaluate(graph, [x])[0]
    np.testing.assert_allclose(evaluate(made, [x])[0], want, rtol=1e-3, atol=1e-3)
    errors = [np.linalg.norm(evaluate(quantize(g, context), [x])[0] - want) for g in (graph, made)]
    assert errors[1] < errors[0] / 2


def test_norms_with_other_readers_are_left_alone() -> None:
    graph = transformer(residual=True)
    context = Context()
    assert smooth(graph, context).digest == smooth(smooth(graph, context), context).digest
    assert "no layer norm" in context.notes[-1]


def test_needs_data() -> None:
    with pytest.raises(IntaglioError) as e:
        smooth(transformer())
    assert e.value.diagnostics[0].code == "IG0430"
