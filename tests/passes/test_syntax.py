"""Pipelines as text: what is read, what is complained about and where, and that nothing else ever happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from intaglio.ir import IntaglioError
from intaglio.passes import PASSES, find, names
from intaglio.passes.definition import CONTRACTS, Pass, define_pass
from intaglio.passes.options import Given, Source, describe, fill, keywords, option, render
from intaglio.passes.syntax import parse_options, parse_pipeline


def complaint(text: str) -> tuple[str, int]:
    """Code and column of what is wrong with a pipeline."""
    with pytest.raises(IntaglioError) as caught:
        parse_pipeline(text)
    found = caught.value.diagnostics[0]
    assert found.position is not None
    return found.code, found.position.column


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", []),
        ("  \n ", []),
        ("fold", ["fold"]),
        ("freeze{N=8},fold", ["freeze{N=8}", "fold"]),
        (" freeze { N = 8 , S=2 } ,\n fold{ limit=10 }", ["freeze{N=8,S=2}", "fold{limit=10}"]),
        ("fold{}", ["fold"]),
        ("fold{limit=67108864}", ["fold"]),  # what the default says anyway is not repeated
    ],
)
def test_reads(text: str, shown: list[str]) -> None:
    steps = parse_pipeline(text)
    assert [str(s) for s in steps] == shown
    assert parse_pipeline(",".join(shown)) == steps


@pytest.mark.parametrize(
    ("text", "code", "column"),
    [
        ("fodl", "IG0403", 1),
        ("freeze,fodl", "IG0403", 8),
        ("fold{limt=3}", "IG0406", 6),
        ("fold{limit=3,limit=4}", "IG0406", 14),
        ("fold{limit=x}", "IG0406", 12),
        ("fold{limit}", "IG0406", 6),
        ("freeze{N=1.5}", "IG0406", 10),
        ("freeze{N=-1}", "IG0406", 1),
        ("fold{limit=3", "IG0404", 13),
        ("fold,,cse", "IG0404", 6),
        ("fold,", "IG0404", 6),
        ("fold cse", "IG0404", 6),
        ("fold{limit=}", "IG0404", 12),
        ('fold{limit="1}', "IG0404", 12),
        ("fold{limit=[1}", "IG0404", 12),
        (",", "IG0404", 1),
        ("{}", "IG0404", 1),
    ],
)
def test_complains(text: str, code: str, column: int) -> None:
    assert complaint(text) == (code, column)


def test_names_what_was_meant() -> None:
    with pytest.raises(IntaglioError, match="did you mean fold"):
        parse_pipeline("fodl")
    with pytest.raises(IntaglioError, match="did you mean limit"):
        parse_pipeline("fold{limt=3}")


@given(st.text(alphabet='freezold{}[],="\\N1\n -x.') | st.text())
@example("freeze{N=")
@example('fold{limit="\\x"}')
@example("freeze{N=99999999999999999999}")
def test_anything_is_read_or_explained(text: str) -> None:
    try:
        parse_pipeline(text)
    except IntaglioError as e:
        assert all(d.code.startswith("IG04") for d in e.diagnostics)
        assert str(e)


@dataclass(frozen=True)
class Everything:
    number: int = 1
    real: float = 0.5
    flag: bool = False
    word: str = "plain"
    choice: Literal["a", "b"] = "a"
    maybe: int | None = None
    many: tuple[int, ...] = ()
    more: tuple[tuple[str, int], ...] = option((), "any name", rest=True)


def parsed(text: str) -> Everything:
    source = Source("test", text)
    return fill(Everything, parse_options(source, 0), owner="the test", source=source)  # type: ignore[no-any-return]


NAMES = st.from_regex(r"[A-Z][a-z]{0,3}", fullmatch=True)
OPTIONS = st.builds(
    Everything,
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(),
    st.sampled_from(["a", "b"]),
    st.none() | st.integers(0, 99),
    st.lists(st.integers(-9, 9), max_size=3).map(tuple),
    st.dictionaries(NAMES, st.integers(0, 9), max_size=3).map(lambda d: tuple(d.items())),
)


@given(OPTIONS)
def test_options_survive_being_written(options: Everything) -> None:
    assert parsed(render(options)) == options


def test_keywords_are_checked_as_text_is() -> None:
    assert keywords(Everything, {"number": 3, "Extra": 2, "many": [1, 2]}, owner="x") == Everything(
        3, many=(1, 2), more=(("Extra", 2),)
    )
    for wrong in ({"number": "3"}, {"number": True}, {"flag": 1}, {"choice": "c"}, {"many": [1.5]}, {"Extra": "no"}):
        with pytest.raises(IntaglioError, match="IG0406"):
            keywords(Everything, wrong, owner="x")


def test_required_options() -> None:
    @dataclass(frozen=True)
    class Needs:
        size: int = option(doc="how much")

    globals()["Needs"] = Needs
    with pytest.raises(IntaglioError, match="needs option `size`"):
        fill(Needs, [], owner="it", source=Source("t", ""))
    assert fill(Needs, [Given("size", "3")], owner="it", source=Source("t", "size=3")) == Needs(3)
    assert describe(Needs) == [("size", "an integer", "", "how much")]


@pytest.mark.parametrize("name", names())
def test_every_pass_is_complete(name: str) -> None:
    found = find(name)
    assert isinstance(found, Pass)
    assert found.name == name
    assert found.contract in CONTRACTS
    assert found.summary.endswith(".")
    for option_name, kind, _, doc in describe(found.options):
        assert kind
        assert doc, f"option {option_name} of {name} has no documentation"


def test_the_table_names_each_pass_once() -> None:
    assert len(names()) == len(set(names()))
    assert set(PASSES) <= set(names())


def test_the_author_hears_of_mistakes_at_once() -> None:
    with pytest.raises(ValueError, match="contract"):
        define_pass("x", contract="sure")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="docstring"):
        define_pass("x", contract="exact")(lambda graph: graph)
    with pytest.raises(ValueError, match="takes"):
        define_pass("x", contract="exact")(lambda graph, other: graph)
