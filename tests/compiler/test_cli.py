"""The command line from outside: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from intaglio.compiler.api import load_artifact
from intaglio.compiler.cli import COMMANDS, main
from intaglio.ir import Graph, parse, print_module
from intaglio.ir.text import parse_file
from intaglio.passes.fold import fold

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Here = Callable[..., tuple[int, str]]
CLI = [sys.executable, "-P", "-m", "intaglio"]


def refused(done: subprocess.CompletedProcess[str], code: str) -> str:
    """Exit 1 with that diagnostic on stderr, and no traceback."""
    assert done.returncode == 1, done.stderr
    assert f"error[{code}]" in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line in this process, which is quicker: the exit code and what is on stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> tuple[int, str]:
        status = main([*map(str, args)])
        return status, capsys.readouterr().err

    return call


# --- the way through ------------------------------------------------------------------------------------------------


def test_compile_run_report(run: Run, model: Path, tmp_path: Path) -> None:
    done = run("compile", model, "--target", "reference", "--passes", "freeze{N=4},fold", "-o", "out", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "mine: " in done.stdout
    assert "x: f32[4, 8]" in done.stdout
    assert re.search(r"compile \[2/5\] freeze\{N=4\}", done.stderr), "plain lines in a pipe"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "model.ig",
        "model.safetensors",
        "source.json",
    ]

    x = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    np.save(tmp_path / "x.npy", x)
    assert run("run", "out", "--input", "x.npz", "--output", "y.npz").returncode == 0
    assert run("run", "out", "--input", "x.npy", "--output", "z.npz").returncode == 0
    with np.load(tmp_path / "y.npz") as y, np.load(tmp_path / "z.npz") as z:
        assert y["scores"].shape == (4, 5)
        assert np.array_equal(y["best"], y["scores"].argmax(axis=1))
        assert all(np.array_equal(y[k], z[k]) for k in y.files)
    shown = run("run", "out", "--input", "x.npz")
    assert shown.stdout.startswith("scores: float32[4, 5]  min 0")

    assert run("report", "out", "-o", "page.html").returncode == 0
    assert "<svg" in (tmp_path / "page.html").read_text()
    assert run("bench", "out", "--seconds", "0.05").stdout.count("\n") == 2
    assert not leftovers(tmp_path)


def test_compile_replaces_an_artifact_and_nothing_else(run: Run, model: Path, tmp_path: Path) -> None:
    for passes in ("", "fold"):
        assert run("compile", model, "--target", "reference", "--passes", passes, "-o", "out").returncode == 0
    assert "math.mul(%" in (tmp_path / "out" / "model.ig").read_text()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("dear to somebody")
    refused(run("compile", model, "--target", "reference", "-o", "photos"), "IG0510")
    assert (tmp_path / "photos" / "one.jpg").read_text() == "dear to somebody"
    refused(run("compile", model, "--target", "reference", "-o", model), "IG0510")
    assert parse_file(model)


def test_opt_reads_and_writes_pipes(run: Run, model: Path, tmp_path: Path) -> None:
    dead = "  %a = math.exp(%x) : f32[2]\n"
    text = f"graph @main(%x: f32[2]) -> (y: f32[2]) {{\n{dead}  %y = math.relu(%x) : f32[2]\n  return %y\n}}\n"
    done = run("opt", "-", "-p", "dce", stdin=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout == print_module(parse(text.replace(dead, "")))
    again = run("opt", "-", stdin=done.stdout)
    assert again.stdout == done.stdout

    beside = run("opt", "-", "-p", "fold", "-o", "piped.ig", stdin=model.read_text())
    assert beside.returncode == 0, beside.stderr
    assert parse_file(tmp_path / "piped.ig").main == _folded(model)

    assert run("opt", model, "-p", "freeze,fold", "-o", "after.ig", "--snapshots", "steps").returncode == 0
    assert parse_file(tmp_path / "after.ig").main.inputs[0].type.static
    assert sorted(p.name for p in (tmp_path / "steps").glob("*.ig")) == ["00-input.ig", "01-freeze.ig", "02-fold.ig"]
    assert parse_file(tmp_path / "steps" / "02-fold.ig") == parse_file(tmp_path / "after.ig")
    assert "are not in this text" in run("opt", model).stderr


def test_import_and_diff(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("import", model, "-o", "copy.ig").returncode == 0
    assert run("opt", model, "-p", "fold", "-o", "folded.ig").returncode == 0
    same = run("diff", model, "copy.ig")
    assert (same.returncode, same.stdout) == (0, "")
    other = run("diff", model, "folded.ig")
    assert other.returncode == 1
    assert "- %" in other.stdout
    assert "+ %" in other.stdout
    assert not other.stderr


def test_lists(run: Run) -> None:
    assert "reference" in run("targets").stdout
    assert re.search(r"^fold +exact +Compute", run("passes").stdout, re.MULTILINE)
    assert "limit=" in run("passes", "fold").stdout
    assert "nn.conv(x: " in run("ops", "nn.conv").stdout
    assert "strides" in run("ops", "nn.conv").stdout
    assert "math.add" not in run("ops", "nn").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: intaglio {name}" in capsys.readouterr().out


def test_help_and_version(run: Run) -> None:
    assert run("--version").stdout.startswith("intaglio ")
    for done in (run("--help"), run()):
        assert done.returncode == 0
        assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
        assert "search" not in done.stdout, "what is not there yet is not listed"


# --- the user's mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["compil"], "IG0002", "did you mean compile"),
        (["--verbose"], "IG0002", "before a command"),
        (["compile", "MODEL"], "IG0002", "required: -o"),
        (["compile", "MODEL", "-o", "out", "--targe", "cpu"], "IG0002", "did you mean --target"),
        (["compile", "MODEL", "-o", "out", "--target", "referense"], "IG0501", "did you mean reference"),
        (["compile", "MODEL", "-o", "out", "--target", "toaster"], "IG0501", "one of reference"),
        (["compile", "MODEL", "-o", "out", "--target", "reference:speed=3"], "IG0512", "has no option `speed`"),
        (["compile", "MODEL", "-o", "out", "--target", "reference:"], "IG0512", "after the colon"),
        (["compile", "MODEL", "-o", "out", "--target", "reference:,"], "IG0512", "expected the name of an option"),
        (["compile", "MODEL", "-o", "out", "--target", "reference", "--passes", "fodl"], "IG0403", "did you mean fold"),
        (["compile", "MODEL", "-o", "out", "--target", "reference", "--budget", "top1"], "IG0407", "METRIC<=LOSS"),
        (["compile", "MODEL", "-o", "out", "--target", "reference", "--budget", "speed<=1"], "IG0407", "one of top1"),
        (["compile", "smal.ig", "-o", "out", "--target", "reference"], "IG0001", "did you mean small.ig"),
        (["compile", "x.npz", "-o", "out", "--target", "reference"], "IG0010", "no model by its name"),
        (
            ["compile", "MODEL", "-o", "out", "--target", "reference", "--calibration", "wrong.npz"],
            "IG0409",
            "lack input `x`",
        ),
        (["compile", "broken.onnx", "-o", "out", "--target", "reference"], "IG01", ""),
        (["run", "nowhere", "--input", "x.npz"], "IG0001", "there is no folder"),
        (["run", ".", "--input", "x.npz"], "IG0506", "no artifact"),
        (["run", "MODEL", "--input", "x.npz"], "IG0506", "is a file"),
        (["report", "nowhere"], "IG0001", ""),
        (["opt", "nowhere.ig"], "IG0001", ""),
        (["opt", "MODEL", "-o", "out.txt"], "IG0010", "name it .ig"),
        (["opt", "MODEL", "-p", "freeze{M=1}"], "IG0405", "it has N"),
        (["passes", "fodl"], "IG0403", "did you mean fold"),
        (["ops", "nn.cov"], "IG0208", "nn.conv"),
        (["bench", "ARTIFACT", "--against", "onnxruntime"], "IG0011", "--model"),
        (["bench", "ARTIFACT", "--threads", "0"], "IG0002", "at least 1"),
    ],
)
def test_mistakes(
    args: list[str], code: str, said: str, here: Here, model: Path, artifact: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 8), np.float32))
    np.savez(tmp_path / "wrong.npz", y=np.zeros(3))
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07garbage\xff")
    status, complaint = here(*[{"MODEL": model, "ARTIFACT": artifact}.get(a, a) for a in args])
    assert status == 1
    assert re.search(rf"^error\[{code}", complaint, re.MULTILINE), complaint
    assert said in complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arrays", "code", "said"),
    [
        ({}, "IG0601", "input `x` is missing"),
        ({"y": np.zeros((1, 8), np.float32)}, "IG0601", "given: y"),
        ({"x": np.zeros((1, 8), np.float32), "y": np.zeros(1)}, "IG0601", "no input `y`"),
        ({"x": np.zeros((1, 8), np.float64)}, "IG0602", "float64"),
        ({"x": np.zeros((8,), np.float32)}, "IG0603", "1 axes"),
        ({"x": np.zeros((1, 9), np.float32)}, "IG0603", "extent 9"),
        ({"x": np.zeros((65, 8), np.float32)}, "IG0604", "N = 65"),
        ({"x": np.zeros((0, 8), np.float32)}, "IG0604", "N = 0"),
    ],
)
def test_wrong_inputs(
    arrays: dict[str, object], code: str, said: str, here: Here, artifact: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    status, complaint = here("run", artifact, "--input", "in.npz", "--output", "out.npz")
    assert (status, complaint[:14]) == (1, f"error[{code}]:")
    assert said in complaint
    assert not (tmp_path / "out.npz").exists()


def test_files_that_hold_no_arrays(here: Here, artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "pickle.npz", x=np.array([{"a": 1}], dtype=object))
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "pickle.npz").read_bytes()[:50])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("pickle", "text", "cut", "empty"):
        status, complaint = here("run", artifact, "--input", f"{name}.npz")
        assert (status, complaint[:14]) == (1, "error[IG0003]:")
        assert ("never loaded" in complaint) is (name == "pickle")
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 8), np.float32))
    for name in ("y.txt", "y.npy"):
        status, complaint = here("run", artifact, "--input", "x.npz", "--output", name)
        assert (status, complaint[:14]) == (1, "error[IG0003]:")


def test_outputs_that_cannot_be_written(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(run("compile", model, "--target", "reference", "-o", "file/out"), "IG0005")


# --- our bugs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["raises", "illformed"])
def test_a_broken_pass_leaves_a_reproducer(name: str, run: Run, model: Path, tmp_path: Path, third_party: Path) -> None:
    done = run("opt", model, "-p", f"fold,{name}", "-o", "out.ig", path=third_party)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    found = re.search(r"(\S+intaglio-crash-\w+)", done.stderr)
    assert found is not None
    folder = Path(found[1])
    assert "math.mul" in (folder / "module.ig").read_text(), "the module before the pass that broke"
    assert parse_file(folder / "module.ig") == parse_file(model).with_main(_folded(model))
    assert f"fold,{name}" in (folder / "command.txt").read_text()
    assert name in (folder / "again.txt").read_text()
    assert "numpy" in (folder / "versions.txt").read_text()
    assert ("KeyError" if name == "raises" else "IG0211") in (folder / "traceback.txt").read_text()
    assert not (tmp_path / "out.ig").exists()
    again = run("opt", folder / "module.ig", "-p", name, path=third_party)
    assert again.returncode == 2, "the folder is all that is needed to see it again"


def _folded(model: Path) -> Graph:
    return fold(parse_file(model).main)


def test_entry_points_that_are_no_passes(run: Run, third_party: Path) -> None:
    refused(run("passes", "notapass", path=third_party), "IG0403")
    assert "lossy" in run("passes", "rounded", path=third_party).stdout
    assert "is no pass" in refused(run("opt", "-", "-p", "notapass", stdin="", path=third_party), "IG0403")
    listed = run("passes", path=third_party)
    assert listed.returncode == 0
    assert re.search(r"^notapass .* is no pass$", listed.stdout, re.MULTILINE)
    assert re.search(r"^missing .*cannot be loaded: AttributeError", listed.stdout, re.MULTILINE)


def test_losses_are_booked_and_budgets_kept(run: Run, model: Path, tmp_path: Path, third_party: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32))
    base = ["compile", model, "--target", "reference", "--passes", "rounded,fold", "-o", "out"]
    assert "exceeded: measured rel_l2" in refused(
        run(*base, "--calibration", "c.npz", "--budget", "rel_l2<=0.01", path=third_party), "IG0408"
    )
    assert "exceeded: claimed rel_l2" in refused(run(*base, "--budget", "rel_l2<=0.01", path=third_party), "IG0408")
    assert "nothing tells" in refused(run(*base, "--budget", "top1<=0.01", path=third_party), "IG0407")
    done = run(*base, "--calibration", "c.npz", "--budget", "rel_l2<=0.9", path=third_party)
    assert done.returncode == 0, done.stderr
    assert "lossy" in done.stdout
    assert "rounded to integers" in (tmp_path / "out" / "manifest.json").read_text()


# --- ends -----------------------------------------------------------------------------------------------------------


def test_a_killed_compile_leaves_no_half_artifact(model: Path, tmp_path: Path) -> None:
    """Killed at any time, the output is the old artifact, the new one, or not there; the next run cleans up."""
    command = [*CLI, "compile", str(model), "--target", "reference", "-o", "out"]
    rng = np.random.default_rng(0)
    start = time.monotonic()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    whole = time.monotonic() - start
    for _ in range(12):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * rng.uniform(0.5, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        load_artifact(tmp_path / "out")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert not leftovers(tmp_path)


def _wait_until_idle(pid: int) -> None:
    """Until the process has used no processor time for a second."""
    used, since, start = "", time.monotonic(), time.monotonic()
    while time.monotonic() - since < 1.0 and time.monotonic() - start < 60:
        now = " ".join(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        if now != used:
            used, since = now, time.monotonic()
        time.sleep(0.05)


def test_interrupted(tmp_path: Path) -> None:
    # a suite that runs in the background of a shell has SIGINT ignored, and so would its children
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*CLI, "opt", "-"], cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    _wait_until_idle(process.pid)  # it reads its input now; before that, Python itself may be interrupted
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said == "intaglio: interrupted\n"


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*CLI, "ops"], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141


def test_help_is_quick() -> None:
    """150 ms for the whole of it on an idle machine; the best of several tries, with room for a busy one."""
    best = min(_seconds([*CLI, "--help"]) for _ in range(5))
    assert best < 0.3


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start
