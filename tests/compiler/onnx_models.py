"""Small ONNX models of the kinds that people import, built with `onnx.helper`: what the importer's tests start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["MODELS", "model", "node", "tensor"]

F, I64 = TensorProto.FLOAT, TensorProto.INT64
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {}

node = helper.make_node


def tensor(name: str, array: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(array, dtype=dtype), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: Sequence[str],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 21,
    **options: Any,
) -> onnx.ModelProto:
    """A model of default-domain nodes; outputs without declared types, as the importer does not read them."""
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info(n, t, list(s)) for n, (t, s) in inputs.items()],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", opset), *options.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **options)


def _kind(fn: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    MODELS[fn.__name__] = fn
    return fn


def _weights(seed: int) -> Callable[..., onnx.TensorProto]:
    rng = np.random.default_rng(seed)
    return lambda name, *shape: tensor(name, rng.standard_normal(shape) * 0.3)


@_kind
def cnn() -> onnx.ModelProto:
    """A small image classifier with a symbolic batch: convolutions, batch norm, pooling, a depthwise block, a head."""
    w = _weights(0)
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c1", "s", "t", "m", "v"], ["n1"], "bn1", epsilon=1e-3),
        node("Relu", ["n1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2"], ["c2"], "depthwise", group=4, auto_pad="SAME_UPPER", dilations=[1, 1]),
        node("Clip", ["c2", "zero", "six"], ["k2"], "relu6"),
        node("Add", ["k2", "r1"], ["a2"], "residual"),
        node("MaxPool", ["a2"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("AveragePool", ["p"], ["q"], "mean", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        node("ConvTranspose", ["q", "w3"], ["u"], "up", strides=[2, 2], output_padding=[1, 1]),
        node("LRN", ["u"], ["l"], "lrn", size=3),
        node("GlobalAveragePool", ["l"], ["g"], "global"),
        node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "w4", "b4"], ["y"], "fc", transB=1, alpha=0.5),
        node("Softmax", ["y"], ["p_out"], "softmax", axis=1),
        node("ArgMax", ["p_out"], ["best"], "best", axis=1, keepdims=0),
    ]
    ones = [tensor(n, np.linspace(0.5, 1.5, 4)) for n in ("s", "t", "m", "v")]
    weights = [w("w1", 4, 3, 3, 3), w("b1", 4), w("w2", 4, 1, 3, 3), w("w3", 4, 4, 3, 3), w("w4", 5, 4), w("b4", 5)]
    limits = [tensor("zero", 0), tensor("six", 6)]
    return model(nodes, {"x": (F, ["N", 3, 16, 16])}, ["p_out", "best"], [*weights, *ones, *limits])


@_kind
def transformer() -> onnx.ModelProto:
    """One encoder block as PyTorch exports it: head splitting by shapes that the graph computes, masks, erf-GELU."""
    w = _weights(1)
    d, heads = 8, 2
    ints = {
        "i0": 0,
        "i1": 1,
        "axis0": [0],
        "heads": [heads],
        "head_size": [d // heads],
        "all": [d],
        "minus": [-1],
        "a1": [1],
        "a2": [2],
    }
    nodes = [
        node("Gather", ["table", "ids"], ["embedded"], "embed"),
        node("LayerNormalization", ["embedded", "g", "b"], ["x"], "ln", axis=-1, epsilon=1e-6),
        node("Shape", ["x"], ["shape"], "shape"),
        node("Gather", ["shape", "i0"], ["n"], "batch"),
        node("Gather", ["shape", "i1"], ["s"], "sequence"),
        node("Unsqueeze", ["n", "axis0"], ["n1"]),
        node("Unsqueeze", ["s", "axis0"], ["s1"]),
        node("Concat", ["n1", "s1", "heads", "head_size"], ["split"], "split_shape", axis=0),
        node("Concat", ["n1", "s1", "all"], ["merge"], "merge_shape", axis=0),
        *[
            step
            for letter in "qkv"
            for step in (
                node("MatMul", ["x", f"w{letter}"], [f"{letter}0"], f"{letter}_proj"),
                node("Add", [f"{letter}0", f"b{letter}"], [f"{letter}1"]),
                node("Reshape", [f"{letter}1", "split"], [f"{letter}2"], f"{letter}_split"),
                node("Transpose", [f"{letter}2"], [letter], perm=[0, 2, 3, 1] if letter == "k" else [0, 2, 1, 3]),
            )
        ],
        node("MatMul", ["q", "k"], ["scores"], "scores"),
        node("Div", ["scores", "root"], ["scaled"]),
        node("Unsqueeze", ["mask", "a1"], ["mask1"]),
        node("Unsqueeze", ["mask1", "a2"], ["mask2"]),
        node("Cast", ["mask2"], ["keep"], to=TensorProto.BOOL),
        node("Where", ["keep", "scaled", "low"], ["masked"], "mask"),
        node("Softmax", ["masked"], ["probabilities"], "softmax", axis=-1),
        node("MatMul", ["probabilities", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "merge"], ["joined"], "merge"),
        node("Einsum", ["joined", "wo"], ["projected"], equation="bsd,de->bse"),
        node("Add", ["projected", "x"], ["h"], "residual"),
        node("MatMul", ["h", "w_up"], ["up"]),
        node("Split", ["up"], ["gate", "value"], axis=-1, num_outputs=2),
        node("Div", ["gate", "root2"], ["g1"]),
        node("Erf", ["g1"], ["g2"]),
        node("Add", ["g2", "one"], ["g3"]),
        node("Mul", ["gate", "g3"], ["g4"]),
        node("Mul", ["g4", "half"], ["g5"]),
        node("Mul", ["g5", "value"], ["act"]),
        node("ReduceMean", ["act", "a1"], ["pooled"], keepdims=0),
        node("Slice", ["pooled", "axis0", "a2", "minus"], ["y"], "first_two"),
    ]
    weights = [w("table", 11, d), w("g", d), w("b", d), w("w_up", d, 2 * d), w("wo", d, d)]
    weights += [w(f"w{c}", d, d) for c in "qkv"] + [w(f"b{c}", d) for c in "qkv"]
    scalars = [tensor("root", 2), tensor("low", -1e9), tensor("root2", 2**0.5), tensor("one", 1), tensor("half", 0.5)]
    numbers = [tensor(n, v, np.int64) for n, v in ints.items()]
    inputs = {"ids": (I64, ["N", "S"]), "mask": (I64, ["N", "S"])}
    return model(nodes, inputs, ["y"], [*weights, *scalars, *numbers])


@_kind
def qdq() -> onnx.ModelProto:
    """Quantised with QDQ pairs (per tensor, per channel, blocked int4) and with the integer operators."""
    rng = np.random.default_rng(2)
    w8 = tensor("w8", rng.integers(-127, 127, (4, 3, 3, 3)), np.int8)
    w4 = helper.make_tensor("w4", TensorProto.INT4, [4, 6], rng.integers(-8, 7, 24).tolist())
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], "q_x"),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], "dq_x"),
        node("DequantizeLinear", ["w8", "sw", "zw"], ["wd"], "dq_w", axis=0),
        node("Conv", ["xd", "wd"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("QuantizeLinear", ["r", "sx", "zx"], ["rq"], "q_r"),
        node("QLinearConv", ["rq", "sx", "zx", "w1", "sw1", "zw", "sx", "zx"], ["c2"], "qlinear", kernel_shape=[1, 1]),
        node("DequantizeLinear", ["c2", "sx", "zx"], ["d2"], "dq_c2"),
        node("GlobalAveragePool", ["d2"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("DequantizeLinear", ["w4", "s4"], ["w4d"], "dq_w4", axis=1, block_size=3),
        node("MatMul", ["f", "w4d"], ["m"]),
        node("DynamicQuantizeLinear", ["m"], ["mq", "ms", "mz"], "dynamic"),
        node("MatMulInteger", ["mq", "wi", "mz"], ["mi"]),
        node("Cast", ["mi"], ["mf"], to=F),
        node("Mul", ["mf", "ms"], ["y"]),
    ]
    initializers = [
        w8, w4, tensor("sx", 0.05), tensor("zx", 128, np.uint8), tensor("sw", [0.01, 0.02, 0.03, 0.04]),
        tensor("zw", [0, 0, 0, 0], np.int8), tensor("w1", rng.integers(-5, 5, (4, 4, 1, 1)), np.int8),
        tensor("sw1", [0.1, 0.2, 0.3, 0.4]), tensor("s4", np.full((4, 2), 0.1)),
        tensor("wi", rng.integers(-5, 5, (6, 3)), np.int8),
    ]  # fmt: skip
    return model(nodes, {"x": (F, ["N", 3, 8, 8])}, ["y"], initializers)


@_kind
def control() -> onnx.ModelProto:
    """Model-local functions (one calls the other), branches, Scan and Loop."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    scale = node("Mul", ["x", "c"], ["y"], "product")
    factor = node("Constant", [], ["c"], "factor")
    factor.attribute.add(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="factor")
    inner = helper.make_function("local", "Scale", ["x"], ["y"], [factor, scale], opsets, ["factor"])
    outer_nodes = [
        node("Scale", ["x"], ["h"], "inner", domain="local", factor=2.0),
        node("HardSwish", ["h"], ["k"]),
        node("Add", ["k", "x"], ["y"]),
    ]
    outer = helper.make_function("local", "Block", ["x"], ["y"], outer_nodes, opsets)

    def graph(name: str, nodes: list[Any], inputs: dict[str, tuple[int, list[Any]]], outputs: list[str]) -> Any:
        infos = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
        return helper.make_graph(nodes, name, infos, [helper.make_empty_tensor_value_info(o) for o in outputs])

    then = graph("then", [node("Tanh", ["b"], ["taken"])], {}, ["taken"])
    other = graph("else", [node("Block", ["b"], ["left"], domain="local")], {}, ["left"])
    step = graph(
        "step",
        [node("Add", ["state", "row"], ["next"]), node("Identity", ["next"], ["seen"])],
        {"state": (F, [4]), "row": (F, [4])},
        ["next", "seen"],
    )
    turn = graph(
        "turn",
        [node("Identity", ["go"], ["on"]), node("Mul", ["z", "half"], ["z1"]), node("Relu", ["z1"], ["zs"])],
        {"i": (I64, []), "go": (TensorProto.BOOL, []), "z": (F, [3, 4])},
        ["on", "z1", "zs"],
    )
    nodes = [
        node("Block", ["x"], ["b"], "block", domain="local"),
        node("If", ["condition"], ["c"], "if", then_branch=then, else_branch=other),
        node("Scan", ["zeros", "c"], ["last", "sums"], "scan", body=step, num_scan_inputs=1),
        node("Loop", ["trips", "yes", "sums"], ["z_last", "zs_all"], "loop", body=turn),
        node("Celu", ["z_last"], ["z_act"], alpha=0.7),
        node("ReduceSum", ["zs_all", "axes"], ["total"], keepdims=0),
        node("Add", ["z_act", "total"], ["y"]),
    ]
    initializers = [
        tensor("condition", False, np.bool_), tensor("zeros", np.zeros(4)), tensor("trips", 3, np.int64),
        tensor("yes", True, np.bool_), tensor("half", 0.5), tensor("axes", [0], np.int64),
    ]  # fmt: skip
    return model(
        nodes,
        {"x": (F, [3, 4])},
        ["y", "last"],
        initializers,
        functions=[inner, outer],
        opsets=[helper.make_opsetid("local", 1)],
    )


@_kind
def shapes() -> onnx.ModelProto:
    """Shape arithmetic with symbols, and shapes that only a run can tell."""
    ints = {
        "i0": 0, "two": 2, "axis0": [0], "one": [1], "minus": [-1], "k": [2], "depth": 5, "pads": [0, 1, 0, 1],
        "zero": 0,
        "unit": 1, "repeats": [1, 2], "where": [[0, 1], [1, 0]], "far": [9223372036854775807],
    }  # fmt: skip
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "i0"], ["n"]),
        node("Mul", ["n", "two"], ["n2"]),
        node("Unsqueeze", ["n2", "axis0"], ["n2v"]),
        node("Concat", ["n2v", "minus"], ["halves"], axis=0),
        node("Reshape", ["x", "halves"], ["h"]),
        node("ConstantOfShape", ["shape"], ["filled"], value=tensor("v", [1.5])),
        node("Expand", ["row", "shape"], ["spread"]),
        node("Add", ["filled", "spread"], ["f"]),
        node("Range", ["zero", "n", "unit"], ["line"]),
        node("Unsqueeze", ["line", "one"], ["column"]),
        node("OneHot", ["line", "depth", "onoff"], ["hot"]),
        node("Tile", ["f", "repeats"], ["tiled"]),
        node("Pad", ["tiled", "pads", "fill"], ["padded"]),
        node("TopK", ["padded", "k"], ["top", "at"], axis=1),
        node("NonZero", ["x"], ["places"]),
        node("Transpose", ["places"], ["rows"], perm=[1, 0]),
        node("GatherND", ["x", "rows"], ["picked"]),
        node("Unique", ["picked"], ["distinct"], axis=0),
        node("Greater", ["row", "fill"], ["positive"]),
        node("Compress", ["x", "positive"], ["columns"], axis=1),
        node("CumSum", ["x", "unit"], ["sums"], exclusive=1),
        node("Trilu", ["sums"], ["triangle"], upper=0),
        node("Slice", ["triangle", "axis0", "far", "one", "two_v"], ["every_other"]),
        node("ScatterND", ["wide", "where", "updates"], ["scattered"]),
        node("Resize", ["image", "", "scales"], ["larger"], mode="linear"),
        node("DepthToSpace", ["larger"], ["space"], blocksize=2, mode="CRD"),
        node("Size", ["space"], ["count"]),
        node("Cast", ["count"], ["count_f"], to=F),
        node("Mod", ["line", "two"], ["parity"]),
        node("ReduceL2", ["h", "one"], ["norm"]),
    ]
    initializers = [
        *[tensor(n, v, np.int64) for n, v in ints.items()], tensor("two_v", [2], np.int64),
        tensor("row", [0.5, -1, 2, 0]), tensor("onoff", [0, 1]), tensor("fill", 0), tensor("wide", np.zeros((2, 2))),
        tensor("updates", [3, 4]), tensor("scales", [1, 1, 2, 2]),
    ]  # fmt: skip
    outputs = [
        "h", "top", "at", "distinct", "columns", "every_other", "scattered", "space", "count_f", "parity", "hot",
        "norm", "column",
    ]  # fmt: skip
    return model(nodes, {"x": (F, ["N", 4]), "image": (F, [1, 4, 3, 3])}, outputs, initializers)


@_kind
def sampling() -> onnx.ModelProto:
    """Images and regions: grid sampling, region pooling, deformable convolution, suppression, and the odd operators."""
    w = _weights(3)
    nodes = [
        node("GridSample", ["image", "grid"], ["sampled"], mode="cubic", padding_mode="reflection"),
        node("RoiAlign", ["image", "rois", "batch"], ["regions"], output_height=2, output_width=2, sampling_ratio=2),
        node("DeformConv", ["image", "w", "offset"], ["deformed"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["kept"]),
        node("MaxPool", ["image"], ["pooled", "places"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxUnpool", ["pooled", "places"], ["unpooled"], kernel_shape=[2, 2], strides=[2, 2]),
        node("InstanceNormalization", ["unpooled", "g", "b"], ["normed"]),
        node("GroupNormalization", ["normed", "g", "b"], ["grouped"], num_groups=2),
        node("MeanVarianceNormalization", ["grouped"], ["mvn"]),
        node("LpPool", ["image"], ["lp"], kernel_shape=[2, 2], p=3),
        node("SpaceToDepth", ["mvn"], ["deep"], blocksize=2),
        node("Reshape", ["lp", "columns"], ["blocks"]),
        node("Col2Im", ["blocks", "size", "block"], ["summed"]),
        node("ReverseSequence", ["boxes2", "lengths"], ["reversed"], time_axis=0, batch_axis=1),
        node("ScatterElements", ["boxes2", "index", "update"], ["written"], axis=1, reduction="add"),
        node("GatherElements", ["boxes2", "index"], ["gathered"], axis=1),
        node("BitShift", ["bits", "bits"], ["shifted"], direction="LEFT"),
        node("Det", ["square"], ["determinant"]),
        node("EyeLike", ["square"], ["eye"], k=1),
        node("ReduceLogSumExp", ["square", "last"], ["lse"]),
        node("Pow", ["square", "two"], ["powered"]),
        node("Gelu", ["powered"], ["gelu"], approximate="tanh"),
        node("Hardmax", ["gelu"], ["hard"]),
        node("LpNormalization", ["square"], ["unit"], p=1),
        node("Attention", ["q", "q", "q"], ["attended"], q_num_heads=2, kv_num_heads=2, is_causal=1),
        node("RMSNormalization", ["q", "gq"], ["rms"]),
    ]
    initializers = [
        w("grid", 1, 3, 3, 2), tensor("rois", [[0, 0, 3, 3], [1, 1, 2, 3]]), tensor("batch", [0, 0], np.int64), w("w",
        2, 4, 2, 2),
        w("offset", 1, 8, 4, 4), tensor("boxes", [[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [2, 2, 3, 3]]]), tensor("scores",
        [[[0.9, 0.8, 0.7]]]),
        tensor("most", [2], np.int64), tensor("overlap", [0.5]), tensor("g", [1, 2, 3, 4]), tensor("b", [0, 1, 0, 1]),
        tensor("columns", [1, 4, 9], np.int64), tensor("size", [4, 4], np.int64), tensor("block", [2, 2], np.int64),
        w("boxes2", 2, 3), tensor("lengths", [1, 2, 1], np.int64), tensor("index", [[0, 2], [1, -1]], np.int64),
        w("update", 2, 2), tensor("bits", [1, 2, 3], np.uint8), w("square", 3, 3), tensor("last", [-1], np.int64),
        tensor("two", 2), w("gq", 8),
    ]  # fmt: skip
    outputs = [
        "sampled", "regions", "deformed", "kept", "deep", "summed", "reversed", "written", "gathered", "shifted",
        "determinant",
        "eye", "lse", "hard", "unit", "attended", "rms",
    ]  # fmt: skip
    return model(nodes, {"image": (F, [1, 4, 4, 4]), "q": (F, [1, "S", 8])}, outputs, initializers, opset=23)
