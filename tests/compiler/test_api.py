"""The Python interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import intaglio
from intaglio.compiler.api import Compiled
from intaglio.compiler.crash import InternalError
from intaglio.ir import Editor, Graph, IntaglioError, Module, Tensor, evaluate
from intaglio.passes.definition import Context, define_pass
from intaglio.passes.fold import fold

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


@pytest.fixture
def compiled(module: Module) -> Compiled:
    return intaglio.compile(module, "reference", "fold")


def test_calling(compiled: Compiled, module: Module) -> None:
    wanted = evaluate(module.main, [X])
    for found in (compiled(X), compiled(x=X), tuple(compiled.run({"x": X}).values())):
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_one_output_comes_alone() -> None:
    e = Editor()
    e.output(e.emit("math.relu", e.input("x", Tensor((2,), "f32"))), "y")
    compiled = intaglio.compile(Module("one", {"main": e.freeze()}), "reference")
    assert np.array_equal(compiled(np.array([-1, 1], np.float32)), [0, 1])


def test_wrong_calls(compiled: Compiled) -> None:
    for args, named, said in [
        ((), {}, "is missing"),
        ((X, X), {}, "has 1"),
        ((X,), {"x": X}, "given twice"),
        ((), {"z": X}, "is missing"),
    ]:
        with pytest.raises(IntaglioError, match=said) as caught:
            compiled(*args, **named)
        assert caught.value.diagnostics[0].code == "IG0601"


def test_what_it_tells(compiled: Compiled, tmp_path: Path) -> None:
    assert repr(compiled) == "<compiled small for reference: x: f32[N, 8]>"
    assert [t.step for t in compiled.timings] == ["fold"]
    assert compiled.ledger.contract == "exact"
    page = compiled.report(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


def test_models_in_every_form(module: Module, model: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import helper

    node = helper.make_node("Relu", ["x"], ["y"])
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in "xy"]
    proto = helper.make_model(
        helper.make_graph([node], "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", 20)]
    )
    onnx.save(proto, model.with_name("relu.onnx"))
    assert intaglio.load(model) == intaglio.load(str(model)) == intaglio.load(module) == module
    assert intaglio.load(proto) == intaglio.load(model.with_name("relu.onnx"))
    compiled = intaglio.compile(model.with_name("relu.onnx"), "reference")
    assert compiled.manifest.origin is not None
    assert compiled.manifest.origin.path.endswith("relu.onnx")
    with pytest.raises(IntaglioError, match="is no model"):
        intaglio.load(3)


def test_optimize_takes_text_passes_and_functions(module: Module) -> None:
    @define_pass("nothing", contract="exact")
    def nothing(graph: Graph, context: Context) -> Graph:
        """Change nothing."""
        assert context.target is not None
        return graph

    folded = intaglio.optimize(module, "fold")
    assert folded == intaglio.optimize(module, fold) == intaglio.optimize(module, [nothing, "fold"])
    assert folded != module
    assert intaglio.optimize(module, "") == module
    frozen = intaglio.optimize(module, "freeze{N=2}")
    assert frozen.dims == {}
    with pytest.raises(IntaglioError, match="IG0404"):
        intaglio.optimize(module, 3)  # type: ignore[arg-type]


def test_a_broken_pass_is_our_bug(module: Module, tmp_path: Path) -> None:
    @define_pass("breaks", contract="exact")
    def breaks(graph: Graph) -> Graph:
        """Break."""
        raise ValueError("no")

    with pytest.raises(InternalError, match="ValueError: no") as caught:
        intaglio.optimize(module, ["fold", breaks])
    assert isinstance(caught.value.__cause__, ValueError)
    assert not list(tmp_path.iterdir()), "as a library nothing is written unless asked for"
    folder = caught.value.write(tmp_path)
    assert intaglio.load(folder / "module.ig") == intaglio.optimize(module, "fold")


def test_an_ill_formed_module_is_the_callers_mistake(module: Module) -> None:
    graph = module.main
    bad = Graph("main", graph.inputs, graph.nodes[1:], graph.outputs, graph.output_names)
    with pytest.raises(IntaglioError, match="IG0211"):
        intaglio.compile(module.with_main(bad), "reference")


@pytest.mark.parametrize(
    ("options", "code"), [({"target": "toaster"}, "IG0501"), ({"speed": 3}, "IG0512"), ({"budget": "x"}, "IG0407")]
)
def test_wrong_options(options: dict[str, object], code: str, module: Module) -> None:
    with pytest.raises(IntaglioError, match=code):
        intaglio.compile(module, **{"target": "reference", **options})  # type: ignore[arg-type]


def test_calibration_measures_what_is_not_exact(module: Module) -> None:
    @define_pass("halves", contract="lossy")
    def halves(graph: Graph, context: Context) -> Graph:
        """Weights in half precision."""
        assert len(context.calibration) == 3, "in batches of the size the graph takes"
        editor = Editor(graph)
        for node in list(editor.nodes):
            if node.constant is not None and node.constant.array.ndim == 2:
                editor.replace(node, [editor.constant(node.constant.array.astype(np.float16).astype(np.float32), "w")])
        context.book("rel_l2", 1e-3)
        return editor.freeze()

    compiled = intaglio.compile(
        module, "reference", ["freeze{N=1}", halves, "fold"], X, intaglio.Budget("rel_l2", 1e-3)
    )
    entry = compiled.ledger.entries[1]
    assert entry.claimed == {"rel_l2": 1e-3}
    assert 0 < entry.measured["rel_l2"] < 1e-3
    assert compiled.ledger.measured["rel_l2"] == entry.measured["rel_l2"]
    assert not compiled.ledger.entries[0].measured
