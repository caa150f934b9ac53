"""Orion v2 (packages orion-v2-compiler, orion-v2-evaluator, orion-v2-lattigo) on one model: JSON on the last line.

python orion_worker.py LAYERS WEIGHTS.npz PARAMETERS       in an environment of its own; bench_he.py calls it

It compiles and makes keys in one process and computes in another: both together take more memory than most machines
have. The peak told is that of the larger one.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lattigo.ckks as ckks
import lattigo.rlwe as rlwe
import numpy as np
import orion_compiler.nn as on
import torch
from orion_compiler import CKKSParams, Compiler
from orion_compiler.core.galois import bsgs_index, find_best_bsgs_ratio
from orion_evaluator import Evaluator, Model

FLAT = {"mlp": [784, 128, 128, 10]}


class Net(on.Module):  # type: ignore[misc]
    """The layers of bench_he.MODELS, in Orion's own modules."""

    def __init__(self, layers: list[list[Any]]) -> None:
        super().__init__()
        self.order = []
        for i, (kind, *sizes) in enumerate(layers):
            match kind:
                case "conv":
                    made = on.Conv2d(*sizes[:2], kernel_size=sizes[2], stride=sizes[3], padding=sizes[4])
                case "dense":
                    made = on.Linear(*sizes)
                case "square":
                    made = on.Quad()
                case _:
                    made = on.Flatten()
            setattr(self, f"layer{i}", made)
            self.order.append(f"layer{i}")

    def forward(self, x: Any) -> Any:
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def compiled(folder: Path, layers: list[list[Any]], weights: str, *sizes: Any) -> None:
    """Compile, make keys, encrypt the sample, compute in the clear: all into files."""
    torch.manual_seed(0)
    net = Net(layers)
    with np.load(weights) as given:
        x = given["x"]
        for name in net.order:
            if f"{name}.w" in given:
                getattr(net, name).weight.data = torch.tensor(given[f"{name}.w"], dtype=torch.float32)
                getattr(net, name).bias.data = torch.tensor(given[f"{name}.b"], dtype=torch.float32)
    net.eval()
    sample = torch.tensor(x, dtype=torch.float32)
    clear = net(sample).detach().numpy().reshape(-1)

    start = time.process_time()
    params = parameters(*sizes)
    compiler = Compiler(net, params)
    compiler.fit(sample)
    made = compiler.compile()
    compile_seconds = time.process_time() - start
    rotations, products = counted(made, net, params)
    elements = sorted(made.manifest.galois_elements)
    (folder / "model").write_bytes(made.to_bytes())
    own = ckks.Parameters.from_dict(json.loads(params.to_bridge_json()))
    keys = rlwe.KeyGenerator(own)
    secret = keys.gen_secret_key()
    galois = [keys.gen_galois_key(secret, e) for e in elements]
    data = rlwe.MemEvaluationKeySet(keys.gen_relin_key(secret), galois).marshal_binary()
    (folder / "keys").write_bytes(data)
    (folder / "secret").write_bytes(secret.marshal_binary())
    np.savez(folder / "clear.npz", x=x, clear=clear)
    known = {"rotations": rotations, "products": products, "compile_seconds": compile_seconds}
    known |= {"keys": len(galois) + 1, "key_bytes": len(data)}
    (folder / "facts.json").write_text(json.dumps(known))


def parameters(log_n: int, log_q: list[int], log_p: list[int], scale: int) -> Any:
    return CKKSParams(
        logn=log_n, logq=tuple(log_q), logp=tuple(log_p), log_default_scale=scale, h=192, ring_type="standard"
    )


def main(layers: list[list[Any]], weights: str, log_n: int, log_q: list[int], log_p: list[int], scale: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], place], check=True, stdout=subprocess.DEVNULL)
        known = json.loads((folder / "facts.json").read_text())
        with np.load(folder / "clear.npz") as given:
            x, clear = given["x"], given["clear"]
        params = parameters(log_n, log_q, log_p, scale)
        own = ckks.Parameters.from_dict(json.loads(params.to_bridge_json()))
        model = Model.load((folder / "model").read_bytes())
        facts, _, level = model.client_params()
        evaluator = Evaluator(facts, (folder / "keys").read_bytes())
        secret = rlwe.SecretKey.unmarshal_binary((folder / "secret").read_bytes())
    keys = rlwe.KeyGenerator(own)
    encoder = ckks.Encoder(own)
    encryptor = rlwe.Encryptor(own, keys.gen_public_key(secret))
    flat = np.zeros(own.max_slots())
    flat[: x.size] = x.reshape(-1)
    ciphertext = encryptor.encrypt_new(encoder.encode(list(flat), level, own.default_scale())).marshal_binary()
    times = []
    for _ in range(3):
        start = time.process_time()
        (answer, *_) = evaluator.forward(model, [ciphertext])
        times.append(time.process_time() - start)
    plain = rlwe.Decryptor(own, secret).decrypt_new(rlwe.Ciphertext.unmarshal_binary(answer))
    found = np.asarray(encoder.decode(plain, own.max_slots()))[: clear.size]
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    facts = {
        **known,
        "peak_bytes": peak << 10,
        "first_seconds": times[0],
        "seconds": min(times[1:]),
        "bits": -math.log2(float(np.abs(found - clear).max() / np.abs(clear).max())),
        "parameters": f"N=2^{log_n}, {sum(log_q) + sum(log_p)} bits, h=192",
    }
    print(json.dumps(facts))


def counted(made: Any, net: Any, params: Any) -> tuple[int, int]:
    """Rotations and plaintext products of its linear layers, by Lattigo's own split into baby and giant steps."""
    rotations = products = 0
    slots = params.max_slots
    for module in net.modules():
        for diagonals in (getattr(module, "_diag_indices_per_block", None) or {}).values():
            n1 = find_best_bsgs_ratio(diagonals, slots, int(math.log(module.bsgs_ratio)))
            _, giants, babies = bsgs_index(diagonals, slots, n1)
            rotations += sum(step != 0 for step in (*giants, *babies))
            products += len(diagonals)
        rotations += getattr(module, "output_rotations", 0) or 0
    return rotations, products


if __name__ == "__main__":
    asked = json.loads(sys.argv[1]), sys.argv[2], *json.loads(sys.argv[3])
    if len(sys.argv) > 4:
        compiled(Path(sys.argv[4]), *asked)
    else:
        main(*asked)
