"""Circuits that answer many inputs at once give what the network gives, up to noise that is there."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.backends.he.compile import compile_graph
from intaglio.backends.he.program import HeProgram
from intaglio.ir import evaluate

from ..backends.he import models
from .he_accuracy import images_of, on_sim


@pytest.mark.parametrize("engine", ["seal", "lattigo"])
def test_many_inputs_at_once(engine: str) -> None:
    graph = models.mlp()
    made = compile_graph(graph, engine)
    x = np.random.default_rng(0).uniform(0, 1, (30, 1, 28, 28)).astype(np.float32)  # two rounds through the circuit
    answers, room = on_sim(HeProgram(made.circuit, made.interface), x)
    expected = np.concatenate([evaluate(graph, [one[None]])[0] for one in x])
    gap = np.abs(answers - expected).max() / np.abs(expected).max()
    assert answers.shape == expected.shape and 1e-9 < gap < 1e-4 and room > 1.5


def test_images_are_prepared_as_models_want_them() -> None:
    x = np.full((2, 32, 32, 3), 255, np.uint8)
    assert (images_of("resnet8", x) == 255).all()
    white = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(images_of("resnet20", x)[0, :, 5, 5], white, rtol=1e-6)
