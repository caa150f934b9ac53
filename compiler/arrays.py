"""Arrays in files: .npz by name, .npy for a model with one input. Pickles are never loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.diagnostics import error
from ..ir.types import Tensor, Type
from .files import new_file
from .loading import readable

__all__ = ["as_typed", "read_arrays", "summary", "write_arrays"]


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The arrays of a file. `names` are the model's inputs: the one array of a .npy is the only one of them."""
    readable(path)
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            if len(names) != 1:
                what = f"`{path}` holds one array, the model has {len(names)} inputs"
                raise error("IG0003", what, hint=f"give a .npz with {', '.join(names)}")
            return {names[0]: found}
        with found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as e:
        why = str(e)
        if "Object arrays" in why or _is_pickle(path):
            why = "it holds Python objects, which are never loaded"
        elif "pickle" in why:  # what NumPy takes every other file for
            why = "it is neither .npz nor .npy"
        raise error(
            "IG0003", f"`{path}` cannot be read as arrays: {why}", hint="write it with numpy.savez or numpy.save"
        ) from None


def _is_pickle(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as f:
        return f.read(1) == b"\x80"


def as_typed(arrays: Mapping[str, Any], types: Mapping[str, Type]) -> dict[str, Any]:
    """Arrays with the types restored that NumPy's format cannot name (bf16, fp8): it stores them as raw bytes."""
    made = dict(arrays)
    for name, array in arrays.items():
        t = types.get(name)
        if isinstance(t, Tensor) and array.dtype.kind == "V" and array.dtype.itemsize == t.dtype.itemsize:
            made[name] = array.view(t.dtype)
    return made


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a .npz, or a .npy when there is one array and the name says so."""
    if path.suffix == ".npy" and len(arrays) != 1:
        raise error(
            "IG0003", f"a .npy holds one array, the model has {len(arrays)} outputs", hint="name the output .npz"
        )
    if path.suffix not in (".npy", ".npz"):
        raise error("IG0003", f"`{path}` is no file of arrays by its name", hint="name it .npz or .npy")
    with new_file(path) as made, made.open("wb") as f:
        if path.suffix == ".npy":
            np.save(f, next(iter(arrays.values())), allow_pickle=False)
        else:
            _write_zip(f, arrays)


def _write_zip(f: Any, arrays: Mapping[str, Any]) -> None:
    """What `np.savez` writes; it cannot name an array `file`."""
    with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def summary(name: str, array: Any) -> str:
    """An array in one line: type, range, first values."""
    flat = np.ravel(array)
    head = ", ".join(f"{x:.5g}" if array.dtype.kind in "fV" else str(x) for x in flat[:5].tolist())
    more = ", ..." if flat.size > 5 else ""
    span = ""
    if flat.size and array.dtype.kind not in "b":
        wide = flat.astype(np.float64)
        span = f"  min {wide.min():.5g}  mean {wide.mean():.5g}  max {wide.max():.5g}"
    return f"{name}: {array.dtype}{list(array.shape)}{span}  [{head}{more}]"
