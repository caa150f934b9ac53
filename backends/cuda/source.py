"""What becomes of the CUDA source that TVM generates before nvcc sees it."""

from __future__ import annotations

import re
from importlib import resources

__all__ = ["complete"]


def complete(source: str) -> str:
    """The source with the device functions that it calls before it.

    Kernels of 128 threads, those on tensor cores, are promised two blocks a multiprocessor: left alone, ptxas aims at
    more of them and would rather spill than take the registers.
    """
    names = {"product.cuh": ("ig::product_of_rows", "ig::convolution"), "attention.cuh": ("ig::Attention",)}
    wanted = ["primitives.cuh", *(name for name, calls in names.items() if any(c in source for c in calls))]
    helpers = "".join(resources.files(__package__).joinpath(name).read_text() for name in wanted)
    return helpers + re.sub(r"__launch_bounds__\(128\)", "__launch_bounds__(128, 2)", source)
