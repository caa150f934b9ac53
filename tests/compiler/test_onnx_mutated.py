"""Whatever a file says, importing it gives a module or a diagnostic: no crash, no hang, no giant allocation."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("onnx_mutants", Path(__file__).with_name("onnx_mutants.py"))
assert _spec is not None and _spec.loader is not None
onnx_mutants: Any = importlib.util.module_from_spec(_spec)
sys.modules["onnx_mutants"] = onnx_mutants
_spec.loader.exec_module(onnx_mutants)

OURS = list(onnx_mutants.onnx_models.MODELS)
SAVED = Path(__file__).parents[2] / "build" / "mutants"


def check(mutants: list[tuple[str, int]], folder: Path) -> None:
    """Run them; those that do what no file may do are written to build/mutants/."""
    (folder / "weights.bin").write_bytes(bytes(4096))
    results = onnx_mutants.run(mutants, folder)
    print(onnx_mutants.summary(results))
    assert len(results) == len(set(mutants))
    bad = {key: status for key, (status, _) in results.items() if status.startswith("BAD")}
    for name, index in bad:
        SAVED.mkdir(parents=True, exist_ok=True)
        (SAVED / f"{name.replace('/', '-')}-{index}.onnx").write_bytes(onnx_mutants.mutant(name, index))
    lines = [f"{name} {index}: {status}" for (name, index), status in bad.items()]
    again = "saved in build/mutants/; for the traceback run tests/compiler/onnx_mutants.py MODEL INDEX"
    assert not bad, f"{len(bad)} of {len(mutants)} mutants ({again}):\n" + "\n".join(lines[:20])


def zoo() -> list[str]:
    return [name for name in onnx_mutants.ZOO if (onnx_mutants.data_folder() / "models" / f"{name}.onnx").is_file()]


def test_the_originals_run(tmp_path: Path) -> None:
    """What is mutated below is sound: each of our models imports and runs."""
    for name in OURS:
        assert onnx_mutants.import_and_run(onnx_mutants.original(name), tmp_path) == "ran"


def test_mutants_are_derandomised() -> None:
    """The same number gives the same file, and different numbers rarely do."""
    files = [onnx_mutants.mutant("transformer", i) for i in range(60)]
    assert files == [onnx_mutants.mutant("transformer", i) for i in range(60)]
    assert len(set(files)) > 50


def test_mutants_of_our_models(tmp_path: Path) -> None:
    check([(name, i) for i in range(500) for name in OURS], tmp_path)


def test_mutants_of_the_zoo(tmp_path: Path) -> None:
    names = zoo()
    if not names:
        pytest.skip("the models are in the project's data folder (INTAGLIO_DATA), which is not here")
    check([(name, i) for i in range(60) for name in names], tmp_path)


@pytest.mark.deep
def test_many_mutants_of_our_models(tmp_path: Path) -> None:
    check([(name, i) for i in range(500, 10_000) for name in OURS], tmp_path)


@pytest.mark.deep
def test_many_mutants_of_the_zoo(tmp_path: Path) -> None:
    check([(name, i) for i in range(60, 1500) for name in zoo()], tmp_path)


@pytest.mark.deep
def test_mutants_of_the_conformance_suite(tmp_path: Path) -> None:
    """Every operator that ONNX's backend tests know."""
    check([(f"node/{name}", i) for i in range(1, 9) for name in onnx_mutants.node_cases()], tmp_path)
