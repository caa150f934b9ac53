"""Real models with real data: they compile for `cpu`, agree with ONNX Runtime, and are as accurate as they were.

The deep tests run the whole data sets and print the table that docs/models.md quotes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.compiler.api import Compiled
from intaglio.compiler.api import compile as compile_model
from intaglio.ir.graph import Module
from intaglio.ir.interpret import evaluate
from intaglio.ir.text import parse_file, write_file
from intaglio.ir.verify import verify

from . import data
from .models import MODELS, Model

AGREEMENT = 1e-3  # the largest difference from ONNX Runtime, as a part of the largest magnitude in its output
ACCURACY = 1e-3  # a tenth of a percentage point
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"

every_model = pytest.mark.parametrize(
    "model",
    [pytest.param(m, id=m.name, marks=pytest.mark.skipif(bool(m.missing), reason=m.missing)) for m in MODELS],
)


@cache
def loaded(model: Model) -> Module:
    return intaglio.load(model.proto())


@cache
def compiled(model: Model) -> Compiled:
    return compile_model(loaded(model), target="cpu")


@cache
def session(model: Model) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(model.proto().SerializeToString(), providers=["CPUExecutionProvider"])


def reference(model: Model, inputs: Any) -> Any:
    return session(model).run(None, dict(inputs))[0]


def run(model: Model, inputs: Any) -> Any:
    (output,) = compiled(model).run(inputs).values()
    return output


def difference(found: Any, expected: Any) -> float:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# --- every run --------------------------------------------------------------------------------------------------------


@every_model
def test_imports_with_a_symbolic_batch(model: Model) -> None:
    module = loaded(model)
    verify(module)
    first = {v.name: str(v.type.shape[0]) for v in module.main.inputs}
    assert set(first.values()) <= {"N", "V"}
    assert len(module.dims) == len({d for v in module.main.inputs for d in v.type.shape if not isinstance(d, int)})
    assert set(first) == set(model.data().batch(0, 1))


@every_model
def test_text_and_back(model: Model, tmp_path: Path) -> None:
    module = loaded(model)
    write_file(module, tmp_path / "model.ig")
    again = parse_file(tmp_path / "model.ig")
    assert again == module
    assert str(again) == str(module)


@every_model
def test_interpreted_like_onnxruntime(model: Model) -> None:
    inputs = model.data().batch(0, 2)
    graph = loaded(model).main
    (output,) = evaluate(graph, [inputs[v.name] for v in graph.inputs], check=True)
    assert difference(output, reference(model, inputs)) <= AGREEMENT


@every_model
def test_compiled_like_onnxruntime(model: Model) -> None:
    """On a few dozen real inputs, and again with batches of other sizes."""
    for start, stop in [(0, 24), (24, 25), (25, 28)]:
        inputs = model.data().batch(start, stop)
        assert difference(run(model, inputs), reference(model, inputs)) <= AGREEMENT


@pytest.mark.skipif(data.folder() is None, reason=data.MISSING)
def test_every_model_of_the_folder_is_here() -> None:
    listed = {n for n, entry in data.manifest().items() if entry["file"].startswith("models/")}
    assert listed == {m.name for m in MODELS} - {"minilm_l6"}


def test_document_has_a_row_for_every_model() -> None:
    assert list(documented()) == [m.name for m in MODELS]


def documented() -> dict[str, list[str]]:
    """The cells of the table in docs/models.md, by model."""
    rows = re.findall(r"^\| `(\w+)` \| (\d.*)\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


# --- thorough ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Rows of the table in docs/models.md, printed at the end."""
    rows: list[str] = []
    yield rows
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *rows, sep="\n")


@pytest.mark.deep
@every_model
def test_whole_data_set(model: Model, table: list[str]) -> None:
    """On all rows it agrees with ONNX Runtime; its accuracy is the manifest's and the document's."""
    rows = model.data()
    outputs, worst, seconds = [], 0.0, 0.0
    run(model, rows.batch(0, 1))
    for start in range(0, rows.count, model.batch):
        inputs = rows.batch(start, min(start + model.batch, rows.count))
        before = time.perf_counter()
        outputs.append(run(model, inputs))
        seconds += time.perf_counter() - before
        worst = max(worst, difference(outputs[-1], reference(model, inputs)))
    agreement = f"{worst:.0e}"
    if model.score is None:
        table.append(f"| `{model.name}` | {rows.count} | | | | {agreement} |")
    else:
        found = model.score(np.concatenate(outputs), rows.labels)
        table.append(
            f"| `{model.name}` | {rows.count} | {model.metric} | {model.expected:.4f} | {found:.4f} | {agreement} |"
        )
        assert abs(found - model.expected) <= ACCURACY
        assert abs(found - float(documented()[model.name][3])) <= ACCURACY
    assert worst <= AGREEMENT
    print(f"{model.name}: {rows.count} rows in {seconds:.1f} s")
