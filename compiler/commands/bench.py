"""Measure how fast an artifact runs: medians of interleaved runs, also of another runtime on the original model."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, metavar="DIR", help="what `intaglio compile` wrote")
    parser.add_argument(
        "--against", action="append", choices=["onnxruntime"], default=[], help="another runtime to measure in turn"
    )
    parser.add_argument(
        "--model", type=Path, metavar="FILE.onnx", help="the original model (default: the path it was compiled from)"
    )
    parser.add_argument("--input", type=Path, metavar="X.npz", help="inputs by name (default: random numbers)")
    parser.add_argument("--threads", type=int, default=1, help="threads for each contender (default: 1)")
    parser.add_argument(
        "--specialise",
        type=int,
        default=0,
        metavar="N",
        help="compile for the sizes at hand, and keep up to N such programs (default: 0, one for all sizes)",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to measure each contender (default: 2)")


def run(args: argparse.Namespace) -> int:
    from ...backends.backend import Simulated
    from ...ir.diagnostics import error
    from ..api import Compiled
    from ..arrays import as_typed, read_arrays
    from ..measure import Contender, measure, onnxruntime_contender, random_inputs, table

    if args.threads < 1 or args.specialise < 0 or not 0 < args.seconds < 3600:
        what = "--threads is at least 1, --specialise at least 0, and --seconds a positive number below 3600"
        raise error("IG0002", what)
    compiled = Compiled.load(args.artifact, specialise=args.specialise, threads=args.threads)
    inputs = random_inputs(compiled.module)
    if args.input is not None:
        types = {v.name: v.type for v in compiled.graph.inputs}
        inputs = as_typed(read_arrays(args.input, list(types)), types)
    compiled.run(inputs)  # complains about wrong inputs before anything is timed
    contenders = [Contender(f"intaglio {compiled.manifest.target}", lambda: compiled.run(inputs))]
    if args.against:
        contenders.append(onnxruntime_contender(_original(args, compiled.manifest.origin), inputs, args.threads))
    print(table(measure(contenders, args.seconds)))
    if isinstance(compiled.program, Simulated) and (layers := compiled.program.simulation()):
        print(f"\ncycles of each layer\n{layers}")
    return 0


def _original(args: argparse.Namespace, origin: object) -> Path:
    """The model to run elsewhere: as given, or as recorded, unchanged since."""
    from ...ir.diagnostics import error
    from ..files import sha256
    from ..loading import readable
    from ..manifest import Origin

    if args.model is not None:
        return readable(args.model)
    if not isinstance(origin, Origin):
        raise error("IG0011", "the artifact was not compiled from an ONNX file", hint="name the original with --model")
    path = Path(origin.path)
    if not path.is_file() or sha256(path) != origin.sha256:
        what = "is gone" if not path.is_file() else "has changed"
        raise error(
            "IG0011", f"`{path}`, from which the artifact was compiled, {what}", hint="name the original with --model"
        )
    return path
