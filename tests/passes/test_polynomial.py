"""Activations to polynomials: fitted, and trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.ir import Editor, Graph, IntaglioError, Tensor, evaluate
from intaglio.passes.definition import Context
from intaglio.passes.finetune import finetune
from intaglio.passes.finetune.train import augmented
from intaglio.passes.polynomial import polynomial, remez, weighted_fit


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_the_best_approximation_of_the_rectifier(degree: int) -> None:
    """About 0.14 / degree on [-1, 1]: half of what Bernstein's constant says of |x|."""
    x = np.linspace(-1, 1, 20001)
    gap = np.abs(np.polynomial.polynomial.polyval(x, remez(relu, -1, 1, degree)) - relu(x)).max()
    assert gap * degree == pytest.approx(0.14, abs=0.016)


@pytest.mark.parametrize("degree", [2, 4, 8])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-0.5, 0.1), (-2.0, 5.0)])
def test_no_other_polynomial_is_better(low: float, high: float, degree: int) -> None:
    """De la Vallee Poussin: an error that alternates degree + 2 times at one size is the least possible."""
    coeffs = remez(np.exp, low, high, degree)
    x = np.linspace(low, high, 20001)
    gap = np.polynomial.polynomial.polyval(x, coeffs) - np.exp(x)
    level = np.abs(gap).max()
    peaks = [g for g in np.split(gap, np.flatnonzero(np.diff(np.sign(gap))) + 1) if len(g)]
    assert len(peaks) >= degree + 2
    assert min(np.abs(p).max() for p in peaks) >= level * (1 - 1e-4) - 1e-12


def test_weights_pull_the_fit_to_where_values_are() -> None:
    grid = np.linspace(-4, 4, 512)
    counts = np.exp(-((grid - 2) ** 2) * 4)
    gap = lambda c, x: np.abs(np.polynomial.polynomial.polyval(x, c) - relu(x)).max()  # noqa: E731
    near = np.linspace(1.5, 2.5, 100)
    assert gap(weighted_fit(relu, -4, 4, 2, counts), near) < gap(weighted_fit(relu, -4, 4, 2, np.ones(512)), near) / 10


def net(seed: int = 0) -> Graph:
    random, e = np.random.default_rng(seed), Editor()
    x = e.input("x", Tensor((1, 1, 8, 8), "f32"))
    w = [
        random.normal(size=s).astype(np.float32) * k for s, k in (((4, 1, 3, 3), 0.4), ((256, 16), 0.1), ((16, 4), 0.4))
    ]
    y = e.emit("nn.conv", x, e.constant(w[0]), e.constant(np.zeros(4, np.float32)), pads=(1, 1, 1, 1))
    y = e.emit("shape.reshape", e.emit("math.relu", y), shape=(1, 256))
    y = e.emit(
        "math.relu", e.emit("math.add", e.emit("nn.matmul", y, e.constant(w[1])), e.constant(np.zeros(16, np.float32)))
    )
    e.output(e.emit("nn.matmul", y, e.constant(w[2])), "y")
    return e.freeze()


def data(n: int = 256) -> dict[str, Any]:
    """Four classes: which quarter of the image is bright."""
    random = np.random.default_rng(1)
    x, labels = random.normal(size=(n, 1, 8, 8)).astype(np.float32) * 0.5, random.integers(0, 4, n)
    for i, k in enumerate(labels):
        x[i, 0, k // 2 * 4 : k // 2 * 4 + 4, k % 2 * 4 : k % 2 * 4 + 4] += 1
    return {"x": x, "labels": labels}


def accuracy(graph: Graph, given: dict[str, Any]) -> float:
    answers = [int(evaluate(graph, [given["x"][i : i + 1]])[0].argmax()) for i in range(len(given["x"]))]
    return float(np.mean(np.array(answers) == given["labels"]))


def test_fitting_needs_to_know_where() -> None:
    with pytest.raises(IntaglioError) as caught:
        polynomial(net())
    assert caught.value.diagnostics[0].code == "IG0550"


@pytest.mark.parametrize("fit", ["weighted", "remez"])
def test_fitted_on_calibration(fit: str) -> None:
    """Errors fall with the degree; the notes say what they are."""
    graph, given = net(), data(64)
    before = np.concatenate([evaluate(graph, [given["x"][i : i + 1]])[0] for i in range(64)])
    errors = []
    for degree in (2, 4, 8):
        context = Context(calibration=[given])
        after = polynomial(graph, context, degree=degree, fit=fit)
        assert not {n.op.name for n in after.nodes} & {"math.relu"} and len(context.notes) == 2
        y = np.concatenate([evaluate(after, [given["x"][i : i + 1]])[0] for i in range(64)])
        errors.append(float(np.sqrt(np.mean((y - before) ** 2))))
    assert errors[0] > errors[1] > errors[2] and errors[2] < np.abs(before).std() / 3


@pytest.mark.parametrize("degree", [2, 4])
def test_fine_tuning_learns_with_polynomials(degree: int) -> None:
    pytest.importorskip("torch", reason="fine-tuning needs torch")
    graph, given = net(), data()
    context = Context(calibration=[given])
    options = {"epochs": 6, "rate": 5e-3, "degree": degree, "distill": 0.0, "batch": 32}
    after = finetune(graph, context, **options)
    assert {n.op.name for n in after.nodes} & {"math.relu", "approx.poly"} == {"approx.poly"}
    assert accuracy(after, given) > 0.9 > accuracy(polynomial(graph, Context(calibration=[given])), given)
    again = finetune(graph, Context(calibration=[given]), **options)
    assert after == again  # the same seed


def test_distillation_needs_no_labels() -> None:
    pytest.importorskip("torch", reason="fine-tuning needs torch")
    graph, given = net(), data()
    unlabelled = Context(calibration=[{"x": given["x"]}])
    after = finetune(graph, unlabelled, epochs=3, rate=2e-3)
    x = given["x"]
    answers = [[int(evaluate(g, [x[i : i + 1]])[0].argmax()) for i in range(64)] for g in (graph, after)]
    assert np.mean(np.array(answers[0]) == np.array(answers[1])) > 0.8


def test_fine_tuning_needs_data() -> None:
    pytest.importorskip("torch", reason="fine-tuning needs torch")
    with pytest.raises(IntaglioError, match="training data") as caught:
        finetune(net())
    assert caught.value.diagnostics[0].code == "IG0552"


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """To the same network, and a checkpoint of another run is refused."""
    pytest.importorskip("torch", reason="fine-tuning needs torch")
    graph, given = net(), data(64)
    options = {"epochs": 3, "batch": 16, "augment": "crop", "precision": "bfloat16", "average": 0.5, "guard": 3}
    whole = finetune(graph, Context(calibration=[given]), **options)

    def stop(what: str) -> None:
        if what.startswith("epoch 2"):
            raise KeyboardInterrupt

    file = str(tmp_path / "run.ckpt")
    for observe in (stop, lambda what: None):
        context = Context(calibration=[given], observe=observe)
        if observe is stop:
            with pytest.raises(KeyboardInterrupt):
                finetune(graph, context, **options, checkpoint=file)
        else:
            assert finetune(graph, context, **options, checkpoint=file) == whole
    with pytest.raises(IntaglioError, match="another run"):
        finetune(graph, Context(calibration=[given]), **{**options, "seed": 1}, checkpoint=file)
    Path(file).write_bytes(b"nothing")
    with pytest.raises(IntaglioError, match="no checkpoint"):
        finetune(graph, Context(calibration=[given]), **options, checkpoint=file)


def test_images_are_turned_and_moved() -> None:
    torch = pytest.importorskip("torch", reason="fine-tuning needs torch")
    x = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).repeat(64, 1, 1, 1)
    flipped = augmented(x, "flip", np.random.default_rng(0), torch)
    assert {bool((y == x[0]).all()) for y in flipped} == {True, False}
    assert all(bool((y == x[0]).all() or (y == x[0].flip(-1)).all()) for y in flipped)
    moved = augmented(x, "crop", np.random.default_rng(0), torch)
    assert moved.shape == x.shape and set(moved.unique().tolist()) <= {0.0, *range(1, 65)}
    assert (moved == 0).any() and not (moved == moved[:1]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": np.zeros((8, 1, 8, 8), np.float32)}, "no array `x`"),
        ({"x": np.zeros((8, 1, 9, 8), np.float32)}, "shape"),
        ({"x": np.zeros((8, 1, 8, 8), np.float32), "labels": np.full(8, 4)}, "labels up to 4"),
        ({"x": np.zeros((8, 1, 8, 8), np.float32), "labels": np.zeros(7, np.int64)}, "7 labels"),
    ],
)
def test_training_data_that_do_not_fit(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="fine-tuning needs torch")
    np.savez(tmp_path / "train.npz", **given)
    with pytest.raises(IntaglioError, match=message) as caught:
        finetune(net(), data=str(tmp_path / "train.npz"))
    assert caught.value.diagnostics[0].code == "IG0552"


def test_training_data_from_a_file(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="fine-tuning needs torch")
    given = data(64)
    np.savez(tmp_path / "train.npz", **given)
    from_file = finetune(net(), batch=32, data=str(tmp_path / "train.npz"))
    assert from_file == finetune(net(), Context(calibration=[given]), batch=32)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    for name in ("bad.npz", "none.npz"):
        with pytest.raises(IntaglioError, match="no training data"):
            finetune(net(), data=str(tmp_path / name))
