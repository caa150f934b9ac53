"""Convert a model (ONNX) to the IR's text form; its weights go beside it as safetensors."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an ONNX file")
    parser.add_argument(
        "-o", "--output", default="-", metavar="OUT.ig", help="where the module goes (default: - for stdout)"
    )


def run(args: argparse.Namespace) -> int:
    from ..text_files import read_module, write_module

    write_module(read_module(args.model), args.output)
    return 0
