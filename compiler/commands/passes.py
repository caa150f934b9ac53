"""List the passes with what each promises, or explain one."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the pass to explain")


def run(args: argparse.Namespace) -> int:
    from ...ir.diagnostics import IntaglioError
    from ...passes import find, names
    from ...passes.options import describe

    if args.name is None:
        width = max(map(len, names()))
        for name in names():
            try:
                found = find(name)
            except IntaglioError as e:  # of another package: the rest of the list is as good as ever
                print(f"{name:{width}}  {'?':8}  {e.diagnostics[0].message}")
            else:
                print(f"{name:{width}}  {found.contract:8}  {found.summary}")
        return 0
    found = find(args.name)
    print(f"{found.name}: {found.contract}\n\n{found.doc}")
    rows = describe(found.options)
    print("\noptions:" if rows else "\nno options")
    for name, kind, default, doc in rows:
        print(f"  {name}{f'={default}' if default else ''}  ({kind}){f'  {doc}' if doc else ''}")
    return 0
