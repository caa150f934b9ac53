"""Layouts of inputs and outputs as JSON: what the client does between arrays and slots. Knows no program, no weights.

    {"kind": "packed", "packing": "...", "taps": null | {"window", "strides", "pads", "result"}, "sign": 1, "offset": 0}

With `taps`, the packed tensor is what lies under each tap of a convolution (im2col): [C * kh * kw, P, Q].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.packing import Packing

__all__ = ["pack", "unpack"]


def pack(layout: Mapping[str, Any], array: Any, slots: int) -> list[Any]:
    """f64[slots] of each ciphertext for an array [1, *shape]; IG0547 when the layout is none of ours."""
    packing = _packing(layout, slots)
    tensor = np.asarray(array, np.float64)
    tensor = tensor.reshape(tensor.shape[1:]) if tensor.ndim and tensor.shape[0] == 1 else tensor
    if taps := layout.get("taps"):
        tensor = _under_taps(tensor, taps)
    if tensor.size != packing.size:
        raise error(
            "IG0547", f"{tensor.size} elements for a packing of {packing.size}", hint="encrypt one sample at a time"
        )
    return [packing.pack(tensor)]


def unpack(layout: Mapping[str, Any], shape: tuple[int, ...], vectors: list[Any]) -> Any:
    """f32[*shape] from the slots of the output's ciphertext."""
    packing = _packing(layout, len(vectors[0]))
    held = packing.unpack(np.asarray(vectors[0]))
    means = layout.get("sign", 1) * held.reshape(-1) + np.asarray(layout.get("offset", 0.0))
    return means.reshape(shape).astype(np.float32)


def _packing(layout: Mapping[str, Any], slots: int) -> Packing:
    if layout.get("kind") != "packed":
        raise error("IG0547", f"a layout of kind {layout.get('kind')!r} is unknown", hint="compile the model again")
    packing = Packing.parse(str(layout.get("packing")))
    if packing.slots != slots:
        raise error(
            "IG0547", f"a packing for {packing.slots} slots in ciphertexts of {slots}", hint="compile the model again"
        )
    return packing


def _under_taps(image: Any, taps: Mapping[str, Any]) -> Any:
    """[C, H, W] to [C * kh * kw, P, Q]."""
    (kh, kw), (sy, sx), (top, left), (p, q) = (taps[k] for k in ("window", "strides", "pads", "result"))
    channels, h, w = image.shape
    rows, columns = max(h + top, (p - 1) * sy + kh), max(w + left, (q - 1) * sx + kw)
    wide = np.zeros((channels, rows, columns))
    wide[:, top : top + h, left : left + w] = image
    parts = [
        wide[:, y : y + (p - 1) * sy + 1 : sy, x : x + (q - 1) * sx + 1 : sx] for y in range(kh) for x in range(kw)
    ]
    return np.stack(parts, axis=1).reshape(channels * kh * kw, p, q)
