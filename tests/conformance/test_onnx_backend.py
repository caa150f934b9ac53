"""ONNX's backend tests, each case on each device, against the strict list of expected failures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("onnx_suite", Path(__file__).with_name("onnx_suite.py"))
assert _spec is not None and _spec.loader is not None
onnx_suite: Any = importlib.util.module_from_spec(_spec)
sys.modules["onnx_suite"] = onnx_suite
_spec.loader.exec_module(onnx_suite)

CASES = onnx_suite.case_names()
EXPECTED = onnx_suite.read_expected()
DEVICES = ("reference", "cpu")


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return {device: onnx_suite.run(device, CASES) for device in DEVICES}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("suite", onnx_suite.SUITES)
def test_cases(device: str, suite: str, results: dict[str, Any]) -> None:
    """Every case passes, or fails as expected_failures.txt says."""
    names = [name for s, name in CASES if s == suite]
    found = results[device]
    regressions = [
        f"{n}: {found[n].status}: {found[n].reason}"
        for n in names
        if found[n].status != "pass" and (device, n) not in EXPECTED
    ]
    surprises = [n for n in names if found[n].status == "pass" and (device, n) in EXPECTED]
    assert not regressions, "cases that should pass:\n" + "\n".join(regressions)
    assert not surprises, "cases that pass now; take them off expected_failures.txt:\n" + "\n".join(surprises)


@pytest.mark.parametrize("device", DEVICES)
def test_no_crash_is_expected(device: str, results: dict[str, Any]) -> None:
    """A case may be refused or wrong for a stated reason; it may not take the process with it."""
    dead = [n for n, r in results[device].items() if r.status in ("crash", "timeout")]
    assert not dead


def test_expected_failures_exist() -> None:
    """No line is about a case that is not there, and every line has a reason."""
    known = {name for _, name in CASES}
    assert not [k for k in EXPECTED if k[1] not in known or k[0] not in DEVICES]
    assert all(len(reason) > 5 for reason in EXPECTED.values())


def test_readme_says_what_was_measured(results: dict[str, Any]) -> None:
    """README.md's table is the run's."""
    if not onnx_suite.in_scope():
        pytest.skip("the scope list is in the project's data folder (INTAGLIO_DATA), which is not here")
    assert onnx_suite.readme_table() == onnx_suite.summary(CASES, results)


def test_goals(results: dict[str, Any]) -> None:
    """The floor under the score: what the project promises of the suite in its onnx version."""
    scope = onnx_suite.in_scope()
    if not scope:
        pytest.skip("the scope list is in the project's data folder (INTAGLIO_DATA), which is not here")
    passed = {d: {n for n, r in results[d].items() if r.status == "pass"} for d in DEVICES}
    assert len(passed["reference"] & scope) >= 1600
    assert len(passed["cpu"] & scope) >= 1300
    for suite, least in (("pytorch-converted", 82), ("pytorch-operator", 35), ("real", 9)):
        for device in DEVICES:
            assert len([1 for s, n in CASES if s == suite and n in passed[device]]) >= least
