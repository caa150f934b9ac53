"""Artifacts: a compiled model in a folder.

    manifest.json         what was compiled and how, with the digest of every other file (manifest.py)
    model.ig              the IR as compiled, with its weights beside it as safetensors
    source.json           an outline of the graph before the passes, for the report
    ...                   what the target adds

Nothing in it is executed before its digest has been checked, and nothing is ever unpickled. Digests tell damage, not
malice: a program from somebody else is as trustworthy as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..ir.diagnostics import error
from ..ir.graph import Module
from .files import new_folder, sha256
from .manifest import NAME, FileRecord, Manifest

__all__ = ["MODEL", "SOURCE", "is_artifact", "read_manifest", "read_module", "verify_files", "write"]

MODEL = "model.ig"
SOURCE = "source.json"
LARGEST_MANIFEST = 1 << 26  # bytes; nothing of ours comes near


def is_artifact(folder: Path) -> bool:
    """Whether a folder is an artifact, whole or damaged: what `compile -o` may replace. An empty folder may be, too."""
    return folder.is_dir() and not folder.is_symlink() and ((folder / NAME).is_file() or not any(folder.iterdir()))


def write(
    folder: Path,
    module: Module,
    outline: str,
    save: Callable[[Path], dict[str, Any]],
    describe: Callable[[dict[str, Any]], Manifest],
) -> Manifest:
    """Write an artifact: `save` adds the target's files, `describe` makes the manifest of what it returned."""
    from dataclasses import replace

    from ..ir.text import write_file

    with new_folder(folder, replaces=is_artifact) as made:
        write_file(module, made / MODEL)
        (made / SOURCE).write_text(outline, encoding="utf-8")
        info = save(made)
        manifest = replace(describe(info), files=_records(made))
        (made / NAME).write_text(manifest.dumps(), encoding="utf-8")
    return manifest


def _records(folder: Path) -> dict[str, FileRecord]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): FileRecord(sha256(p), p.stat().st_size) for p in found}


def read_manifest(folder: Path) -> Manifest:
    """The manifest, or IG0506 for a folder that is no artifact, and IG0507/IG0509 for one that is damaged."""
    path = folder / NAME
    if not folder.is_dir():
        what = (
            f"`{folder}` is a file, not the folder of an artifact"
            if folder.exists()
            else f"there is no folder `{folder}`"
        )
        raise error("IG0506" if folder.exists() else "IG0001", what, hint="`intaglio compile MODEL -o DIR` makes one")
    if not path.is_file():
        raise error(
            "IG0506", f"`{folder}` is no artifact: it has no {NAME}", hint="`intaglio compile MODEL -o DIR` makes one"
        )
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise ValueError("it is too large")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise error("IG0509", f"`{path}` cannot be read: {e}") from None
    return Manifest.loads(text, str(path))


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Every file is there and as it was written; IG0508 and IG0507 name the first that is not."""
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise error("IG0508", f"artifact `{folder}` lacks its file {name}", hint="compile the model again")
        try:
            intact = path.stat().st_size == record.bytes and sha256(path) == record.sha256
        except OSError as e:
            raise error("IG0508", f"`{path}` cannot be read: {e.strerror or e}") from None
        if not intact:
            what = f"{name} in artifact `{folder}` was changed after it was written"
            raise error("IG0507", what, hint="compile the model again")
    if MODEL not in manifest.files:
        raise error("IG0508", f"artifact `{folder}` has no {MODEL}")


def read_module(folder: Path) -> Module:
    """The IR as compiled, digests checked."""
    from ..ir.text import parse_file

    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return parse_file(folder / MODEL)
