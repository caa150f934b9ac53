"""How to draw an op of a pattern, by its name: the one table, for ops whose shapes the signature does not tell.

A sample asks its `Site` for operands (`site.shape(i, want)`) and sets attributes (`site.attr(name, draw)`); `draw` is
called only where the pattern leaves a choice, and `site.want` is the result that would fit, a hole where it is free.
What it does not set is drawn by kind and name (attributes.py). Raise `Reject` for what leads nowhere.

Third parties add their own: `SAMPLES["acme.rotate"] = rotate`.
"""

from __future__ import annotations

from collections.abc import Callable

from . import encodings, images, indices, layers, pieces, reductions, reshapes
from .generic import generic
from .site import Site

__all__ = ["SAMPLES", "generic", "sample"]

SAMPLES: dict[str, Callable[[Site], None]] = {
    "shape.transpose": reshapes.transpose,
    "shape.reshape": reshapes.reshape,
    "shape.squeeze": reshapes.squeeze,
    "shape.unsqueeze": reshapes.unsqueeze,
    "shape.expand": reshapes.expand,
    "shape.concat": pieces.concat,
    "shape.split": pieces.split,
    "shape.slice": pieces.slice_,
    "shape.pad": pieces.pad,
    "shape.tile": pieces.tile,
    "shape.reverse": pieces.reverse,
    "shape.gather": indices.gather,
    "shape.gather_elements": indices.gather_elements,
    "shape.scatter_elements": indices.gather_elements,
    "shape.gather_nd": indices.gather_nd,
    "shape.scatter_nd": indices.scatter_nd,
    "shape.one_hot": indices.one_hot,
    "shape.trilu": indices.triangle,
    "shape.iota": reshapes.iota,
    "shape.full": reshapes.full,
    **{f"math.reduce_{kind}": reductions.reduce for kind in ("sum", "mean", "max", "min", "prod")},
    "math.argmax": reductions.argument,
    "math.argmin": reductions.argument,
    "math.cumsum": reductions.along,
    "math.cumprod": reductions.along,
    "math.top_k": reductions.top_k,
    "math.bitcast": encodings.bitcast,
    "math.einsum": layers.einsum,
    "quant.store": encodings.store,
    "quant.load": encodings.load,
    "nn.matmul": layers.matmul,
    "nn.conv": layers.conv,
    "nn.conv_transpose": layers.conv_transpose,
    **{f"nn.{kind}": layers.pool for kind in ("max_pool", "avg_pool", "lp_pool", "max_pool_indices")},
    **{f"nn.{kind}": reductions.along for kind in ("softmax", "log_softmax", "hardmax")},
    "nn.layer_norm": layers.layer_norm,
    "nn.resize": images.resize,
    "nn.grid_sample": images.grid_sample,
    "nn.roi_align": images.roi_align,
    "nn.col2im": images.col2im,
    "nn.max_unpool": images.max_unpool,
    "nn.deform_conv": images.deform_conv,
    "nn.det": images.det,
    "shape.reverse_sequence": images.reverse_sequence,
}


def sample(name: str) -> Callable[[Site], None]:
    """How to draw the op called `name`: by its signature if the table has nothing else."""
    return SAMPLES.get(name, generic)
