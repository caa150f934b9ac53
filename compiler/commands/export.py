"""Write a model, or what was compiled of it, as ONNX; quantised ones as QDQ models that other runtimes run."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a module (.ig), the folder of an artifact, or an ONNX file")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx", help="where the model goes")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from ..exporters.onnx import export_onnx
    from ..files import new_file
    from ..loading import load_module

    model = export_onnx(load_module(args.model))
    with new_file(Path(args.output)) as made:
        made.write_bytes(model.SerializeToString())
    return 0
