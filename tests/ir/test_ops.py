"""The table of ops: every op has one sound declaration, and says so when its attributes are not."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from intaglio.ir import OPS, Constant, Graph, IntaglioError, Op, dim
from intaglio.ir.graph import Attrs, attributes
from intaglio.ir.op import Floats, Ints, ShapeAttr, Strs, kind_name
from intaglio.ir.ops import get
from intaglio.ir.types import Float, Int

ALL = [pytest.param(op, id=name) for name, op in sorted(OPS.items())]


@pytest.mark.parametrize("op", ALL)
def test_declarations_are_sound(op: Op) -> None:
    assert OPS[op.name] is op and get(op.name) is op
    assert op.dialect in {"", "math", "nn", "shape", "quant", "approx", "dyn", "tile", "sparse", "he"}
    names = [o.name for o in op.signature.operands]
    assert len(set(names)) == len(names) and not set(names) & set(op.attrs)
    assert set(op.defaults) <= set(op.attrs)
    assert {arg for fact in op.facts for arg in fact.args if isinstance(arg, str)} <= set(names)
    function = inspect.unwrap(op.function)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert len(parameters) == len(names)


@pytest.mark.parametrize("op", ALL)
def test_reference(op: Op) -> None:
    """What the reference page is made of: a sentence, the signature, attributes with kinds and defaults, facts."""
    first = op.doc.partition("\n")[0]
    assert first.endswith((".", ":")) and 4 <= len(first) <= 120
    assert "->" in str(op.signature.text)
    for name, kind in op.attrs.items():
        assert kind_name(kind)
        default = op.defaults.get(name)
        assert default is None or name in op.defaults
    assert all(str(fact) for fact in op.facts)


SAMPLES: dict[Any, tuple[Any, Any]] = {
    int: (3, 3.0),
    float: (0.5, 1),
    bool: (True, 1),
    str: ("a", 1),
    Ints: ((1, 2), (1, 2.0)),
    Floats: ((1.0,), (1,)),
    Strs: (("a",), ("a", 1)),
    ShapeAttr: ((1, dim("N")), (1, "N")),
    Graph: (Graph("g", (), (), ()), "g"),
    Constant: (Constant(np.zeros(1)), np.zeros(1)),
    Attrs: (attributes({"a": 1}), {"a": 1}),
}


@pytest.mark.parametrize("op", ALL)
def test_attributes_of_another_kind_are_refused(op: Op) -> None:
    good = {name: SAMPLES.get(kind, (Float("f32"), "f32"))[0] for name, kind in op.attrs.items()}
    op.check_attrs(good)
    for name, kind in op.attrs.items():
        with pytest.raises(IntaglioError) as caught:
            op.check_attrs({**good, name: SAMPLES.get(kind, (Int("i8"), "i8"))[1]})
        (found,) = caught.value.diagnostics
        assert found.code == "IG0204" and f"`{name}` is {kind_name(kind)}" in found.message
        if name not in op.defaults:
            with pytest.raises(IntaglioError, match=f"needs attribute `{name}`"):
                op.check_attrs({k: v for k, v in good.items() if k != name})
    with pytest.raises(IntaglioError, match="has no attribute `no_such_thing`"):
        op.check_attrs({**good, "no_such_thing": 1})


def test_defaults_are_not_kept() -> None:
    conv = OPS["nn.conv"]
    assert conv.normal({"g": 1, "pads": None, "strides": [2, 2]}) == {"strides": (2, 2)}
    assert conv.normal({"g": True}) == {"g": True}  # which is wrong, and not silently right


def test_unknown_ops_have_neighbours() -> None:
    with pytest.raises(IntaglioError) as caught:
        get("nn.cnov")
    assert caught.value.diagnostics[0].code == "IG0208" and "nn.conv" in caught.value.diagnostics[0].hint
