"""Packed weights of an artifact: arrays one after the other in a file, mapped into memory as they are.

Each starts at a multiple of the alignment that compiled code expects; the manifest has their types, shapes and places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from .runtime import ALIGNMENT

__all__ = ["map_weights", "write_weights"]


def write_weights(path: Path, arrays: Sequence[Any]) -> list[dict[str, Any]]:
    """Write arrays; what `map_weights` needs to find them again."""
    records = []
    with path.open("wb") as file:
        for array in arrays:
            file.write(bytes(-file.tell() % ALIGNMENT))
            records.append({"dtype": array.dtype.name, "shape": list(array.shape), "offset": file.tell()})
            file.write(np.ascontiguousarray(array).data)
    return records


def map_weights(path: Path, records: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The arrays, in memory that the processes of a machine share until one of them writes to it."""
    try:
        data = np.memmap(path, np.uint8, "c")
        arrays = []
        for r in records:
            dtype = np.dtype(r["dtype"])
            size = int(np.prod(r["shape"], dtype=np.int64)) * dtype.itemsize
            arrays.append(data[r["offset"] : r["offset"] + size].view(dtype).reshape(r["shape"]))
    except (OSError, ValueError) as e:
        raise error("IG0509", f"`{path}` cannot be read: {e}", hint="compile the model again") from None
    return arrays
