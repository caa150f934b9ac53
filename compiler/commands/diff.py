"""Compare two modules node by node, as `diff` does: exit 0 when they are the same, 1 when they differ."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A.ig", help="a module, an ONNX file, an artifact, or - for stdin")
    parser.add_argument("b", metavar="B.ig", help="another")


def run(args: argparse.Namespace) -> int:
    from ..difference import difference
    from ..text_files import read_module

    a, b = read_module(args.a), read_module(args.b)
    lines = difference(a, b)
    if not lines:
        return 0
    print("\n".join([f"--- {args.a}", f"+++ {args.b}", *lines]))
    return 1
