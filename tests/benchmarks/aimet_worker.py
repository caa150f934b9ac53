"""Quantises an ONNX model with AIMET, in an environment that has aimet-onnx, and runs its simulation on test inputs.

    aimet_worker.py SOURCE.onnx FOLDER --weights 4 --activations 8 --edges 8

FOLDER has calibration.npz and test.npz; one file of outputs is written there for each setting, and its name printed.
"""

import argparse
import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
from aimet_onnx import QuantizationSimModel, apply_adaround, apply_seq_mse
from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config
from aimet_onnx.cross_layer_equalization import equalize_model

BATCH = 32

parser = argparse.ArgumentParser()
parser.add_argument("source", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("--weights", type=int, default=8)
parser.add_argument("--activations", type=int, default=8)
parser.add_argument("--edges", type=int, default=8)
parser.add_argument("--steps", type=int, default=1000, help="of AdaRound; AIMET recommends 15,000 below 8 bits")
parser.add_argument("--quick", action="store_true", help="without AdaRound")
parser.add_argument("--deep", action="store_true", help="with equalisation, for depthwise convolutions")
args = parser.parse_args()


def batches(name):
    ((key, array),) = np.load(args.folder / name).items()
    return [{key: array[i : i + BATCH]} for i in range(0, len(array), BATCH)]


def edges(sim):
    """The first and the last layer have more bits, as ours have."""
    layers = [n for n in sim.model.nodes() if n.op_type in ("Conv", "Gemm", "MatMul")]
    for node in (layers[0], layers[-1]):
        for name in node.input:
            quantizer = sim.qc_quantize_op_dict.get(name.removesuffix("_qdq").removesuffix("_updated"))
            if quantizer is not None and quantizer.bitwidth < args.edges:
                quantizer.set_bitwidth(args.edges)


def quantised(scheme, equalise, method):
    model = onnx.load(args.source)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"n{i}"
    if equalise:
        equalize_model(model)
    sim = QuantizationSimModel(
        model, param_type=f"int{args.weights}", activation_type=f"int{args.activations}", quant_scheme=scheme,
        config_file=get_path_for_per_channel_config(),
    )  # fmt: skip
    edges(sim)
    inputs = batches("calibration.npz")
    if method == "SeqMSE":
        apply_seq_mse(sim, inputs)
    if method == "AdaRound":
        apply_adaround(sim, inputs, num_iterations=args.steps)
    sim.compute_encodings(inputs)
    return sim


settings = {"ranges by min-max (its default)": ("min_max", False, "")}
settings["ranges by SQNR"] = ("tf_enhanced", False, "")
if args.deep:
    settings["equalisation, ranges by SQNR"] = ("tf_enhanced", True, "")
if args.weights < 8:
    settings["SeqMSE"] = ("min_max", args.deep, "SeqMSE")
if args.weights < 8 and not args.quick:
    settings[f"AdaRound, {args.steps} steps"] = ("tf_enhanced", args.deep, "AdaRound")
for name, setting in settings.items():
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            made = quantised(*setting)
            outputs = np.concatenate([made.session.run(None, x)[0] for x in batches("test.npz")])
    except Exception as e:
        print(f"! {name}: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}", flush=True)
        continue
    np.save(args.folder / f"{name}.npy", outputs)
    print("=", name, flush=True)
