"""What the tests of the compiler share: a small model in files, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import intaglio
from intaglio.ir import Editor, Module, Tensor, dim
from intaglio.ir.text import write_file

CLI = [sys.executable, "-P", "-m", "intaglio"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def small_module(name: str = "small") -> Module:
    """Two outputs, a symbolic batch, and weights large enough to live in a file of their own."""
    e = Editor()
    x = e.input("x", Tensor((dim("N"), 8), "f32"))
    rng = np.random.default_rng(0)
    w = e.constant(rng.standard_normal((8, 5)).astype(np.float32), "w")
    scale = e.emit("math.mul", e.constant(np.float32(2)), e.constant(np.float32(3)))
    y = e.emit("nn.matmul", x, w)
    e.output(e.emit("math.mul", e.emit("math.relu", y), scale), "scores")
    e.output(e.emit("math.argmax", y, axis=1, keepdims=False), "best")
    return Module(name, {"main": e.freeze()}, {"N": (1, 64)})


@pytest.fixture
def module() -> Module:
    return small_module()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small module in a file."""
    path = tmp_path / "small.ig"
    write_file(small_module(), path)
    return path


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """The small module compiled for the reference target."""
    folder = tmp_path / "artifact"
    intaglio.compile(small_module(), "reference", "fold").save(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command line, run in an empty folder."""

    def call(*args: object, stdin: str | None = None, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        if path is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(path), *filter(None, [environment.get("PYTHONPATH")])])
        return subprocess.run(
            [*CLI, *map(str, args)],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=environment,
        )

    return call


@pytest.fixture
def third_party(tmp_path: Path) -> Path:
    """A folder that looks like an installed package: its passes are broken, each in its own way, and one is lossy."""
    folder = tmp_path / "site"
    info = folder / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    lines = [f"{name} = broken:{name}" for name in ("raises", "illformed", "rounded", "notapass", "missing")]
    (info / "entry_points.txt").write_text("[intaglio.passes]\n" + "\n".join(lines) + "\n")
    (folder / "broken.py").write_text(BROKEN)
    return folder


BROKEN = '''
import numpy as np
from intaglio.ir import Editor
from intaglio.ir.graph import Graph
from intaglio.passes.definition import define_pass

@define_pass("raises", contract="exact")
def raises(graph):
    """Break."""
    raise KeyError("no such thing")

@define_pass("illformed", contract="exact")
def illformed(graph):
    """Return values that nothing defines."""
    return Graph(graph.name, graph.inputs, graph.nodes[:-1], graph.outputs, graph.output_names)

@define_pass("rounded", contract="lossy")
def rounded(graph, context):
    """Round weights to integers."""
    editor = Editor(graph)
    for node in list(editor.nodes):
        if node.constant is not None and node.constant.array.ndim == 2:
            editor.replace(node, [editor.constant(np.round(node.constant.array), "w")])
    context.book("rel_l2", 0.5, "weights rounded to integers")
    return editor.freeze()

notapass = 3
'''
