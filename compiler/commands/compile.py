"""Compile a model (.onnx, .ig) for a target, and write the artifact: a folder that `intaglio run` runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="an ONNX file or a module in text form (.ig)")
    parser.add_argument(
        "--target", default="cpu", help="cpu, or with options cpu:option=value,... (see `intaglio targets`)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the artifact's folder")
    parser.add_argument("--passes", default="", metavar="PIPELINE", help="passes to run first, e.g. freeze{N=8},fold")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE.npz",
        help="inputs by name (and `labels`) to calibrate with and measure losses on; or a folder of images",
    )
    parser.add_argument(
        "--preprocess", default="", metavar="SPEC", help="how images become inputs, e.g. scale=255,mean=[0.5],std=[0.5]"
    )
    parser.add_argument("--budget", metavar="METRIC<=LOSS", help="the loss that the passes may cost, e.g. top1<=0.005")
    parser.add_argument("--name", default="", help="the name of the compiled model (default: the model's own)")
    parser.add_argument("--snapshots", type=Path, metavar="DIR", help="write the IR after each pass to DIR")


def run(args: argparse.Namespace) -> int:
    from ...ir.diagnostics import error
    from ...passes.syntax import parse_pipeline
    from .. import api
    from ..artifact import is_artifact
    from ..ledger import Budget
    from ..loading import readable
    from ..progress import Progress
    from ..targets import parse_target

    # everything the user may have mistyped, before the first second of work
    budget = Budget.parse(args.budget) if args.budget else None
    backend, options = parse_target(args.target)
    backend.target(options)
    steps = [*parse_pipeline(args.passes), *parse_pipeline(backend.pipeline(options))]
    output: Path = args.output
    if (output.exists() or output.is_symlink()) and not is_artifact(output):
        raise error(
            "IG0510", f"`{output}` exists and is no artifact: it is left alone", hint="choose another output folder"
        )
    readable(args.model)
    calibration = _calibration(args.calibration, args.preprocess)
    with Progress("compile", len(steps) + 3) as progress:
        compiled = api.compile(
            args.model,
            args.target,
            args.passes,
            calibration,
            budget,
            name=args.name,
            snapshots=args.snapshots,
            observe=progress.step,
        )
        progress.step("write")
        compiled.save(output)
    _tell(compiled, output)
    return 0


def _calibration(path: Path | None, preprocess: str = "") -> object:
    from ..calibration_images import ImageFolder, parse_preprocess

    prepared = parse_preprocess(preprocess)
    if path is None:
        return None
    if path.is_dir():
        return ImageFolder(path, prepared)
    from ..arrays import read_arrays

    found = read_arrays(path, ("input",))
    return found["input"] if path.suffix == ".npy" else found


def _tell(compiled: object, output: Path) -> None:
    from ..api import Compiled
    from ..artifact import read_manifest

    assert isinstance(compiled, Compiled)
    manifest = compiled.manifest
    weights = sum(c.array.nbytes for c in compiled.module.constants())
    print(
        f"{manifest.name}: {len(compiled.graph.nodes)} nodes, {weights / 1e6:.2f} MB of weights, for {manifest.target}"
    )
    for port in manifest.inputs:
        print(f"  input   {port.name}: {port.type}")
    for port in manifest.outputs:
        print(f"  output  {port.name}: {port.type}")
    print(
        f"  ledger  {compiled.ledger.contract}"
        + (f", budget {compiled.ledger.budget}" if compiled.ledger.budget else "")
    )
    for note in read_manifest(output).backend.get("notes", ()):  # what the target has to say of its own files
        print(f"  note    {note}")
    print(f"wrote {output}")
