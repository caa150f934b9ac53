"""Every converter in every form that its op ever had: axes, pads, k and the like moved from attributes to operands.

The cases are the one-node models of ONNX's backend tests, written down again in the older opsets that can say the same,
with the same results; where an op changed its meaning, the expected numbers are stated here.
"""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from intaglio.compiler.frontends.onnx import load_specialized, supported_ops
from intaglio.ir import IntaglioError, evaluate, verify

CASES = 6  # of one op in one version

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")  # ReduceSum was first

# Operands of today that were attributes: op -> operand -> (attribute, last opset of that form)
WERE_ATTRIBUTES: dict[str, dict[int, tuple[str, int]]] = {
    **{f"Reduce{kind}": {1: ("axes", 17)} for kind in _REDUCTIONS},
    "ReduceSum": {1: ("axes", 12)}, "Squeeze": {1: ("axes", 12)}, "Unsqueeze": {1: ("axes", 12)},
    "Clip": {1: ("min", 10), 2: ("max", 10)}, "Reshape": {1: ("shape", 4)}, "TopK": {1: ("k", 9)},
    "Upsample": {1: ("scales", 8)},
    "Slice": {1: ("starts", 9), 2: ("ends", 9), 3: ("axes", 9)}, "Split": {1: ("split", 12)},
    "Pad": {1: ("pads", 10), 2: ("value", 10)}, "Dropout": {1: ("ratio", 11)},
}  # fmt: skip
SCALARS = {"min", "max", "k", "value", "ratio"}

# (op, version) whose meaning is another than today's; they have tests of their own below, or are refused
CHANGED = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), range(1, 13)),  # flattened the operand at `axis`
    "Resize": range(10, 11),  # sampled asymmetrically
    "RoiAlign": range(10, 16),  # half a pixel off
    "Dropout": range(1, 7),  # dropped unless is_test
    "Scan": range(8, 9),  # batched
    "Tile": range(1, 6),  # one axis
    "Upsample": range(1, 7),  # width and height
    "BatchNormalization": range(1, 14),  # running means came out as results of training
    "GridSample": range(16, 20),  # called linear bilinear
    "PRelu": range(1, 7),  # a slope per channel
    "Pad": range(1, 2),  # pads were called paddings
}


@functools.cache
def schemas() -> dict[str, list[Any]]:
    """All versions of each op, oldest first."""
    found = defaultdict(list)
    for s in onnx.defs.get_all_schemas_with_history():
        if s.domain == "" and not s.deprecated:
            found[s.name].append(s)
    return {name: sorted(versions, key=lambda s: s.since_version) for name, versions in found.items()}


@functools.cache
def cases() -> dict[str, list[Any]]:
    """ONNX's tests of one node, by op."""
    from onnx.backend.test.loader import load_model_tests

    found = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t in load_model_tests(kind="node"):
            if t.model is not None and len(t.model.graph.node) == 1 and not t.model.functions:
                found[t.model.graph.node[0].op_type].append(t)
    return found


def rewritten(case: Any, schema: Any) -> tuple[onnx.ModelProto, dict[str, Any]] | None:
    """The case in an older version: the model and its inputs; None where that version cannot say it."""
    old = case.model.graph.node[0]
    version = schema.since_version
    arrays, expected = case.data_sets[0]
    of = {e.domain: e.version for e in case.model.opset_import}
    if of.get("", 1) < version or not all(isinstance(a, (np.ndarray, np.generic)) for a in [*arrays, *expected]):
        return None
    if any(a.type == onnx.AttributeProto.GRAPH for a in old.attribute):  # a body would have to be rewritten as well
        return None
    given = dict(zip([i.name for i in case.model.graph.input], arrays, strict=True))
    n = onnx.NodeProto()
    n.CopyFrom(old)
    for i, (attribute, last) in WERE_ATTRIBUTES.get(old.op_type, {}).items():
        if version <= last and i < len(old.input) and old.input[i]:
            if attribute not in schema.attributes or old.input[i] not in given:
                return None
            value = np.asarray(given.pop(old.input[i]))
            if not value.size:  # an absent attribute meant something else
                return None
            plain = value.reshape(-1)[0].item() if attribute in SCALARS else value.ravel().tolist()
            n.attribute.append(helper.make_attribute(attribute, plain))
            n.input[i] = ""
    while n.input and not n.input[-1]:
        del n.input[-1]
    known = schema.attributes
    if (
        len(n.input) > schema.max_input
        or len(n.output) > schema.max_output
        or any(a.name not in known for a in n.attribute)
    ):
        return None
    if version < 7 and old.op_type in ("Cast",):
        for a in n.attribute:
            if a.name == "to" and version < 6:
                a.CopyFrom(helper.make_attribute("to", TensorProto.DataType.Name(a.i)))
    inputs = [i for i in case.model.graph.input if i.name in given]
    graph = helper.make_graph([n], "old", inputs, list(case.model.graph.output))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)]), given


def results(model: onnx.ModelProto, inputs: dict[str, Any]) -> tuple[Any, ...]:
    """What the imported model computes; inputs that the import must know are constants."""
    module, left = load_specialized(model, inputs, static=False)
    verify(module)
    return evaluate(module.main, [np.asarray(inputs[name]) for name in left], check=True)


OLD = [
    (name, s) for name in supported_ops() for s in schemas()[name][:-1] if s.since_version not in CHANGED.get(name, ())
]


@pytest.mark.parametrize(("name", "schema"), OLD, ids=[f"{n}-{s.since_version}" for n, s in OLD])
def test_older_versions(name: str, schema: Any) -> None:
    """The results are those of the newest version."""
    done = 0
    for case in cases()[name]:
        found = rewritten(case, schema)
        if found is None or "training" in case.name:  # with random results
            continue
        for actual, expected in zip(results(*found), case.data_sets[0][1], strict=False):
            tolerance = {"rtol": max(case.rtol, 1e-2 if np.asarray(expected).itemsize <= 2 else 1e-3), "atol": 1e-6}
            if np.asarray(expected).dtype.kind not in "biu":
                actual, expected = (np.asarray(a, dtype=np.float64) for a in (actual, expected))
            np.testing.assert_allclose(actual, expected, err_msg=case.name, **tolerance)
        done += 1
        if done == CASES:
            break
    if not done:
        pytest.skip("no case of ONNX's can be said in this version")


def test_most_old_versions_are_covered() -> None:
    """The table above is no empty shell: all but a few of the old versions have a case."""
    covered = sum(any(rewritten(case, s) is not None for case in cases()[name]) for name, s in OLD)
    print(f"{covered} of {len(OLD)} old versions of {len(supported_ops())} ops have a case")
    assert covered >= 0.85 * len(OLD)


# --- where the meaning changed --------------------------------------------------------------------------------------


def old(op: str, version: int, *arrays: Any, outputs: int = 1, **attributes: Any) -> Any:
    """The first result of one node in an old opset."""
    arrays = tuple(np.asarray(a) for a in arrays)
    names = [f"x{i}" for i in range(len(arrays))]
    n = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], "old", **attributes)
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for k, a in zip(names, arrays, strict=True)
    ]
    graph = helper.make_graph([n], "old", inputs, [helper.make_empty_tensor_value_info("y0")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    return results(model, dict(zip(names, arrays, strict=True)))[0]


X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize("version", [1, 11])
@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_softmax_flattened(version: int, axis: int | None) -> None:
    """Before opset 13, all axes from `axis` (1 by default) on are one."""
    rows = int(np.prod(X.shape[: 1 if axis is None else axis]))
    flat = X.reshape(rows, -1)
    attributes = {} if axis is None else {"axis": axis}
    e = np.exp(flat - flat.max(1, keepdims=True))
    np.testing.assert_allclose(
        old("Softmax", version, X, **attributes), (e / e.sum(1, keepdims=True)).reshape(X.shape), rtol=1e-5
    )
    expected = np.log(e / e.sum(1, keepdims=True)).reshape(X.shape)
    np.testing.assert_allclose(old("LogSoftmax", version, X, **attributes), expected, rtol=1e-4)
    hard = (flat == flat.max(1, keepdims=True)).astype(np.float32)
    np.testing.assert_array_equal(old("Hardmax", version, X, **attributes), hard.reshape(X.shape))


@pytest.mark.parametrize("version", [1, 6])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_broadcasting_along_an_axis(op: str, version: int) -> None:
    """Before opset 7, `axis` says where the axes of the second operand stand."""
    fn = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op]
    for axis, shape in [(0, (2,)), (1, (3,)), (2, (4,)), (0, (2, 3)), (1, (3, 4))]:
        b = np.random.default_rng(1).uniform(1, 2, shape).astype(np.float32)
        wide = b.reshape([1] * axis + list(shape) + [1] * (3 - axis - len(shape)))
        np.testing.assert_allclose(old(op, version, X, b, broadcast=1, axis=axis), fn(X, wide), rtol=1e-6)
    np.testing.assert_allclose(
        old(op, version, X, np.float32([1, 2, 3, 4]), broadcast=1), fn(X, np.float32([1, 2, 3, 4])), rtol=1e-6
    )


def test_tile_of_opset_1() -> None:
    np.testing.assert_array_equal(old("Tile", 1, X, np.int64(3), np.int64(1)), np.tile(X, (1, 3, 1)))


def test_pad_of_opset_1() -> None:
    np.testing.assert_array_equal(
        old("Pad", 1, X, paddings=[0, 1, 0, 0, 0, 2], value=7.0), np.pad(X, ((0, 0), (1, 0), (0, 2)), constant_values=7)
    )


def test_upsample_of_opset_1() -> None:
    x = X[None]
    np.testing.assert_array_equal(old("Upsample", 1, x, height_scale=2.0, width_scale=3.0), x.repeat(2, 2).repeat(3, 3))


def test_resize_of_opset_10() -> None:
    """Nearest below, coordinates from the corner."""
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    np.testing.assert_array_equal(old("Resize", 10, x, np.float32([1, 1, 1, 1.5])).ravel(), [0, 0, 1, 2, 2, 3])


def test_cast_of_opset_1() -> None:
    """The type was a word."""
    np.testing.assert_array_equal(old("Cast", 1, X, to="INT32"), X.astype(np.int32))


def test_prelu_before_opset_7() -> None:
    """A slope per channel, whatever axes follow."""
    slope = np.float32([0.1, 0.2, 0.3])
    np.testing.assert_allclose(old("PRelu", 6, X, slope), np.where(X < 0, X * slope[:, None], X))


def test_batch_norm_before_opset_14() -> None:
    scale, bias, mean, var = (np.float32([1, 2, 3]) * k for k in (1, 0.5, 0.25, 2))
    expected = (X - mean[:, None]) / np.sqrt(var[:, None] + 1e-5) * scale[:, None] + bias[:, None]
    for version, more in [(1, {"is_test": 1}), (6, {"is_test": 1}), (7, {}), (9, {})]:
        np.testing.assert_allclose(
            old("BatchNormalization", version, X, scale, bias, mean, var, **more), expected, rtol=1e-5, atol=1e-6
        )


def test_grid_sample_called_linear_bilinear() -> None:
    grid = np.random.default_rng(0).uniform(-1, 1, (1, 2, 2, 2)).astype(np.float32)
    a, b = old("GridSample", 16, X[None], grid, mode="bilinear"), old("GridSample", 20, X[None], grid, mode="linear")
    np.testing.assert_array_equal(a, b)


def test_roi_align_before_opset_16() -> None:
    """No half-pixel shift unless asked for."""
    rois, batch = np.float32([[0, 0, 2, 2]]), np.int64([0])
    a = old("RoiAlign", 10, X[None], rois, batch, output_height=2, output_width=2)
    b = old(
        "RoiAlign",
        16,
        X[None],
        rois,
        batch,
        output_height=2,
        output_width=2,
        coordinate_transformation_mode="output_half_pixel",
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("op", "version", "attributes", "operands"),
    [
        ("Dropout", 1, {}, 1),  # would drop at random
        ("Dropout", 6, {"is_test": 0}, 1),
        ("BatchNormalization", 7, {"spatial": 0}, 5),
    ],
)
def test_old_meanings_that_are_refused(op: str, version: int, attributes: dict[str, int], operands: int) -> None:
    with pytest.raises(IntaglioError, match='"old"'):
        old(op, version, *[X[:, :3, :3]] * operands, **attributes)


def test_dropout_that_drops_nothing() -> None:
    for version, attributes in [(1, {"is_test": 1}), (6, {"is_test": 1}), (7, {"ratio": 0.3}), (10, {}), (13, {})]:
        np.testing.assert_array_equal(old("Dropout", version, X, **attributes), X)


def test_initializers_as_operands_of_old_forms() -> None:
    """Constant operands, not only inputs: nothing dynamic is left."""
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"])],
        "new",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])],
        [helper.make_empty_tensor_value_info("y")],
        [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    np.testing.assert_allclose(results(model, {"x": X})[0], X.sum(1, keepdims=True), rtol=1e-6)
