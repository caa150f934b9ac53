"""Runs ONNX's own backend tests on our devices, crash-safe, and writes the support table.

    python tests/conformance/onnx_suite.py reference cpu            the score, by suite
    python tests/conformance/onnx_suite.py reference cpu --write    also README.md, docs/, expected_failures.txt

Cases run in worker processes that are replaced when one dies or hangs, so a crash is a result like any other. The
suite is the one in the installed `onnx` package: node tests generated in memory, PyTorch exports, small and real
architectures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import subprocess
import sys
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FAILURES = Path(__file__).with_name("expected_failures.txt")
TIMEOUT = 300.0  # seconds for one case, generous: the largest network takes 45 to build, and the machine may be busy
SUITES = {  # suite -> the class that onnx.backend.test makes for it
    "node": "OnnxBackendNodeModelTest",
    "pytorch-converted": "OnnxBackendPyTorchConvertedModelTest",
    "pytorch-operator": "OnnxBackendPyTorchOperatorModelTest",
    "simple": "OnnxBackendSimpleModelTest",
    "real": "OnnxBackendRealModelTest",
}


@dataclass(frozen=True)
class Result:
    """Outcome of one case on one device: pass, wrong (a number differs), error (refused), crash, or timeout."""

    status: str
    reason: str
    seconds: float


def test_classes(device: str) -> dict[str, Any]:
    """unittest classes of the suite, bound to a device."""
    warnings.filterwarnings("ignore")
    import onnx.backend.test

    from intaglio.compiler.onnx_backend import IntaglioBackend, IntaglioRep

    class OnDevice(IntaglioBackend):
        @classmethod
        def prepare(cls, model: Any, device: str = device, **_: Any) -> IntaglioRep:
            return IntaglioBackend.prepare(model, wanted)

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"

    wanted = device
    cases: dict[str, Any] = onnx.backend.test.BackendTest(OnDevice, __name__).test_cases
    return cases


def case_names() -> list[tuple[str, str]]:
    """(suite, case) of everything there is, sorted; case names without the `_cpu` of ONNX's runner."""
    classes = test_classes("reference")
    found = []
    for suite, name in SUITES.items():
        methods = [m for m in dir(classes[name]) if m.startswith("test_") and m.endswith("_cpu")]
        found += [(suite, m.removesuffix("_cpu")) for m in sorted(methods)]
    return found


def run(device: str, cases: list[tuple[str, str]], workers: int = os.cpu_count() or 2) -> dict[str, Result]:
    """Results by case name."""
    ordered = sorted(cases, key=lambda c: c[0] != "real")  # the large ones first, so that no worker ends with one
    shares = [ordered[i::workers] for i in range(workers)]
    running = [_Worker(device, share) for share in shares if share]
    while any(not w.done for w in running):
        for w in running:
            w.poll()
        open_pipes = [w.stdout for w in running if not w.done]
        if open_pipes:
            select.select(open_pipes, [], [], 0.5)
    return {name: result for w in running for name, result in w.results.items()}


class _Worker:
    """A process that works through a list of cases, restarted behind the case that killed it."""

    def __init__(self, device: str, cases: list[tuple[str, str]]) -> None:
        self.device, self.left, self.results = device, list(cases), dict[str, Result]()
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-P", __file__, "--worker", self.device]
        # one thread each: pools of waiting threads would fight for the cores
        environment = {**os.environ, "TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("".join(f"{s} {c}\n" for s, c in self.left).encode())
        self.process.stdin.close()
        self.stdout = self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self.buffer, self.since = b"", time.monotonic()

    @property
    def done(self) -> bool:
        return not self.left

    def poll(self) -> None:
        if self.done:
            return
        chunk = self.stdout.read()
        if chunk:
            self.buffer += chunk
            *lines, self.buffer = self.buffer.split(b"\n")
            for line in lines:
                name, status, reason, seconds = json.loads(line)
                self.results[name] = Result(status, reason, seconds)
                self.left = [c for c in self.left if c[1] != name]
                self.since = time.monotonic()
        elif chunk == b"" or self.process.poll() is not None:
            self._replace("crash", f"the process ended with {self.process.wait()}")
        elif time.monotonic() - self.since > TIMEOUT:
            self.process.kill()
            self.process.wait()
            self._replace("timeout", f"no answer in {TIMEOUT:.0f} s")
        if self.done:
            self.process.wait()

    def _replace(self, status: str, reason: str) -> None:
        if self.left:
            self.results[self.left[0][1]] = Result(status, reason, 0.0)
            self.left = self.left[1:]
        if self.left:
            self._start()


def _work(device: str) -> None:
    """The worker: cases on stdin, a JSON line each on stdout."""
    import unittest

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever libraries print is not an answer
    classes = test_classes(device)
    for line in sys.stdin:
        suite, name = line.split()
        start = time.perf_counter()
        status, reason = "pass", ""
        try:
            classes[SUITES[suite]](f"{name}_cpu").debug()
        except unittest.SkipTest as e:
            status, reason = "error", f"skipped: {e}"
        except AssertionError as e:
            status, reason = "wrong", _first_line(e)
        except Exception as e:
            status, reason = "error", _first_line(e)
        out.write(json.dumps([name, status, reason, round(time.perf_counter() - start, 3)]) + "\n")


def _first_line(e: BaseException) -> str:
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    text = lines[0] if lines else type(e).__name__
    if text.startswith("Not equal to tolerance") and len(lines) > 1:
        text = f"{text}: {lines[1]}"
    return text if text.startswith("error[") or isinstance(e, AssertionError) else f"{type(e).__name__}: {text}"


# --- the expected failures ------------------------------------------------------------------------------------------


def read_expected() -> dict[tuple[str, str], str]:
    """(device, case) -> reason, one line each in expected_failures.txt."""
    found: dict[tuple[str, str], str] = {}
    for line in FAILURES.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            device, case, reason = line.split(maxsplit=2)
            found[device, case] = reason
    return found


_HEADER = """\
# Cases of ONNX's backend tests that fail, with the reason. Strict in both directions: a case listed here must fail, one
# that is not must pass. Written by `tests/conformance/onnx_suite.py reference cpu --write`; read what it changes.
"""


def short_reason(result: Result) -> str:
    """A reason that does not change with the wording of names and shapes."""
    text = re.sub(r"\s+", " ", result.reason)
    if m := re.match(r"error\[(IG\d+)\]: ONNX op `(\w+)` .* is not supported", text):
        return f"{m[1]} ONNX op {m[2]} is not supported"
    if m := re.match(r"error\[(IG\d+)\]: (.*)", text):
        text = f"{m[1]} {re.sub(r'of node (producing )?.[^ ]*.:? ?', '', m[2])}"
    return f"{result.status}: {text}"[:150] if result.status != "error" else text[:150]


# --- the score ------------------------------------------------------------------------------------------------------


def in_scope() -> set[str]:
    """Node cases in the scope of the goal (dense tensors, default domain, ...), where the data folder is there."""
    data = Path(os.environ.get("INTAGLIO_DATA", ROOT.parent / "shared" / "data"))
    path = data / "conformance" / "in_scope.txt"
    return set(path.read_text().split()) if path.is_file() else set()


def summary(cases: list[tuple[str, str]], results: dict[str, dict[str, Result]]) -> str:
    """The score by suite and device, as a Markdown table."""
    import onnx

    lines = [f"| suite (onnx {onnx.__version__}) | cases | " + " | ".join(f"`{d}`" for d in results) + " |"]
    lines.append("|---|---:|" + "---:|" * len(results))
    rows = [(suite, [c for s, c in cases if s == suite]) for suite in SUITES]
    scope = in_scope()
    if scope:
        rows.insert(1, ("node, in scope", [c for s, c in cases if s == "node" and c in scope]))
    for suite, names in rows:
        passed = [sum(r[n].status == "pass" for n in names) for r in results.values()]
        lines.append(f"| {suite} | {len(names)} | " + " | ".join(map(str, passed)) + " |")
    return "\n".join(lines) + "\n"


def by_op(cases: list[tuple[str, str]], results: dict[str, dict[str, Result]]) -> str:
    """Passed and all node cases of each op, as a Markdown table; a case counts for the op it is named after."""
    from onnx.backend.test.loader import load_model_tests

    op_of = {}
    for t in load_model_tests(kind="node"):
        if t.model is not None and t.model.graph.node:
            ops = Counter(n.op_type for n in t.model.graph.node)
            flat = {o: o.lower() for o in ops}
            named = [o for o in ops if t.name.replace("_", "").startswith(f"test{flat[o]}")]
            op_of[t.name] = (
                max(named, key=len) if named else ("(expanded)" if "expanded" in t.name else next(iter(ops)))
            )
    total: Counter[str] = Counter()
    passed: dict[str, Counter[str]] = defaultdict(Counter)
    for suite, name in cases:
        if suite == "node":
            op = op_of.get(name, "?")
            total[op] += 1
            for device, found in results.items():
                passed[device][op] += found[name].status == "pass"
    lines = [
        "| ONNX op | cases | " + " | ".join(f"`{d}`" for d in results) + " |",
        "|---|---:|" + "---:|" * len(results),
    ]
    for op in sorted(total):
        lines.append(f"| {op} | {total[op]} | " + " | ".join(str(passed[d][op]) for d in results) + " |")
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- support table: begin -->\n", "<!-- support table: end -->\n"


def readme_table() -> str:
    """What README.md says now."""
    text = (ROOT / "README.md").read_text()
    return text.split(BEGIN)[1].split(END)[0]


_SUPPORT = """\
# What is supported

Passed cases of ONNX's own backend tests, written by `tests/conformance/onnx_suite.py --write`; the test suite holds the
expected failures to it. `reference` is the interpreter, `cpu` is compiled through TVM.

"""


def _write(cases: list[tuple[str, str]], results: dict[str, dict[str, Result]]) -> None:
    readme = ROOT / "README.md"
    head, rest = readme.read_text().split(BEGIN)
    readme.write_text(head + BEGIN + summary(cases, results) + END + rest.split(END)[1])
    support = ROOT / "docs" / "support.md"
    support.write_text(_SUPPORT + summary(cases, results) + "\n## Node tests by op\n\n" + by_op(cases, results))
    lines = [
        f"{device} {name} {short_reason(found[name])}"
        for device, found in results.items()
        for _, name in cases
        if found[name].status != "pass"
    ]
    FAILURES.write_text(_HEADER + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("devices", nargs="*", default=["reference", "cpu"])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the support table and the expected failures")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    if arguments.worker:
        _work(arguments.worker)
        return
    cases = [c for c in case_names() if arguments.only in c[1]]
    results = {}
    for device in arguments.devices:
        start = time.perf_counter()
        results[device] = run(device, cases)
        counts = Counter(r.status for r in results[device].values())
        print(f"{device}: {dict(counts)} in {time.perf_counter() - start:.0f} s", flush=True)
    if arguments.only:
        for device, found in results.items():
            for name, r in found.items():
                print(device, name, r.status, r.reason)
    print(summary(cases, results))
    if arguments.write:
        _write(cases, results)


if __name__ == "__main__":
    main()
