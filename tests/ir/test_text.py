"""The text form: what is printed can be read, and what cannot be read is explained.

Golden files bless themselves: INTAGLIO_BLESS=1 writes what the tests find.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from intaglio.ir import Constant, Editor, Graph, IntaglioError, Module, Tensor, verify
from intaglio.ir.dims import RESERVED
from intaglio.ir.graph import Location
from intaglio.ir.testing import graphs
from intaglio.ir.text import (
    constants_of,
    parse,
    parse_file,
    parse_graph,
    parse_type,
    print_graph,
    print_module,
    write_file,
)
from intaglio.ir.text.lexer import Lexer, Part
from intaglio.ir.text.parser import _lark
from intaglio.ir.types import ELEM_NAMES

FILES = Path(__file__).resolve().parents[1] / "files"
BLESS = bool(os.environ.get("INTAGLIO_BLESS"))


def same_golden(path: Path, found: str) -> None:
    """The file holds `found`; or it does from now on."""
    if BLESS:
        path.write_text(found, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == found


# --- golden files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FILES.glob("*.ig")), ids=lambda path: path.stem)
def test_golden_programs_are_read_and_printed_alike(path: Path) -> None:
    module = parse_file(path)
    verify(module)
    beside = path.with_suffix(".safetensors").name if module_refers(module) else None
    same_golden(path, print_module(module, beside))


def module_refers(module: Module) -> bool:
    return bool(constants_of(module))


def test_mistakes_are_explained() -> None:
    path = FILES / "mistakes.txt"
    out = []
    for case in re.split(r"^=== ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        title, _, rest = case.partition("\n")
        text = rest[: rest.index("--- ")] if "--- " in rest else rest
        out.append(f"=== {title}\n{text}--- \n{explanation(text)}\n")
    same_golden(path, "".join(out))


def explanation(text: str) -> str:
    with pytest.raises(IntaglioError) as caught:
        parse(text)
    assert_placed(caught.value, text)
    return str(caught.value)


# --- what is printed can be read ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(graphs(max_nodes=12))
def test_what_is_printed_is_read_again(case: tuple[Graph, Any]) -> None:
    graph, _ = case
    text, weights = print_graph(graph), constants_of(graph)
    again = parse_graph(text, weights)
    assert again == graph
    assert print_graph(again) == text
    assert [v.name for v in again.inputs] == [v.name for v in graph.inputs]
    assert [n.loc for n in again.nodes] == [n.loc for n in graph.nodes]


@settings(deadline=None, max_examples=30)
@given(graphs(max_nodes=6))
def test_spacing_does_not_matter(case: tuple[Graph, Any]) -> None:
    """With white space and comments between all tokens, everything is read in fine tokens: to the same graph."""
    graph, _ = case
    text = ' // { ( " \n\t'.join(tokens(print_graph(graph)))
    assert parse_graph(text, constants_of(graph)) == graph


def tokens(text: str) -> list[str]:
    """The fine tokens of a text."""
    lexer = Lexer(_lark().lexer_conf)
    return [t.value for t in lexer.lex(Part.of(text, 0))]


def test_files_are_written_and_read(tmp_path: Path) -> None:
    module = parse_file(FILES / "language.ig")
    write_file(module, tmp_path / "copy.ig")
    again = parse_file(tmp_path / "copy.ig")
    assert again == module
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.ig", "copy.safetensors"]
    write_file(again, tmp_path / "copy.ig")  # over the very file its constants are mapped from
    assert parse_file(tmp_path / "copy.ig") == module


def test_small_modules_need_no_weights_file(tmp_path: Path) -> None:
    write_file(parse("graph @main() -> (y: f32[]) { %0 = const 0.5 : f32[] return %0 }"), tmp_path / "small.ig")
    assert [p.name for p in tmp_path.iterdir()] == ["small.ig"]
    assert parse_file(tmp_path / "small.ig").main.nodes[0].constant == Constant(np.float32(0.5).reshape(()))


def test_a_text_is_not_written_over_its_weights(tmp_path: Path) -> None:
    with pytest.raises(IntaglioError, match="IG0005"):
        write_file(parse("graph @main() -> () { return }"), tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_names() -> None:
    """Any string names a value; equal names are told apart, the same way each time."""
    e = Editor(name="weird name")
    e.loc = Location(('a "quoted" one\n',), ())
    x = e.input("", Tensor((2,), "f32"))
    values = [
        e.emit("math.relu", x, name=n) for n in ("x", "x", "x.1", "a:b", "a:b", "", "_", "0", "é", "\ud800", "%y")
    ]
    for i, v in enumerate(values):
        e.output(v, ("return", "f32", "é", "a b", "")[i] if i < 5 else f"o{i}")
    graph = e.freeze()
    text = print_graph(graph)
    again = parse_graph(text)
    assert again == graph and print_graph(again) == text
    written = re.findall(r"^  (%.*) = ", text, re.M)
    expected = ["%x", "%x.1", "%x.1.1", '%"a:b"', '%"a:b.1"', "%1", "%_", '%"0"', '%"\\u00e9"', '%"\\ud800"', '%"%y"']
    assert written == expected


def test_constants_of_one_name_are_told_apart() -> None:
    big = np.arange(40, dtype=np.float32)
    e = Editor()
    for array in (big, big.copy(), big + 1):
        e.output(e.constant(array, "w"), f"o{len(e.outputs)}")
    graph = e.freeze()
    assert sorted(constants_of(graph)) == ["w", "w.1"]
    assert parse_graph(print_graph(graph), constants_of(graph)) == graph


def test_bodies_keep_their_labels() -> None:
    """Two kernels of equal content and different names stay different texts."""
    text = """graph @main(%x: f32[3]) -> (y: f32[3]) {
  %0 = tile.kernel(%x) {body = graph @NAME(%a: f32[3]) -> (b: f32[3]) {
    %NAME = math.relu(%a) : f32[3]
    return %NAME
  }} : f32[3]
  return %0
}
"""
    for name in ("first", "second"):
        written = text.replace("NAME", name)
        assert print_graph(parse_graph(written)) == written


def test_defaults_and_absent_operands_leave_no_trace() -> None:
    graph = parse_graph("graph @g(%x: f32[1, 2, 4]) -> () { %w = const [1.0] : f32[1] return }")
    assert graph.outputs == ()
    written = "%1 = nn.max_pool(%x) {ceil = false, kernel = [2], pads = none} : f32[1, 2, 3]"
    graph = parse_graph(f"graph @g(%x: f32[1, 2, 4]) -> (y: f32[1, 2, 3]) {{ {written} return %1 }}")
    assert dict(graph.nodes[0].attrs) == {"kernel": (2,)}
    graph = parse_graph("graph @g(%x: f32[4, 4]) -> (y: f32[4, 4]) { %1 = shape.trilu(%x, _) : f32[4, 4] return %1 }")
    assert len(graph.nodes[0].inputs) == 1


def test_any_word_names_an_attribute_and_no_dimension() -> None:
    words = {t.pattern.value for t in _lark().terminals if t.pattern.type == "str"}
    keywords = {word for word in words if re.fullmatch(r"\w+", word)}
    assert keywords | ELEM_NAMES == RESERVED
    for word in sorted(RESERVED - {"_"}):
        attribute = f'{{fixed = {{{word} = 1}}, op = "shape.iota", params = []}}'
        text = f"graph @g() -> () {{\n  %0 = dyn.apply() {attribute} : f32[]\n  return\n}}\n"
        assert print_graph(parse_graph(text)) == text


def test_ill_formed_graphs_can_be_printed() -> None:
    e = Editor()
    x = e.input("x", Tensor((2,), "f32"))
    y = e.emit("math.relu", x)
    graph = Graph("main", (), (y.node,), (y,), ("y",))  # type: ignore[arg-type]
    assert "math.relu(%undefined)" in print_graph(graph)


@pytest.mark.parametrize(
    "text",
    [
        "f32[]",
        "bool[N, 2*N*S - 3, ?, 7]",
        'q<i4, bf16, scale=0.1, zero=-8, axis=1, group=32>[4, 64]{nm 2:4 axis=1} in "l2 cache"',
        "sign<f32, scale=1.0>[3]{block 1x4x2}",
        "pow2<4, f64, bias=-2>[3]{channels axis=0 kept=[]}",
        'cipher<ckks, level=3, scale="2^3/2", packing="a \\"b\\"">[N, 2]',
        'cipher<ckks, level=3, scale=2^-40, packing="", size=3>[N, 2]',
        "q<f8e5m2, f32, scale=1e-05, zero=inf>[2]",
    ],
)
def test_types_are_read_as_printed(text: str) -> None:
    assert str(parse_type(text)) == text
    assert parse_type(text) is parse_type(f" {text} ")


# --- what cannot be read is explained ---------------------------------------------------------------------------------

SMALL = """ig 1
module @m {
  dim N in 1..8
  graph @main(%x: f32[N, 4]) -> (y: f32[N, 4] in "sram", "z 1": i64[N, 2]) {
    %c = const [0.5, 1.0, -2.0, inf] : f32[4]
    %0 = math.add(%x, %c) : f32[N, 4] loc("add", "b" via "r")
    %s, %"i:0" = math.top_k(%0) {axis = 1, k = 2} : f32[N, 2], i64[N, 2]
    %k = tile.kernel(%x) {body = graph(%a: f32[N, 4]) -> (b: f32[N, 4]) {
      %q = quant.quantize(%a) {to = q<i8, f32, scale=0.1>} : q<i8, f32, scale=0.1>[N, 4]
      %d = quant.dequantize(%q) {to = f32} : f32[N, 4]
      return %d
    }} : f32[N, 4]
    %p = shape.pad(%k, _) {pads = [0, 0, 0, 0]} : f32[N, 4] in "sram"
    return %p, %"i:0"
  }
}
"""


def check(text: str) -> None:
    """The text is read, or refused with a place in it."""
    try:
        parse(text)
    except IntaglioError as found:
        assert_placed(found, text)


def assert_placed(found: IntaglioError, text: str) -> None:
    lines = text.split("\n")
    for d in found.diagnostics:
        assert re.fullmatch(r"IG0[23]\d\d", d.code)
        at = d.position
        assert at is not None and 1 <= at.line <= len(lines) and 1 <= at.column <= len(lines[at.line - 1]) + 1
        assert at.length >= 1
        assert d.render().startswith(f"error[{d.code}]: ")


def test_the_small_program_is_sound() -> None:
    assert print_module(parse(SMALL)) == SMALL.replace("shape.pad(%k, _)", "shape.pad(%k)")


def test_truncated_texts() -> None:
    for n in range(len(SMALL)):
        check(SMALL[:n])
        check(SMALL[n:])


def test_single_token_changes() -> None:
    found = tokens(SMALL)
    for i in range(len(found)):
        check(" ".join(found[:i] + found[i + 1 :]))
        check(" ".join(found[: i + 1] + found[i:]))
        check(" ".join(found[:i] + found[i + 1 : i + 2] + found[i : i + 1] + found[i + 2 :]))


def test_single_character_changes() -> None:
    """The coarse tokens' own inside."""
    for i in range(len(SMALL)):
        check(SMALL[:i] + SMALL[i + 1 :])
        check(SMALL[:i] + '"' + SMALL[i:])


VOCABULARY = sorted(
    {*tokens(SMALL), "\n", "//", "via", "true", "none", "nan", "99999999999999999999999", "1e999", "2^40", "4x4", "%9"}
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_token_soup(data: st.DataObject) -> None:
    """A stretch of the program is replaced by random tokens."""
    found = tokens(SMALL)
    begin = data.draw(st.integers(0, len(found)))
    end = data.draw(st.integers(begin, min(len(found), begin + 6)))
    soup = data.draw(st.lists(st.sampled_from(VOCABULARY), max_size=8))
    check(" ".join(found[:begin] + soup + found[end:]))


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(st.text(), st.text('ig 1module@{}()%"\\,:=<>[]*+-.?/\n'), st.binary().map(lambda b: b.decode("latin-1")))
)
@example("ig 1 module @m { graph @g() -> () { return } }" + "\x00")
@example("{" * 100_000)
@example("graph @g(%x: " + "[" * 100_000)
@example('"' * 10_001)
@example("graph @g(%x: f32[" + "N*" * 5000 + "N]) -> () { return }")
@example("graph @g(%x: f32[" + "9" * 5000 + "]) -> () { return }")
@example('graph @g(%x: cipher<ckks, level=1, scale=2^99999, packing="">[]) -> () { return }')
@example('graph @g(%x: cipher<ckks, level=1, scale=1e999, packing="">[]) -> () { return }')
@example(
    "graph @g(%x: f32[9223372036854775808]) -> () { %0 = shape.slice(%x) {starts = [0], stops = [0]} : f32[0] return }"
)
@example('graph @g() -> () { %0 = const @"\\u12" : f32[] return }')
@example("\ufeffig 1")
def test_any_text(text: str) -> None:
    check(text)


@pytest.mark.deep
@settings(deadline=None, max_examples=3000)
@given(graphs(max_nodes=10), st.data())
def test_damaged_programs(case: tuple[Graph, Any], data: st.DataObject) -> None:
    graph, _ = case
    weights = constants_of(graph)
    found = tokens(print_graph(graph))
    i = data.draw(st.integers(0, len(found) - 1))
    j = data.draw(st.integers(0, len(found) - 1))
    for changed in (
        found[:i] + found[i + 1 :],
        [*found[:i], found[j], *found[i:]],
        [*found[:i], found[j], *found[i + 1 :]],
    ):
        text = " ".join(changed)
        try:
            parse(text, weights)
        except IntaglioError as e:
            assert_placed(e, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def code(path: Path) -> str:
        with pytest.raises(IntaglioError) as caught:
            parse_file(path)
        return caught.value.diagnostics[0].code

    assert code(tmp_path / "none.ig") == "IG0001"
    assert code(tmp_path) == "IG0001"
    (tmp_path / "latin.ig").write_bytes(b"ig 1 module @\xe9 {}")
    assert code(tmp_path / "latin.ig") == "IG0301"
    (tmp_path / "alone.ig").write_text('ig 1 module @m weights("gone.safetensors") {}')
    assert code(tmp_path / "alone.ig") == "IG0001"
    (tmp_path / "null.ig").write_text('ig 1 module @m weights("\\u0000") {}')
    assert code(tmp_path / "null.ig") == "IG0001"


def test_lark_is_imported_late() -> None:
    import subprocess
    import sys

    script = "import sys, intaglio.ir; sys.exit('lark' in sys.modules or 'hypothesis' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 0
