"""Run passes on a module and write it: `intaglio opt IN.ig -p fold,cse -o OUT.ig`; `-` is stdin or stdout."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("module", metavar="IN.ig", help="a module in text form, an ONNX file, or - for stdin")
    parser.add_argument(
        "-p", "--passes", default="", metavar="PIPELINE", help="e.g. freeze{N=8},fold (default: none, only verify)"
    )
    parser.add_argument(
        "-o", "--output", default="-", metavar="OUT.ig", help="where the module goes (default: - for stdout)"
    )
    parser.add_argument("--target", default="reference", help="the target that passes ask for costs")
    parser.add_argument("--calibration", type=Path, metavar="FILE.npz", help="inputs by name, for passes that measure")
    parser.add_argument("--snapshots", type=Path, metavar="DIR", help="write the IR after each pass to DIR")


def run(args: argparse.Namespace) -> int:
    from ...ir.verify import verify
    from ...passes.syntax import parse_pipeline
    from .. import api
    from ..text_files import read_module, write_module
    from .compile import _calibration

    steps = parse_pipeline(args.passes)
    module = read_module(args.module)
    verify(module)
    if steps:
        calibration = _calibration(args.calibration)
        module = api.optimize(
            module, args.passes, target=args.target, calibration=calibration, snapshots=args.snapshots
        )
    write_module(module, args.output)
    return 0
