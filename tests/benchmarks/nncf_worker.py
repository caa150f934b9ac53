"""Quantises an ONNX model with NNCF, in an environment that has it: nncf_worker.py SOURCE INPUTS.npz MADE."""

import sys

import nncf
import numpy as np
import onnx

source, inputs, made = sys.argv[1:4]
arrays = dict(np.load(inputs))
count = len(next(iter(arrays.values())))
batches = [{k: v[i : i + 1] for k, v in arrays.items()} for i in range(count)]
quantised = nncf.quantize(
    onnx.load(source), nncf.Dataset(batches), subset_size=count, fast_bias_correction="--fast" in sys.argv
)
onnx.save(quantised, made)
