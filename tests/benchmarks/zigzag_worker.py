"""Maps layers with ZigZag, in an environment that has it: zigzag_worker.py HARDWARE MAPPING < layers.json > found.json.

A layer is {"k", "c", "oy", "ox", "fy", "fx", "stride", "pad", "opt"}; what is found is energy, latency and their parts.
"""

import contextlib
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import zigzag
from zigzag.api import get_hardware_performance_zigzag


def workload(layer):
    s, pad = layer["stride"], layer["pad"]
    return [
        {
            "id": 0,
            "name": "layer",
            "operator_type": "Conv",
            "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
            "dimension_relations": [f"ix={s}*ox+1*fx", f"iy={s}*oy+1*fy"],
            "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"],
            "loop_sizes": [1, *(layer[n] for n in ("k", "c", "oy", "ox", "fy", "fx"))],
            "pr_loop_dims": ["IX", "IY"],
            "pr_loop_sizes": [layer["ox"] * s, layer["oy"] * s],
            "padding": [[pad, pad], [pad, pad]],
            "operand_precision": {"W": 8, "I": 8, "O": 16, "O_final": 8},
            "operand_source": {"I": 0, "W": 0},
        }
    ]


def main():
    logging.disable(logging.CRITICAL)
    inputs = Path(zigzag.__file__).parent / "inputs"
    pairs = zip(("hardware", "mapping"), sys.argv[1:], strict=False)
    hardware, mapping = (str(inputs / kind / f"{name}.yaml") for kind, name in pairs)
    found = []
    for layer in json.load(sys.stdin):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            start = time.process_time()
            energy, latency, cmes = get_hardware_performance_zigzag(
                workload(layer), hardware, mapping, opt=layer["opt"], dump_folder=folder,
                loma_show_progress_bar=False,
            )  # fmt: skip
            seconds = time.process_time() - start
        (cme, *_), *_ = cmes[0][1] if isinstance(cmes[0][1], list) else [(cmes[0][0],)]
        parts = {str(op): [float(v) for v in values] for op, values in cme.mem_energy_breakdown.items()}
        found.append(
            {
                "energy": float(energy),
                "latency": float(latency),
                "latency_without_loading": float(cme.latency_total0),
                "parts": parts,
                "mac": float(cme.mac_energy),
                "seconds": seconds,
            }
        )
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
