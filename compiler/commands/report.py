"""Write what is known of an artifact as one self-contained HTML page: graphs, costs, ledger, files."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, metavar="DIR", help="what `intaglio compile` wrote")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PAGE.html", help="where the page goes (default: DIR/report.html)"
    )
    parser.add_argument("--measure", action="store_true", help="run the model, and tell what each kernel takes")


def run(args: argparse.Namespace) -> int:
    from ..api import Compiled

    output = args.output or args.artifact / "report.html"
    Compiled.load(args.artifact).report(output, measure=args.measure)
    print(f"wrote {output}")
    return 0
