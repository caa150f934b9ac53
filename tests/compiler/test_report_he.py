"""The report's section on an encrypted model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import intaglio
from intaglio.compiler.api import load_artifact
from intaglio.compiler.report.he import encrypted
from intaglio.ir import Editor, Tensor
from intaglio.ir.graph import Module


def model() -> Module:
    e = Editor(name="main")
    x = e.input("x", Tensor((1, 64), "f32"))
    w = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32) / 8
    y = e.emit("nn.matmul", x, e.constant(w))
    e.output(e.emit("math.mul", y, y), "y")
    return Module("m", {"main": e.freeze()})


def test_the_report_says_what_a_circuit_takes(tmp_path: Path) -> None:
    compiled = intaglio.compile(model(), "he:engine=sim,security=0,ring=4096")
    compiled.save(tmp_path / "a")
    again = load_artifact(tmp_path / "a")
    page, facts = again.report(), again.manifest.backend
    for words in ("Encrypted", "rotations", "products by plaintexts", "evaluation keys", "honest but curious"):
        assert words in page
    assert f"<b>{facts['rotations']}</b>" in page
    assert facts["security"]["stamp"] in page
    assert "plaintext_products" not in page  # not as a list of names, too


def test_text_is_escaped_and_encoding_again_is_said() -> None:
    facts = intaglio.compile(model(), "he:engine=sim,security=0,ring=4096").program.facts()  # type: ignore[attr-defined]
    html = encrypted({**facts, "engine": "<b>", "encoded_again": 1234})
    assert "&lt;b&gt;" in html and "1,234 weights are encoded again" in html
    assert "encoded again" not in encrypted({**facts, "encoded_again": 0})
