"""List the ops of the IR by dialect, or explain one."""

from __future__ import annotations

import argparse
from itertools import groupby


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the op to explain, or a dialect to list")


def run(args: argparse.Namespace) -> int:
    from ...ir.op import kind_name
    from ...ir.ops import OPS, get

    dialects = {op.dialect for op in OPS.values()} - {""}
    if args.name is None or args.name in dialects:
        shown = [op for op in OPS.values() if args.name in (None, op.dialect)]
        width = max(len(op.name) for op in shown)
        for dialect, group in groupby(sorted(shown, key=lambda op: op.dialect), key=lambda op: op.dialect):
            print(f"{dialect or 'core'}:")
            for op in group:
                print(f"  {op.name:{width}}  {op.doc.partition(chr(10))[0]}")
        return 0
    op = get(args.name)
    print(f"{op.name}({op.signature.text})\n\n{op.doc}")
    print("\nattributes:" if op.attrs else "\nno attributes")
    for name, kind in op.attrs.items():
        default = f" = {op.defaults[name]!r}" if name in op.defaults else ", required"
        print(f"  {name}: {kind_name(kind)}{default}")
    if op.facts:
        print(f"\nfacts: {', '.join(map(str, op.facts))}")
    return 0
