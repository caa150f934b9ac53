"""Run an artifact on inputs from a file, and write the outputs, or a summary of them."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, metavar="DIR", help="what `intaglio compile` wrote")
    parser.add_argument(
        "--input", type=Path, required=True, metavar="X.npz", help="inputs by name; .npy for a model with one"
    )
    parser.add_argument(
        "--output", type=Path, metavar="Y.npz", help="where outputs go by name (default: print a summary)"
    )


def run(args: argparse.Namespace) -> int:
    from ..api import Compiled
    from ..arrays import as_typed, read_arrays, summary, write_arrays

    compiled = Compiled.load(args.artifact)
    types = {v.name: v.type for v in compiled.graph.inputs}
    found = compiled.run(as_typed(read_arrays(args.input, list(types)), types))
    if args.output is not None:
        write_arrays(args.output, found)
    else:
        for name, array in found.items():
            print(summary(name, array))
    return 0
