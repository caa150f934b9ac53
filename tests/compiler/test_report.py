"""The report: whole, self-contained, and never fooled by names."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import intaglio
from intaglio.compiler.api import Compiled
from intaglio.compiler.outline import Outline, outline
from intaglio.compiler.report.layout import WAYPOINT, layout
from intaglio.ir import Editor, Module, Tensor
from intaglio.ir.graph import Location

EVIL = """<script>alert("x")</script>&amp;' onload=x"""
VOID = {"meta", "br", "rect", "path"}


class Balance(HTMLParser):
    """Every tag is closed in order; what is loaded from elsewhere, and what could run, is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "srcset") or k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> Balance:
    found = Balance()
    found.feed(page)
    assert found.open == []
    assert found.links == []
    assert not found.tags & {"script", "iframe", "object", "link", "img"}
    assert "url(http" not in page
    return found


def evil_module() -> Module:
    e = Editor()
    e.loc = Location((EVIL,))
    x = e.input(EVIL, Tensor((2,), "f32"))
    e.output(e.emit("math.relu", x, name=EVIL), EVIL + "y")
    return Module(EVIL, {"main": e.freeze()})


def test_names_are_escaped() -> None:
    compiled = intaglio.compile(evil_module(), "reference", "fold")
    manifest = replace(compiled.manifest, backend={EVIL: EVIL, "kernels": [{EVIL: EVIL}]}, versions={EVIL: EVIL})
    page = replace(compiled, manifest=manifest).report()
    checked(page)
    assert EVIL not in page
    assert "&lt;script&gt;" in page


def test_every_section_is_there(artifact: Path) -> None:
    page = Compiled.load(artifact).report()
    tags = checked(page).tags
    assert {"svg", "table", "details", "style"} <= tags
    for title in ("Inputs and outputs", "Graph", "Where the work is", "Ledger", "Passes", "Files"):
        assert f"<h2>{title}</h2>" in page
    assert "prefers-color-scheme: dark" in page
    assert "model.safetensors" in page


def test_large_graphs_are_drawn_or_declined() -> None:
    for length, drawn in ((200, True), (2000, False)):
        compiled = intaglio.compile(chain(length), "reference")
        page = compiled.report()
        checked(page)
        assert ("<svg" in page) is drawn


def chain(length: int) -> Module:
    e = Editor()
    x = first = e.input("x", Tensor((2,), "f32"))
    for i in range(length):
        x = e.emit("math.add", x, first if i % 7 == 0 else x)
    e.output(x, "y")
    return Module("chain", {"main": e.freeze()})


# --- outline and layout ---------------------------------------------------------------------------------------------


def test_outline_round_trip(module: Module) -> None:
    made = outline(module.main)
    assert Outline.loads(made.dumps()) == made
    assert [n.op for n in made.nodes] == ["input", "nn.matmul", "math.relu", "math.mul", "math.mul", "math.argmax"]
    assert made.nodes[1].weights == 160


@given(
    st.text() | st.sampled_from(['{"nodes": [], "outputs": [["y", 0]]}', '{"nodes": [[1]], "outputs": []}', "[]", "{}"])
)
def test_bad_outlines(text: str) -> None:
    with pytest.raises(ValueError):
        Outline.loads(text)


def test_constants_that_are_returned_are_drawn() -> None:
    e = Editor()
    e.output(e.constant(np.zeros(3)), "y")
    assert [n.op for n in outline(e.freeze()).nodes] == ["const"]


@st.composite
def wirings(draw: st.DrawFn) -> list[list[int]]:
    count = draw(st.integers(1, 25))
    return [sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else [] for i in range(count)]


@given(wirings(), st.integers(20, 80))
@settings(deadline=None)
def test_layout_keeps_its_promises(reads: list[list[int]], width: int) -> None:
    widths = [float(width + i % 3) for i in range(len(reads))]
    placed = layout(reads, widths, 10.0)
    for i, operands in enumerate(reads):
        for k, operand in enumerate(operands):
            assert placed.layer[operand] < placed.layer[i], "edges run down"
            levels = [level for _, level in placed.routes[i, k]]
            assert levels == list(range(placed.layer[operand] + 1, placed.layer[i]))
    taken: dict[int, list[tuple[float, float]]] = {}
    for i, x in enumerate(placed.x):
        taken.setdefault(placed.layer[i], []).append((x - widths[i] / 2, x + widths[i] / 2))
    for stops in placed.routes.values():
        for x, level in stops:
            spot = (x - WAYPOINT / 2, x + WAYPOINT / 2)
            if spot not in taken[level]:  # edges from one operand may run together
                taken[level].append(spot)
    for spots in taken.values():
        spots.sort()
        assert spots[0][0] >= -1e-6
        assert spots[-1][1] <= placed.width + 1e-6
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(spots)), "nothing overlaps"
