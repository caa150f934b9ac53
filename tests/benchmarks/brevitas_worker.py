"""Quantises an ONNX model with Brevitas, in an environment that has it and onnx2torch, and runs it on test inputs.

    brevitas_worker.py SOURCE.onnx FOLDER --weights 4 --activations 8 --edges 8

FOLDER has calibration.npz and test.npz; one file of outputs is written there for each setting, and its name printed.
Brevitas simulates: floats between casts, and only what goes into layers is in codes (backend `layerwise`).
"""

import argparse
import importlib
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import torch

try:
    importlib.import_module("torchvision")
except RuntimeError:  # built for another torch: onnx2torch imports it for boxes, which these networks have none of
    for name in [n for n in sys.modules if n.startswith("torchvision")]:
        del sys.modules[name]
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision.ops"] = sys.modules["torchvision"].ops = types.ModuleType("torchvision.ops")
    sys.modules["torchvision.ops"].roi_align = None

from brevitas.backport.fx.proxy import TracerBase
from brevitas.export.inference import quant_inference_mode
from brevitas.graph.quantize import preprocess_for_quantize
from brevitas_examples.imagenet_classification.ptq import ptq_common
from onnx2torch import convert

BATCH = 32

parser = argparse.ArgumentParser()
parser.add_argument("source", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("--weights", type=int, default=8)
parser.add_argument("--activations", type=int, default=8)
parser.add_argument("--edges", type=int, default=8)
parser.add_argument("--quick", action="store_true", help="one setting")
parser.add_argument("--deep", action="store_true", help="with equalisation, for depthwise convolutions")
args = parser.parse_args()
torch.manual_seed(0)
create = TracerBase.create_arg  # does not know the integers that onnx2torch leaves in slices
TracerBase.create_arg = lambda tracer, a: create(tracer, int(a) if isinstance(a, np.integer) else a)
torch.set_num_threads(1)
ptq_common.tqdm = lambda x: x


def batches(name):
    (array,) = np.load(args.folder / name).values()
    return [(torch.from_numpy(array[i : i + BATCH]), None) for i in range(0, len(array), BATCH)]


def edges(model):
    """The first and the last layer have more bits, as ours have."""
    layers = [m for m in model.modules() if hasattr(m, "weight_quant") and hasattr(m, "weight")]
    for layer in (layers[0], layers[-1]):
        for proxy, bits in ((layer.weight_quant, args.weights), (layer.input_quant, args.activations)):
            if args.edges > bits:
                proxy.quant_injector = proxy.quant_injector.let(bit_width=args.edges)
                proxy.init_tensor_quant()


def quantised(equalise, gptq):
    model = convert(onnx.load(args.source)).eval()
    model = preprocess_for_quantize(
        model, relu6_to_relu=False, equalize_iters=20 if equalise else 0, equalize_merge_bias=True
    )
    model = ptq_common.quantize_model(
        model, backend="layerwise", weight_bit_width=args.weights, act_bit_width=args.activations,
        bias_bit_width=None, weight_quant_granularity="per_channel", act_quant_percentile=99.999,
        act_quant_type="asym", scale_factor_type="float_scale", quant_format="int",
        layerwise_first_last_bit_width=args.weights, weight_param_method="mse",
        act_param_method="stats" if args.activations == 8 else "mse",
    )  # fmt: skip
    edges(model)
    inputs = batches("calibration.npz")
    with torch.no_grad():
        model(inputs[0][0])
        ptq_common.calibrate(inputs, model)
        if gptq:
            ptq_common.apply_gptq(inputs, model, act_order=True, use_quant_activations=True, create_weight_orig=True)
        ptq_common.apply_bias_correction(inputs, model)
    return model


settings = {"GPTQ, bias correction": (False, True)}
if args.deep:
    settings["equalisation, GPTQ, bias correction"] = (True, True)
for name, setting in list(settings.items())[-1 if args.quick else 0 :]:
    made = quantised(*setting)
    with torch.no_grad(), quant_inference_mode(made):
        outputs = np.concatenate([made(x).numpy() for x, _ in batches("test.npz")])
    np.save(args.folder / f"{name}.npy", outputs)
    print("=", name, flush=True)
