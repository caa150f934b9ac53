"""Constant tensors: named, read-only NumPy arrays, shared by graphs and compared by content.

A `Constant` is what a `const` node holds and what a per-channel quantised type points to. Files of constants are
safetensors (`weights.py`); the text form refers to them by name.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["INLINE_LIMIT", "Constant"]

Array = npt.NDArray[Any]

INLINE_LIMIT = 16  # constants up to this many elements are written into the text, larger ones into the weights file


class Constant:
    """A read-only array and the name it has in a weights file.

    Two constants are equal when dtype, shape and bytes are (the name is a label); the content digest is computed once,
    on demand, so importing a large model does not hash its weights.
    """

    __slots__ = ("_digest", "array", "name")

    def __init__(self, array: Array, name: str = "") -> None:
        if not isinstance(array, np.ndarray):
            array = np.asarray(array)
        if array.flags.writeable:
            array = array.view()
            array.flags.writeable = False
        self.array, self.name = array, name
        self._digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        """BLAKE2b of dtype, shape and bytes."""
        if self._digest is None:
            h = hashlib.blake2b(f"{self.array.dtype.name}{self.array.shape}".encode(), digest_size=16)
            h.update(np.ascontiguousarray(self.array).view(np.uint8).data if self.array.size else b"")
            self._digest = h.digest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Constant):
            return NotImplemented
        a, b = self.array, other.array
        return a.dtype == b.dtype and a.shape == b.shape and self.digest == other.digest

    def __hash__(self) -> int:
        return hash((self.array.dtype.name, self.array.shape))

    def __repr__(self) -> str:
        return f"Constant({self.name!r}, {self.array.dtype.name}{list(self.array.shape)})"

    @property
    def inline(self) -> bool:
        """Whether the text form spells the values out instead of referring to the weights file."""
        a = self.array
        if a.size > INLINE_LIMIT or a.ndim > 1:
            return False
        return a.dtype.kind in "iub" or not bool(np.isnan(a.astype(np.float64)).any())
