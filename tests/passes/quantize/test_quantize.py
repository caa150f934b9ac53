"""The pass as a whole: what its result looks like, computes, and how far off it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from intaglio.ir import Editor, Graph, IntaglioError, Tensor, verify
from intaglio.ir.interpret import evaluate
from intaglio.ir.types import Affine, Float, Int, Pow2, Sign
from intaglio.passes.definition import Context
from intaglio.passes.quantize.quantize import quantize


def run(graph: Graph, data: Any, **options: Any) -> Graph:
    made = quantize(graph, Context(calibration=data), **options)
    verify(made)
    return made


def error_of(made: Graph, network: Graph, batches: Any) -> float:
    x = batches[0]["x"]
    (want,), (have,) = evaluate(network, [x]), evaluate(made, [x])
    return float(np.linalg.norm(have - want) / np.linalg.norm(want))


def weights_of(graph: Graph) -> list[Tensor]:
    found = [n.output.type for n in graph.nodes if n.op.name == "const"]
    return [t for t in found if isinstance(t, Tensor) and isinstance(t.elem, (Affine, Sign, Pow2))]


def stores(graph: Graph) -> dict[str, str]:
    found = [n for n in graph.nodes if n.op.name == "const" and n.constant.name in ("stem", "dw", "pw", "fc")]
    return {n.constant.name: n.output.type.elem.store.name for n in found}


def test_form(network: Graph, batches: Any) -> None:
    """Every layer reads codes of both operands; the sum, the pool and the mean do too; the output is in codes."""
    made = run(network, batches)
    for node in made.nodes:
        if node.op.name in ("nn.conv", "nn.matmul", "nn.max_pool", "math.reduce_mean"):
            for v in node.inputs[:2]:
                assert v is not None and v.node is not None and v.node.op.name == "quant.dequantize", node
    sums = [n for n in made.nodes if n.op.name == "math.add" and all(v.node.constant is None for v in n.inputs)]
    assert len(sums) == 1
    assert all(v.node.op.name == "quant.dequantize" for v in sums[0].inputs)
    assert made.outputs[0].node.op.name == "quant.dequantize"
    # conv, relu, minimum, quantize: one rounding after the activation, none before
    (clip,) = [n for n in made.nodes if n.op.name == "math.minimum"]
    assert clip.inputs[0].node.op.name == "math.relu"
    assert clip.inputs[0].node.inputs[0].node.op.name == "nn.conv"
    types = [t.elem for t in weights_of(made)]
    assert [t.axis for t in types] == [0, 0, 0, 1]
    assert all(t.store is Int("i8") and t.zero == 0 for t in types)


def test_pool_keeps_the_scale(network: Graph, batches: Any) -> None:
    made = run(network, batches)
    (pool,) = [n for n in made.nodes if n.op.name == "nn.max_pool"]
    (after,) = [n for n in made.nodes if pool.output in n.inputs]
    assert after.op.name == "quant.quantize"
    assert after.output.type.elem is pool.inputs[0].node.inputs[0].type.elem


@pytest.mark.parametrize("method", ["round", "gptq"])
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_eight_bits_are_close(network: Graph, batches: Any, method: str, per: str) -> None:
    assert error_of(run(network, batches, method=method, per=per), network, batches) < 0.03


def test_gptq_beats_rounding(network: Graph, batches: Any) -> None:
    common = {"weights": 4, "edges": 4, "activations": "float", "bias": False}
    nearest = error_of(run(network, batches, **common), network, batches)
    assert error_of(run(network, batches, method="gptq", **common), network, batches) < nearest


def test_correction_keeps_means(network: Graph, batches: Any) -> None:
    """The output's mean over the calibration data is that of the original, up to the last rounding to codes."""
    x = batches[0]["x"]
    made = run(network, batches, weights=2, edges=2, activations="float")
    (want,), (have,) = evaluate(network, [x]), evaluate(made, [x])
    np.testing.assert_allclose(have.mean(0), want.mean(0), atol=1e-4)
    made = run(network, batches, weights=2, edges=2, activations="float", bias=False)
    assert np.abs(evaluate(made, [x])[0].mean(0) - want.mean(0)).max() > 1e-3


@pytest.mark.parametrize(
    ("weights", "kind", "levels"),
    [(8, "i8", 255), (6, "i8", 64), (5, "i8", 32), (4, "i4", 16), (3, "i4", 8), (2, "i2", 4), ("ternary", "i2", 3)],
)
@pytest.mark.parametrize("method", ["round", "gptq"])
def test_integer_formats(network: Graph, batches: Any, weights: Any, kind: str, levels: int, method: str) -> None:
    edges = weights if isinstance(weights, int) else 8
    made = run(network, batches, weights=weights, edges=edges, method=method, keep=())
    inner = [n for n in made.nodes if n.op.name == "const" and n.constant.name in ("dw", "pw")]
    for node in inner:
        assert node.output.type.elem.store is Int(kind)
        codes = np.unique(node.constant.array.astype(np.int64))
        assert len(codes) <= levels
        assert codes.min() >= -(levels // 2) and codes.max() <= (levels - 1) // 2


@pytest.mark.parametrize(("weights", "kind"), [("binary", Sign), ("pow2", Pow2), ("fp8", Affine)])
@pytest.mark.parametrize("method", ["round", "gptq"])
def test_other_formats(network: Graph, batches: Any, weights: str, kind: type, method: str) -> None:
    made = run(network, batches, weights=weights, method=method)
    inner = [n.output.type.elem for n in made.nodes if n.op.name == "const" and n.constant.name in ("dw", "pw")]
    assert len(inner) == 2 and all(isinstance(e, kind) for e in inner)
    assert error_of(made, network, batches) < (0.1 if weights == "fp8" else 1.5)


def test_weight_only_needs_no_data(network: Graph, batches: Any) -> None:
    made = run(network, (), activations="float")
    assert not [n for n in made.nodes if n.op.name == "quant.quantize"]
    assert error_of(made, network, batches) < 0.02


def test_groups(batches: Any) -> None:
    """Products have a scale for every 32 inputs; their number need not divide the inputs."""
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((4, 80), Float("f32")))
    w = rng.standard_normal((80, 6)).astype(np.float32) * np.linspace(0.01, 1, 80, dtype=np.float32)[:, None]
    e.output(e.emit("nn.matmul", x, e.constant(w, "w")), "y")
    graph, data = e.freeze(), rng.standard_normal((4, 80)).astype(np.float32)
    errors = {}
    for per in ("group", "channel"):
        made = run(graph, [{"x": data}], weights=4, edges=4, per=per, activations="float")
        errors[per] = np.abs(evaluate(made, [data])[0] - data @ w).max()
        if per == "group":
            (elem,) = [t.elem for t in weights_of(made)]
            assert (elem.axis, elem.group, elem.scale.array.shape) == (0, 32, (3, 6))
    assert errors["group"] < errors["channel"]


def test_asymmetric_weights(network: Graph, batches: Any) -> None:
    made = run(network, batches, weights=4, edges=4, symmetric=False)
    assert any(not np.all(t.elem.zero == 0) for t in weights_of(made) if not isinstance(t.elem.zero, int))
    assert error_of(made, network, batches) < 0.2


def test_edges_and_keep(network: Graph, batches: Any) -> None:
    made = run(network, batches, weights=4)
    assert stores(made) == {"stem": "i8", "dw": "i4", "pw": "i4", "fc": "i8"}
    made = run(network, batches, weights=4, edges=4, keep=("d*",))
    assert stores(made) == {"stem": "i4", "dw": "i8", "pw": "i4", "fc": "i4"}


def test_deterministic(network: Graph, batches: Any) -> None:
    first = run(network, batches, weights=4, method="gptq")
    again = run(network, batches, weights=4, method="gptq", cache=False)
    assert first.digest == again.digest


def test_cache(network: Graph, batches: Any) -> None:
    """The same graph, options and data are not worked on twice; other ones are."""

    def notes(data: Any, **options: Any) -> tuple[str, list[str]]:
        context, stages = Context(calibration=data), []
        context.observe = stages.append
        made = quantize(network, context, **options)
        verify(made)
        assert bool(stages) != ("decided before" in context.notes[-1])
        return made.digest, context.notes

    first, told = notes(batches, weights=6)
    again, retold = notes(batches, weights=6)
    assert again == first
    assert retold[:-1] == told
    assert "decided before" not in notes(batches, weights=5)[1][-1]
    assert "decided before" not in notes([{"x": batches[0]["x"] + 1}], weights=6)[1][-1]


def test_batches_do_not_matter(network: Graph, batches: Any) -> None:
    """The same samples in other batches give the same ranges and, up to the order of sums, the same codes."""
    x = batches[0]["x"]
    whole, parts = run(network, batches), run(network, [{"x": x[:10]}, {"x": x[10:]}])
    ranges = [[n.attr("to") for n in g.nodes if n.op.name == "quant.quantize"] for g in (whole, parts)]
    assert [e.zero for e in ranges[0]] == [e.zero for e in ranges[1]]
    np.testing.assert_allclose([e.scale for e in ranges[0]], [e.scale for e in ranges[1]], rtol=1e-4)


def test_concat_shares_a_range(batches: Any) -> None:
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((2, 4, 4, 4), Float("f32")))
    w = [e.constant(rng.standard_normal((4, 4, 1, 1)).astype(np.float32) * s, f"w{s}") for s in (1, 9)]
    parts = [e.emit("math.relu", e.emit("nn.conv", x, v)) for v in w]
    e.output(
        e.emit("nn.conv", e.emit("shape.concat", *parts, axis=1), e.constant(np.ones((1, 8, 1, 1), np.float32))), "y"
    )
    made = run(e.freeze(), [{"x": rng.standard_normal((2, 4, 4, 4)).astype(np.float32)}])
    (concat,) = [n for n in made.nodes if n.op.name == "shape.concat"]
    (after,) = [n for n in made.nodes if concat.output in n.inputs]
    elems = {v.node.inputs[0].type.elem for v in concat.inputs}
    assert elems == {after.output.type.elem}


def test_float_passes_leave_the_stream_of_a_transformer(batches: Any) -> None:
    """With layer norms, only products read codes: sums and norms stay in floats."""
    rng = np.random.default_rng(0)
    e = Editor(name="main")
    x = e.input("x", Tensor((2, 5, 8), Float("f32")))
    h = e.emit("nn.layer_norm", x, e.constant(np.ones(8, np.float32)))
    h = e.emit("math.add", e.emit("nn.matmul", h, e.constant(rng.standard_normal((8, 8)).astype(np.float32), "w")),
               e.constant(np.ones(8, np.float32), "b"))  # fmt: skip
    e.output(e.emit("math.add", x, e.emit("nn.gelu", h)), "y")
    made = run(e.freeze(), [{"x": rng.standard_normal((2, 5, 8)).astype(np.float32)}])
    assert len([n for n in made.nodes if n.op.name == "quant.quantize"]) == 1
    assert made.outputs[0].node.op.name == "math.add"


# --- complaints -------------------------------------------------------------------------------------------------------


def complaint(graph: Graph, data: Any, **options: Any) -> Any:
    with pytest.raises(IntaglioError) as e:
        run(graph, data, **options)
    return e.value.diagnostics[0]


def test_no_data(network: Graph) -> None:
    found = complaint(network, ())
    assert found.code == "IG0430" and found.hint


def test_empty_data(network: Graph) -> None:
    assert complaint(network, [{"x": np.zeros((0, 3, 8, 8), np.float32)}]).code == "IG0431"


def test_nan(network: Graph, batches: Any) -> None:
    x = batches[0]["x"].copy()
    x[3, 0, 0, 0] = np.nan
    found = complaint(network, [{"x": x}])
    assert found.code == "IG0432" and "sample 3" in found.label


def test_overflow_inside(network: Graph, batches: Any) -> None:
    found = complaint(network, [{"x": batches[0]["x"] * np.float32(1e38)}])
    assert found.code == "IG0432"


def test_constant_input(network: Graph) -> None:
    assert complaint(network, [{"x": np.ones((4, 3, 8, 8), np.float32)}]).code == "IG0433"


def test_unknown_layer(network: Graph, batches: Any) -> None:
    found = complaint(network, batches, keep=("conv9",))
    assert found.code == "IG0406" and "stem" in found.hint


def test_options_render() -> None:
    assert dataclasses.is_dataclass(quantize.options)


# --- mixed precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [3.0, 4.5, 6.0])
def test_bits_by_sensitivity(network: Graph, batches: Any, average: float) -> None:
    made = run(network, batches, weights=4, edges=2, average=average, activations="float")
    consts = [n for n in made.nodes if n.op.name == "const" and n.constant.name in ("stem", "dw", "pw", "fc")]
    assert len(consts) == 4
    context = Context(calibration=batches)
    quantize(network, context, weights=4, edges=2, average=average, activations="float")
    (note,) = [n for n in context.notes if n.startswith("bits by")]
    bits = {w.split()[0]: int(w.split()[1]) for w in note.partition(": ")[2].split(", ")}
    sizes = {"stem_out": 216, "dw": 72, "pw_out": 64, "fc_out": 40}
    assert bits.keys() == sizes.keys()
    assert sum(sizes[k] * b for k, b in bits.items()) <= average * sum(sizes.values())
    # not worse than the same number of bits everywhere
    if average in (3.0, 6.0):
        same = run(network, batches, weights=int(average), edges=2, activations="float")
        assert error_of(made, network, batches) <= error_of(same, network, batches) * 1.1


def test_impossible_average(network: Graph, batches: Any) -> None:
    found = complaint(network, batches, weights=4, average=2.5)
    assert found.code == "IG0434" and "stem_out" in found.label and "fc_out" in found.label
    assert complaint(network, batches, weights=4, edges=2, average=1.5).code == "IG0434"


def test_loss_names_the_layers(network: Graph, batches: Any) -> None:
    found = complaint(network, batches, weights=2, bias=False, loss=0.05)
    assert found.code == "IG0435" and "keep=[" in found.hint
    named = tuple(found.hint.partition("[")[2].rstrip("]").split(", "))
    assert named and "stem_out" not in named  # which has 8 bits
    kept = run(network, batches, weights=2, bias=False, keep=named, loss=0.05)
    assert error_of(kept, network, batches) <= 0.06


def test_target_that_has_no_such_codes(network: Graph, batches: Any) -> None:
    class NoFour:
        name = "none"

        def legal(self, node: Any) -> str:
            return "there are no 4 bits" if "i4" in str(node.inputs[0].type) else ""

    with pytest.raises(IntaglioError) as e:
        quantize(network, Context(target=NoFour(), calibration=batches), weights=4)
    assert e.value.diagnostics[0].code == "IG0436"
