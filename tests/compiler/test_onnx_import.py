"""What the importer makes of ONNX models, piece by piece. Whole operators are covered by the conformance suite."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from intaglio.compiler.frontends.onnx import load_onnx, load_specialized, supported_ops
from intaglio.ir import Affine, Graph, IntaglioError, Module, Tensor, dim, evaluate, verify

_spec = importlib.util.spec_from_file_location("onnx_models", Path(__file__).with_name("onnx_models.py"))
assert _spec is not None and _spec.loader is not None
onnx_models: Any = importlib.util.module_from_spec(_spec)
sys.modules["onnx_models"] = onnx_models
_spec.loader.exec_module(onnx_models)
model, node, tensor = onnx_models.model, onnx_models.node, onnx_models.tensor

F, I64 = TensorProto.FLOAT, TensorProto.INT64
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def load(m: Any, **options: Any) -> Module:
    """Import the file that the model would be."""
    module = load_onnx(m.SerializeToString(), **options)
    verify(module)
    return module


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if n.op.name != "const"]


def run(module: Module, *arrays: Any) -> Any:
    results = evaluate(module.main, [np.asarray(a) for a in arrays], check=True)
    return results[0] if len(results) == 1 else results


def refused(m: Any, code: str, **options: Any) -> str:
    """The diagnostics of a model that is refused with `code`."""
    with pytest.raises(IntaglioError) as caught:
        load(m, **options)
    assert {d.code for d in caught.value.diagnostics} == {code}, str(caught.value)
    return str(caught.value)


# --- files ----------------------------------------------------------------------------------------------------------


def external(location: str, offset: int | None = 0, length: int | None = 24, key: str = "location") -> onnx.ModelProto:
    """A model whose weight w f32[2, 3] is in a file beside it."""
    w = TensorProto(name="w", data_type=F, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for k, v in ((key, location), ("offset", offset), ("length", length)):
        if v is not None:
            w.external_data.add(key=k, value=str(v))
    return model([node("Add", ["x", "w"], ["y"])], {"x": (F, [2, 3])}, ["y"], [w])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights in it, and a secret beside it."""
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (inside / "weights.bin").write_bytes(bytes(8) + X.tobytes())
    (inside / "sub" / "weights.bin").write_bytes(X.tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    return inside


@pytest.mark.parametrize(
    ("location", "offset"), [("weights.bin", 8), ("sub/weights.bin", 0), ("./sub/../weights.bin", 8)]
)
def test_external_data(folder: Path, location: str, offset: int) -> None:
    """From a path, or from bytes and a folder; the file is mapped, not read."""
    path = folder / "model.onnx"
    path.write_bytes(external(location, offset).SerializeToString())
    module = load_onnx(path)
    (weight,) = module.constants()
    base = weight.array
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert weight.name == "w" and isinstance(base, np.memmap)
    np.testing.assert_array_equal(run(module, X), 2 * X)
    np.testing.assert_array_equal(run(load(external(location, offset), folder=folder), X), 2 * X)


@pytest.mark.parametrize(
    ("location", "offset", "length"),
    [
        ("../secret.bin", 0, 24),
        ("sub/../../secret.bin", 0, 24),
        ("link.bin", 0, 24),
        ("/etc/passwd", 0, 24),
        ("/dev/zero", 0, 24),
        ("sub", 0, 24),
        (".", 0, 24),
        ("", 0, 24),
        ("nowhere.bin", 0, 24),
        ("a" * 5000, 0, 24),
        ("nul\0byte", 0, 24),
        ("weights.bin", 16, 24),
        ("weights.bin", -8, 24),
        ("weights.bin", 1 << 62, 24),
        ("weights.bin", 8, 23),
        ("weights.bin", 8, 1 << 62),
        ("weights.bin", "one", 24),
    ],
)
def test_external_data_that_lies(folder: Path, location: str, offset: Any, length: Any) -> None:
    """Nothing outside the model's folder is read, and no byte that is not there."""
    assert "`w`" in refused(external(location, offset, length), "IG0106", folder=folder)


def test_external_data_without_a_folder() -> None:
    assert "weights.bin" in refused(external("weights.bin"), "IG0106")


def test_what_is_no_model(tmp_path: Path) -> None:
    """Files that are absent, folders, text, nothing, other objects."""
    data = onnx_models.MODELS["cnn"]().SerializeToString()
    for source, code in [
        (tmp_path / "absent.onnx", "IG0001"), (str(tmp_path), "IG0001"), ("a" * 5000, "IG0001"), (b"", "IG0101"),
        (b"hello, world", "IG0101"), (data[: len(data) // 2], "IG0101"), (3, "IG0101"), (None, "IG0101"),
    ]:  # fmt: skip
        with pytest.raises(IntaglioError) as caught:
            load_onnx(source)
        assert caught.value.diagnostics[0].code == code, source


def test_a_name_that_is_not_text() -> None:
    """Protobuf gives bytes for a string that is not UTF-8: they may not get into the module."""
    m = model([node("Add", ["xxxx", "wwww"], ["yyyy"], "nnnn")], {"xxxx": (F, ["dddd"])}, ["yyyy"], [tensor("wwww", 1)])
    m.graph.name = "gggg"
    assert run(load(m), X[0]).shape == (3,)
    for c in b"xwyndg":
        with pytest.raises(IntaglioError, match="not UTF-8"):
            load_onnx(m.SerializeToString().replace(bytes([c] * 4), b"\xff\xfe\xff\xfe"))


# --- data -----------------------------------------------------------------------------------------------------------

_TYPES: dict[str, tuple[int, Any, list[float]]] = {
    "f32": (TensorProto.FLOAT, np.float32, [1.5, -2, 0, 3]),
    "f64": (TensorProto.DOUBLE, np.float64, [1.5, -2, 0, 1e300]),
    "f16": (TensorProto.FLOAT16, np.float16, [1.5, -2, 0, 65504]),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, [1.5, -2, 0, 1e30]),
    "f8e4m3fn": (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn, [1.5, -2, 0, 448]),
    "f8e4m3fnuz": (TensorProto.FLOAT8E4M3FNUZ, ml_dtypes.float8_e4m3fnuz, [1.5, -2, 0, 240]),
    "f8e5m2": (TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2, [1.5, -2, 0, 57344]),
    "f8e5m2fnuz": (TensorProto.FLOAT8E5M2FNUZ, ml_dtypes.float8_e5m2fnuz, [1.5, -2, 0, 57344]),
    "f8e8m0": (TensorProto.FLOAT8E8M0, ml_dtypes.float8_e8m0fnu, [1, 2, 0.5, 1024]),
    "f4e2m1": (TensorProto.FLOAT4E2M1, ml_dtypes.float4_e2m1fn, [1.5, -2, 0, 6]),
    "i4": (TensorProto.INT4, ml_dtypes.int4, [-8, 7, 0, -1]),
    "u4": (TensorProto.UINT4, ml_dtypes.uint4, [15, 7, 0, 1]),
    "i2": (TensorProto.INT2, ml_dtypes.int2, [-2, 1, 0, -1]),
    "u2": (TensorProto.UINT2, ml_dtypes.uint2, [3, 1, 0, 2]),
    "i8": (TensorProto.INT8, np.int8, [-128, 127, 0, -1]),
    "u8": (TensorProto.UINT8, np.uint8, [255, 127, 0, 1]),
    "i16": (TensorProto.INT16, np.int16, [-32768, 127, 0, -1]),
    "u16": (TensorProto.UINT16, np.uint16, [65535, 127, 0, 1]),
    "i32": (TensorProto.INT32, np.int32, [-(2**31), 127, 0, -1]),
    "u32": (TensorProto.UINT32, np.uint32, [2**32 - 1, 127, 0, 1]),
    "i64": (TensorProto.INT64, np.int64, [-(2**53), 127, 0, -1]),
    "u64": (TensorProto.UINT64, np.uint64, [2**53, 127, 0, 1]),
    "bool": (TensorProto.BOOL, np.bool_, [True, False, False, True]),
}


@pytest.mark.parametrize("count", [4, 3, 1])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("name", _TYPES)
def test_initializers(name: str, raw: bool, count: int) -> None:
    """Every element type, as bytes and in the typed fields, also where sub-byte elements do not fill the last byte."""
    code, dtype, numbers = _TYPES[name]
    expected = np.array(numbers[:count]).astype(dtype)
    if raw:
        w = numpy_helper.from_array(expected, "w")
        assert w.HasField("raw_data")
    else:
        w = helper.make_tensor("w", code, [count], expected)
        assert not w.HasField("raw_data")
    module = load(model([node("Identity", ["w"], ["y"])], {}, ["y"], [w], opset=26))
    (constant,) = module.constants()
    assert str(module.main.outputs[0].type) == f"{name}[{count}]"
    assert constant.array.dtype == expected.dtype
    np.testing.assert_array_equal(constant.array.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.dims.append(2),
        lambda w: w.dims.append(-1),
        lambda w: w.dims.append(1 << 62),
        lambda w: w.dims.extend([1] * 100),
        lambda w: w.dims.extend([1 << 62] * 3000),
        lambda w: w.ClearField("raw_data"),
        lambda w: setattr(w, "raw_data", w.raw_data[:-1]),
        lambda w: setattr(w, "data_type", TensorProto.DOUBLE),
        lambda w: w.segment.SetInParent(),
    ],
)
def test_initializers_that_lie(change: Any) -> None:
    """Sizes and bytes that disagree are refused before anything is allocated."""
    w = tensor("w", [1, 2, 3])
    change(w)
    assert "`w`" in refused(model([node("Identity", ["w"], ["y"])], {}, ["y"], [w]), "IG0105")


@pytest.mark.parametrize("code", [TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.UNDEFINED, 99])
def test_element_types_that_are_not_computed_with(code: int) -> None:
    assert "`x`" in refused(model([node("Identity", ["x"], ["y"])], {"x": (code, [2])}, ["y"]), "IG0103")


# --- names ----------------------------------------------------------------------------------------------------------


def test_initializers_listed_as_inputs() -> None:
    """IR version 3 demanded it; they are constants all the same."""
    m = model([node("Add", ["x", "w"], ["y"])], {"x": (F, [2, 3]), "w": (F, [2, 3])}, ["y"], [tensor("w", X)], opset=8)
    m.ir_version = 3
    module = load(m)
    assert [v.name for v in module.main.inputs] == ["x"]
    np.testing.assert_array_equal(run(module, X), 2 * X)


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_default_domain(domain: str) -> None:
    """It has two names, in the opset list and at each node."""
    m = model([node("Relu", ["x"], ["y"], domain=domain)], {"x": (F, [2, 3])}, ["y"])
    m.opset_import[0].domain = domain
    assert ops(load(m).main) == ["math.relu"]


def test_odd_names() -> None:
    """Names are labels: any text is one, none is needed."""
    names = ["a b", "%1", '"quoted"', "ünï", "a/b:0", "x\ny"]
    steps = [node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]
    module = load(model(steps, {names[0]: (F, ["batch size", "2"])}, [names[-1]]))
    assert module.main.inputs[0].name == "a b" and module.main.output_names == ("x\ny",)
    assert len(ops(module.main)) == len(names) - 1
    np.testing.assert_array_equal(run(module, -X), 0 * X)


@pytest.mark.parametrize("word", ["f32", "graph", "in", "?", "2", "", "N*2", "batch-size", "naïve"])
def test_names_of_dimensions(word: str) -> None:
    """Whatever a dimension is called, it is one symbol; different names stay different."""
    module = load(model([node("Relu", ["x"], ["y"])], {"x": (F, [word, "N", word, 7])}, ["y"]))
    a, n, b, seven = module.main.inputs[0].type.shape
    assert n == dim("N") and seven == 7 and a != n
    assert (a == b) is bool(word)
    assert len(module.dims) == len({str(d) for d in (a, n, b)})


def test_locations_name_the_onnx_node() -> None:
    """By its name, or by what it produces; nodes of a function body by the call."""
    m = onnx_models.MODELS["control"]()
    sources = {s for n in load(m).main.nodes if n.op.name != "const" for s in n.loc.sources}
    assert sources == {"block", "left", "next", "scan", "z1", "zs", "loop", "z_act", "total", "y"}
    module = load(model([node("HardSwish", ["x"], ["y"], "activation")], {"x": (F, [2])}, ["y"]))
    assert {n.loc.sources for n in module.main.nodes if n.op.name != "const"} == {("activation",)}


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "says"),
    [
        ([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"], "again")], ["x"], ["y"], '"again"'),
        ([node("Relu", ["x"], ["x"], "self")], ["x"], ["x"], '"self"'),
        ([node("Relu", ["x"], ["w"], "over")], ["x"], ["w"], '"over"'),
        ([node("Relu", ["b"], ["a"], "first"), node("Relu", ["a"], ["b"])], ["x"], ["b"], "`b`"),
        ([node("Relu", ["x"], ["y"])], ["x"], ["y", "y"], "two outputs called `y`"),
        ([node("Relu", ["x"], ["y"])], ["x"], ["z"], "`z`"),
        ([node("Relu", ["x"], ["y"])], ["x"], [], "no outputs"),
        ([node("Split", ["x"], ["y", "y"], "halves", axis=1)], ["x"], ["y"], '"halves"'),
    ],
)
def test_names_that_make_no_graph(nodes: list[Any], inputs: list[str], outputs: list[str], says: str) -> None:
    """Doubles, cycles, and names from nowhere."""
    m = model(nodes, dict.fromkeys(inputs, (F, [2, 4])), outputs, [tensor("w", [1, 2])])
    assert says in refused(m, "IG0109")


def test_two_inputs_of_one_name() -> None:
    m = model([node("Relu", ["x"], ["y"])], {"x": (F, [2])}, ["y"])
    m.graph.input.append(m.graph.input[0])
    assert "two inputs called `x`" in refused(m, "IG0109")


# --- what is not supported ------------------------------------------------------------------------------------------


def test_unsupported_ops_are_reported_together() -> None:
    """Each once, with its domain, opset and first node; what depends on them is not complained about."""
    nodes = [
        node("SequenceEmpty", [], ["s"], "first"),
        node("SequenceInsert", ["s", "x"], ["t"], "consequence"),
        node("Inverse", ["x"], ["i"], "second", domain="com.microsoft"),
        node("Inverse", ["i"], ["j"], domain="com.microsoft"),
        node("Relu", ["x"], ["r"]),
        node("TfIdfVectorizer", ["r"], ["v"], "third"),
        node("Add", ["v", "r"], ["y"]),
    ]
    m = model(nodes, {"x": (F, [2, 3])}, ["y"], opsets=[helper.make_opsetid("com.microsoft", 1)])
    with pytest.raises(IntaglioError) as caught:
        load(m)
    found = [d.message for d in caught.value.diagnostics]
    assert {d.code for d in caught.value.diagnostics} == {"IG0104"}
    assert len(found) == 3
    for text, words in zip(
        found,
        [
            ("`SequenceEmpty`", "ai.onnx, opset 21", '"first"'),
            ("`Inverse`", "com.microsoft, opset 1", '"second"'),
            ("`TfIdfVectorizer`", "opset 21", '"third"'),
        ],
        strict=True,
    ):
        assert all(w in text for w in words), text


def test_unsupported_ops_are_not_hidden_by_a_later_mistake() -> None:
    nodes = [node("SequenceEmpty", [], ["s"]), node("Concat", ["x"], ["y"], "bad", axis=7)]
    with pytest.raises(IntaglioError) as caught:
        load(model(nodes, {"x": (F, [2])}, ["y"]))
    assert [d.code for d in caught.value.diagnostics] == ["IG0104", "IG0107"]
    assert '"bad"' in str(caught.value)


@pytest.mark.parametrize("version", [0, -1, 1000, 1 << 40])
def test_opsets_that_do_not_exist(version: int) -> None:
    assert "opset" in refused(model([node("Relu", ["x"], ["y"])], {"x": (F, [2])}, ["y"], opset=version), "IG0102")


@pytest.mark.parametrize(
    ("attributes", "operands", "op"),
    [
        ({"axis": "one"}, 2, "Concat"),
        ({"axis": 2}, 2, "Concat"),
        ({"pads": [0.5] * 8}, 1, "MaxPool"),
        ({"kernel_shape": [2]}, 1, "MaxPool"),
        ({"kernel_shape": [0, 0]}, 1, "MaxPool"),
        ({"kernel_shape": [1, 1], "strides": [0, 1]}, 1, "MaxPool"),
        ({"kernel_shape": [1, 1], "auto_pad": "SAME"}, 1, "MaxPool"),
        ({"perm": [0, 0, 1, 2]}, 1, "Transpose"),
        ({"to": 8}, 1, "Cast"),
        ({}, 1, "Cast"),
        ({}, 1, "Add"),
        ({}, 3, "Add"),
        ({"equation": "a->"}, 1, "Einsum"),
        ({"axis": 9}, 1, "Softmax"),
        ({"mode": "sideways"}, 1, "DepthToSpace"),
        ({"direction": "UP"}, 2, "BitShift"),
    ],
)
def test_attributes_that_make_no_sense(attributes: dict[str, Any], operands: int, op: str) -> None:
    """The diagnostic names the node."""
    m = model([node(op, ["x"] * operands, ["y"], "bad node", **attributes)], {"x": (F, [1, 1])}, ["y"])
    with pytest.raises(IntaglioError) as caught:
        load(m)
    assert "bad node" in str(caught.value)
    assert caught.value.diagnostics[0].code[:4] in ("IG01", "IG02")


# --- functions and bodies -------------------------------------------------------------------------------------------


def function(name: str, nodes: list[Any], **options: Any) -> Any:
    opsets = [helper.make_opsetid("", options.pop("opset", 21)), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["x", "bias"], ["y"], nodes, opsets, **options)


def with_functions(nodes: list[Any], *functions: Any) -> Any:
    return model(nodes, {"x": (F, [2, 3])}, ["y"], functions=functions, opsets=[helper.make_opsetid("local", 1)])


def test_functions_of_the_model() -> None:
    """Expanded in place, with attributes, defaults, and operands that are left out."""
    leaky = node("LeakyRelu", ["x"], ["h"])
    leaky.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    body = [leaky, node("Clip", ["h", "bias"], ["y"])]
    f = function("Act", body, attributes=[], attribute_protos=[helper.make_attribute("slope", 0.5)])
    lower = node("Constant", [], ["low"], value_float=-1.0)
    for operands, attributes, expected in [
        (["x"], {}, np.where(X - 3 < 0, (X - 3) * 0.5, X - 3)),
        (["x", "low"], {"slope": 2.0}, np.maximum(np.where(X - 3 < 0, (X - 3) * 2, X - 3), -1)),
    ]:
        m = with_functions([lower, node("Act", operands, ["y"], domain="local", **attributes)], f)
        np.testing.assert_allclose(run(load(m), X - 3), expected)


def test_functions_have_opsets_of_their_own() -> None:
    """Softmax flattened its operand before opset 13."""
    f = helper.make_function(
        "local", "Old", ["x"], ["y"], [node("Softmax", ["x"], ["y"], axis=0)], [helper.make_opsetid("", 11)]
    )
    y = run(load(with_functions([node("Old", ["x"], ["y"], domain="local")], f)), X)
    assert y.sum() == pytest.approx(1)


def test_functions_that_never_end() -> None:
    """Calling themselves, each other, or so often that no machine finishes."""
    call = [node("A", ["x"], ["y"], domain="local")]
    itself = function("A", call)
    others = [function("A", [node("B", ["x"], ["y"], domain="local")]), function("B", call)]
    levels = [
        function(
            f"A{i}" if i else "A",
            [
                node(f"A{i + 1}" if i < 19 else "Relu", ["x"], [f"y{k}"], domain="local" if i < 19 else "")
                for k in range(9)
            ]
            + [node("Sum", [f"y{k}" for k in range(9)], ["y"])],
        )
        for i in range(20)
    ]
    for functions in ([itself], others, levels):
        assert "call themselves" in refused(with_functions(call, *functions), "IG0104")


@pytest.mark.parametrize(
    "op", ["GroupNormalization", "CenterCropPad", "SoftmaxCrossEntropyLoss", "MeanVarianceNormalization"]
)
def test_ops_with_bodies_in_onnx_itself(op: str) -> None:
    """Those without a converter import by the body of their schema (in this version), with its defaults."""
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32)
    operands: dict[str, list[Any]] = {
        "GroupNormalization": [tensor("a", [1, 2, 3, 4]), tensor("b", [0, 1, 0, 1])],
        "CenterCropPad": [tensor("a", [2, 4, 2, 4], np.int64)],
        "SoftmaxCrossEntropyLoss": [tensor("a", np.ones((2, 3, 3)), np.int64)],
    }
    more = operands.get(op, [])
    attributes = {"num_groups": 2} if op == "GroupNormalization" else {}
    m = model([node(op, ["x", *(t.name for t in more)], ["y"], **attributes)], {"x": (F, x.shape)}, ["y"], more)
    from onnx.reference import ReferenceEvaluator

    np.testing.assert_allclose(run(load(m), x), ReferenceEvaluator(m).run(None, {"x": x})[0], rtol=1e-5, atol=1e-5)


def test_every_op_with_a_body_has_it_expanded() -> None:
    """An op is supported by converter or by body; the two are told apart by `supported_ops`."""
    assert "Conv" in supported_ops() and "GroupNormalization" not in supported_ops()
    assert supported_ops() == sorted(supported_ops())


@pytest.mark.parametrize("condition", [True, False])
def test_branches_that_are_always_taken(condition: bool) -> None:
    def branch(op: str, out: str) -> Any:
        return helper.make_graph([node(op, ["x"], [out], op)], "branch", [], [helper.make_empty_tensor_value_info(out)])

    n = node("If", ["c"], ["y"], then_branch=branch("Exp", "a"), else_branch=branch("Tanh", "b"))
    module = load(model([n], {"x": (F, [2])}, ["y"], [tensor("c", condition, np.bool_)]))
    assert ops(module.main) == ["math.exp" if condition else "math.tanh"]
    assert module.main.nodes[-1].loc.sources == ("Exp" if condition else "Tanh",)
    computed = model([n], {"x": (F, [2]), "c": (TensorProto.BOOL, [])}, ["y"])
    assert "condition" in refused(computed, "IG0108")
    module, left = load_specialized(computed, {"x": X[0, :2], "c": np.array(condition)}, static=False)
    assert left == ("x",) and ops(module.main) == ["math.exp" if condition else "math.tanh"]


def test_loops_are_unrolled() -> None:
    """Scan and Loop of known length; the numbers are those of the plain loops."""
    module = load(onnx_models.MODELS["control"]())
    assert not [o for o in ops(module.main) if "loop" in o or "scan" in o]
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    swish = lambda v: v * np.clip(v / 6 + 0.5, 0, 1)  # noqa: E731
    block = lambda v: swish(2 * v) + v  # noqa: E731
    sums = np.cumsum(block(block(x)), axis=0)
    turns = [sums / 2, sums / 4, sums / 8]
    celu = np.where(turns[-1] < 0, 0.7 * (np.exp(turns[-1] / 0.7) - 1), turns[-1])
    y, last = run(module, x)
    np.testing.assert_allclose(y, celu + sum(np.maximum(t, 0) for t in turns), rtol=1e-5)
    np.testing.assert_allclose(last, sums[-1], rtol=1e-5)


def test_a_weight_in_a_loop_is_one_constant() -> None:
    """A body that is imported a thousand times does not copy its data a thousand times."""
    body = helper.make_graph(
        [node("Add", ["z", "w"], ["z1"]), node("Identity", ["go"], ["on"])],
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", I64, []), ("go", 9, []), ("z", F, [100]))],
        [helper.make_empty_tensor_value_info(o) for o in ("on", "z1")],
        [tensor("w", np.ones(100))],
    )
    n = node("Loop", ["trips", "", "x"], ["y"], body=body)
    module = load(model([n], {"x": (F, [100])}, ["y"], [tensor("trips", 1000, np.int64)]))
    assert len(list(module.constants())) == 1
    np.testing.assert_array_equal(run(module, np.zeros(100, np.float32)), np.full(100, 1000, np.float32))


# --- shapes ---------------------------------------------------------------------------------------------------------


def test_shapes_that_the_graph_computes_become_attributes() -> None:
    """Exporters split heads with Shape, Gather, Concat, Reshape: nothing dynamic is left of it."""
    module = load(onnx_models.MODELS["transformer"]())
    names = ops(module.main)
    assert (
        not [o for o in names if o.startswith("dyn.")] and "shape.extents" not in names and "shape.concat" not in names
    )
    n, s = dim("N"), dim("S")
    shapes = [node.attr("shape") for node in module.main.nodes if node.op.name == "shape.reshape"]
    assert shapes.count((n, s, 2, 4)) == 3 and shapes.count((n, s, 8)) == 1


def test_a_vision_transformer_flattens_patches() -> None:
    """Shape -> Slice -> Concat with -1, and the class token expanded to the batch."""
    ints = {"zero": [0], "two": [2], "minus": [-1], "one_v": [1], "d": [4]}
    nodes = [
        node("Conv", ["image", "w"], ["patches"], strides=[4, 4]),
        node("Shape", ["patches"], ["full"]),
        node("Slice", ["full", "zero", "two"], ["nc"]),
        node("Concat", ["nc", "minus"], ["flat_shape"], axis=0),
        node("Reshape", ["patches", "flat_shape"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("Shape", ["image"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "one_v", "d"], ["cls_shape"], axis=0),
        node("Expand", ["cls", "cls_shape"], ["first"]),
        node("Concat", ["first", "tokens"], ["y"], axis=1),
    ]
    initializers = [tensor("w", np.ones((4, 3, 4, 4))), tensor("cls", np.zeros((1, 1, 4)))]
    initializers += [tensor(k, v, np.int64) for k, v in ints.items()]
    module = load(model(nodes, {"image": (F, ["N", 3, 16, 16])}, ["y"], initializers))
    assert not [o for o in ops(module.main) if o.startswith("dyn.") or o == "shape.extents"]
    assert module.main.outputs[0].type is Tensor((dim("N"), 17, 4), "f32")


def test_a_decoder_upsamples_to_computed_sizes() -> None:
    """Sizes made of a symbolic batch and doubled extents."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "zero", "two"], ["nc"]),
        node("Slice", ["shape", "two", "four"], ["hw"]),
        node("Mul", ["hw", "two"], ["larger"]),
        node("Concat", ["nc", "larger"], ["sizes"], axis=0),
        node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    initializers = [tensor(k, [v], np.int64) for k, v in {"zero": 0, "two": 2, "four": 4}.items()]
    module = load(model(nodes, {"x": (F, ["N", 3, 4, 5])}, ["y"], initializers))
    assert ops(module.main) == ["nn.resize"]
    assert module.main.outputs[0].type is Tensor((dim("N"), 3, 8, 10), "f32")


def test_arithmetic_on_extents() -> None:
    """Quotients, products and sums of symbols stay exact."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "i0"], ["n"]),
        node("Mul", ["n", "six"], ["n6"]),
        node("Div", ["n6", "two"], ["n3"]),
        node("Unsqueeze", ["n3", "axis0"], ["rows"]),
        node("Concat", ["rows", "minus"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    numbers = {"i0": 0, "six": 6, "two": 2, "axis0": [0], "minus": [-1]}
    initializers = [tensor(k, v, np.int64) for k, v in numbers.items()]
    module = load(model(nodes, {"x": (F, ["N", 12])}, ["y"], initializers))
    assert str(module.main.outputs[0].type) == "f32[3*N, 4]"


def test_what_only_a_run_can_tell_stays_dynamic() -> None:
    """Attributes that the model computes make a `dyn.apply`, which runs, and which given inputs freeze."""
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    cases: list[tuple[str, dict[str, Any], list[Any], Any]] = [
        ("Reshape", {}, [[4, 0, -1]], x.reshape(4, 3, 2)),
        ("Expand", {}, [[3, 1, 1, 4]], np.broadcast_to(x, (3, 2, 3, 4))),
        ("Tile", {}, [[1, 2, 1]], np.tile(x, (1, 2, 1))),
        ("Pad", {}, [[0, 1, 0, 0, 0, 2]], np.pad(x, ((0, 0), (1, 0), (0, 2)))),
        ("Slice", {}, [[1], [3], [2], [2]], x[:, :, 1:3:2]),
        ("ReduceSum", {"keepdims": 0}, [[1, 2]], x.sum((1, 2))),
        ("Unsqueeze", {}, [[0]], x[None]),
        ("CumSum", {}, [1], x.cumsum(1)),
    ]
    for op, attributes, values, expected in cases:
        names = [f"v{i}" for i in range(len(values))]
        arrays = [np.array(v, dtype=np.int64) for v in values]
        inputs = {"x": (F, x.shape), **{n: (I64, a.shape) for n, a in zip(names, arrays, strict=True)}}
        m = model([node(op, ["x", *names], ["y"], **attributes)], inputs, ["y"])
        module = load(m)
        assert "dyn.apply" in ops(module.main), op
        np.testing.assert_array_equal(run(module, x, *arrays), expected, err_msg=op)
        given = {"x": x, **dict(zip(names, arrays, strict=True))}
        frozen, left = load_specialized(m, given, static=True)
        assert left == ("x",) and not [o for o in ops(frozen.main) if o.startswith("dyn.")], op
        np.testing.assert_array_equal(run(frozen, x), expected, err_msg=op)


def test_data_dependent_results() -> None:
    """Their extents are `?`, and what follows still runs."""
    module = load(onnx_models.MODELS["shapes"]())
    assert "dyn.nonzero" in ops(module.main)
    x = np.array([[1, 0, 2, 2], [0, 0, 3, 0]], dtype=np.float32)
    results = dict(zip(module.main.output_names, run(module, x, np.ones((1, 4, 3, 3), np.float32)), strict=True))
    np.testing.assert_array_equal(results["distinct"], [1, 2, 3])
    np.testing.assert_array_equal(results["columns"], x[:, [True, False, True, False]])


# --- quantisation ---------------------------------------------------------------------------------------------------


def test_qdq_pairs_become_types() -> None:
    """Per tensor: quantize and dequantize of one quantised value; the stored integers go when nobody reads them."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    scale = [tensor("s", 0.1), tensor("z", 3, np.int8)]
    module = load(model(nodes, {"x": (F, ["N", 3])}, ["y"], scale))
    assert ops(module.main) == ["quant.quantize", "quant.dequantize"]
    elem = module.main.nodes[0].output.type.elem
    assert isinstance(elem, Affine)
    assert (str(elem.store), str(elem.real), elem.scale, elem.zero) == ("i8", "f32", float(np.float32(0.1)), 3)
    both = load(model(nodes, {"x": (F, ["N", 3])}, ["y", "q"], scale))
    assert sorted(ops(both.main)) == ["quant.dequantize", "quant.quantize", "quant.store"]


def test_qdq_weights_are_constants_of_quantised_type() -> None:
    """Per axis: the scales are a constant of the type, by their own name; per block: with a group."""
    module = load(onnx_models.MODELS["qdq"]())
    types = {n.constant.name: n.output.type.elem for n in module.main.nodes if n.constant is not None}
    w8 = types["w8"]
    assert isinstance(w8, Affine) and w8.axis == 0 and w8.group is None and w8.scale.name == "sw" and w8.zero == 0
    np.testing.assert_array_equal(w8.scale.array, np.float32([0.01, 0.02, 0.03, 0.04]))
    w4 = types["w4"]
    assert isinstance(w4, Affine) and (str(w4.store), w4.axis, w4.group) == ("i4", 1, 3)
    assert {"w8", "w4", "sw", "s4"} <= {c.name for c in module.constants()}
    assert "quant.store" not in ops(module.main)[:5], "the integers of `xq` and of the weights are read by nobody"


@pytest.mark.parametrize(
    ("scale", "zero", "attributes"),
    [
        ([0.1, 0.2], [0, 0], {"axis": 0}),
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0], {"axis": 5}),
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 0], {"axis": 0}),
        ([[0.1], [0.2]], [[0], [0]], {"axis": 1, "block_size": 1 << 40}),
        ([[0.1, 0.2]] * 4, [[0, 0]] * 4, {"axis": 1, "block_size": -1}),
    ],
)
def test_scales_that_do_not_fit(scale: Any, zero: Any, attributes: dict[str, int]) -> None:
    w = [tensor("w", np.zeros((4, 6)), np.int8), tensor("s", scale), tensor("z", zero, np.int8)]
    refused(model([node("DequantizeLinear", ["w", "s", "z"], ["y"], **attributes)], {}, ["y"], w), "IG0107")


def test_scales_that_only_a_run_knows() -> None:
    """They cannot be part of a type: the arithmetic is written out."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    module = load(model(nodes, {"x": (F, [2, 3]), "s": (F, []), "z": (TensorProto.UINT8, [])}, ["y", "q"]))
    assert not [o for o in ops(module.main) if o.startswith("quant.")]
    y, q = run(module, X, np.float32(0.5), np.uint8(2))
    np.testing.assert_array_equal(q, X * 2 + 2)
    np.testing.assert_array_equal(y, X)
