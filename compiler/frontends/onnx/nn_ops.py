"""Converters of convolutions, matrix products, pooling and normalisation."""

from __future__ import annotations

from typing import Any

from ....ir.dims import Dim, Extent
from ....ir.graph import Value
from ....ir.types import Float
from .call import Call, converter, element

# --- products -------------------------------------------------------------------------------------------------------


@converter("MatMul")
def matmul(c: Call) -> Value:
    return c.emit("nn.matmul", c[0], c[1])


@converter("Gemm")
def gemm(c: Call) -> Value:
    a, b, bias = c[0], c[1], c.optional(2)
    if c.attr("transA", 0):
        a = c.emit("shape.transpose", a, perm=(1, 0))
    if c.attr("transB", 0):
        b = c.emit("shape.transpose", b, perm=(1, 0))
    y = c.emit("nn.matmul", a, b)
    alpha, beta = c.attr("alpha", 1.0), c.attr("beta", 1.0)
    if alpha != 1.0:
        y = c.emit("math.mul", y, c.like(alpha, y))
    if bias is None or beta == 0.0:
        return y
    return c.emit("math.add", y, bias if beta == 1.0 else c.emit("math.mul", bias, c.like(beta, y)))


# --- windows --------------------------------------------------------------------------------------------------------


_AUTO_PADS = ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER")


def window_options(c: Call, spatial: tuple[Extent, ...], kernel: tuple[int, ...]) -> dict[str, Any]:
    """strides, pads and dilations of a sliding window, `auto_pad` resolved."""
    rank = len(kernel)
    if len(spatial) != rank:
        raise c.fail(f"has a window of {rank} axes over {len(spatial)}")
    strides, dilations = c.per_axis("strides", rank, 1), c.per_axis("dilations", rank, 1)
    auto = c.choice("auto_pad", "NOTSET", _AUTO_PADS)
    if auto in ("NOTSET", ""):
        pads = c.per_axis("pads", 2 * rank, 0)
    elif auto == "VALID":
        pads = (0,) * (2 * rank)
    else:
        before, after = [], []
        for d, k, s, e in zip(spatial, kernel, strides, dilations, strict=True):
            span = e * (k - 1) + 1
            if isinstance(d, Dim):
                if s != 1:
                    raise c.fail(
                        f"auto_pad {auto} with stride {s} over symbolic extent {d}", hint="freeze the spatial extents"
                    )
                total = span - 1
            else:
                total = max(0, (-(-d // s) - 1) * s + span - d)
            small = total // 2
            before.append(total - small if auto == "SAME_LOWER" else small)
            after.append(small if auto == "SAME_LOWER" else total - small)
        pads = (*before, *after)
    return {
        "strides": strides if any(s != 1 for s in strides) else None,
        "pads": pads if any(pads) else None,
        "dilations": dilations if any(d != 1 for d in dilations) else None,
    }


def kernel_of(c: Call, w: Value) -> tuple[int, ...]:
    found = w.type.shape[2:]
    if any(not isinstance(d, int) for d in found):
        raise c.fail("has a window of unknown extent")
    given = c.ints("kernel_shape")
    if given is not None and given != found:
        raise c.fail(f"kernel_shape {list(given)} contradicts the weight's {list(found)}")
    return found  # type: ignore[return-value]


@converter("Conv")
def conv(c: Call) -> Value:
    x, w = c[0], c[1]
    options = window_options(c, x.type.shape[2:], kernel_of(c, w))
    return c.emit("nn.conv", x, w, c.optional(2), g=c.attr("group", 1), **options)


@converter("ConvTranspose")
def conv_transpose(c: Call) -> Value:
    x, w = c[0], c[1]
    kernel = kernel_of(c, w)
    rank = len(kernel)
    strides, dilations = c.per_axis("strides", rank, 1), c.per_axis("dilations", rank, 1)
    extra = c.per_axis("output_padding", rank, 0)
    pads, auto = c.per_axis("pads", 2 * rank, 0), c.choice("auto_pad", "NOTSET", _AUTO_PADS)
    wanted = c.ints("output_shape")
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        spatial = x.type.shape[2:]
        if any(isinstance(d, Dim) for d in spatial):
            raise c.fail("derives its pads from symbolic extents", hint="freeze the spatial extents")
        target = wanted[-rank:] if wanted is not None else tuple(d * s for d, s in zip(spatial, strides, strict=True))
        totals = [
            s * (d - 1) + o + e * (k - 1) + 1 - t
            for d, s, o, e, k, t in zip(spatial, strides, extra, dilations, kernel, target, strict=True)
        ]
        # an output shape larger than the window reaches is filled after the end
        extra = tuple(o + max(0, -t) for o, t in zip(extra, totals, strict=True))
        totals = [max(0, t) for t in totals]
        half = [t // 2 for t in totals]
        rest = [t - h for t, h in zip(totals, half, strict=True)]
        pads = (*half, *rest) if auto != "SAME_LOWER" else (*rest, *half)
    elif auto == "VALID":
        pads = (0,) * (2 * rank)
    return c.emit(
        "nn.conv_transpose",
        x,
        w,
        c.optional(2),
        strides=strides,
        pads=pads,
        dilations=dilations,
        output_pads=extra,
        g=c.attr("group", 1),
    )


@converter("DeformConv")
def deform_conv(c: Call) -> Value:
    options = window_options(c, c[0].type.shape[2:], kernel_of(c, c[1]))
    groups = {"g": c.attr("group", 1), "offset_groups": c.attr("offset_group", 1)}
    return c.emit("nn.deform_conv", c[0], c[1], c[2], c.optional(3), c.optional(4), **groups, **options)


# --- pooling --------------------------------------------------------------------------------------------------------


def _pool_options(c: Call) -> dict[str, Any]:
    kernel = c.ints("kernel_shape")
    if kernel is None:
        raise c.fail("lacks kernel_shape")
    options = window_options(c, c[0].type.shape[2:], kernel)
    auto = c.attr("auto_pad", "NOTSET")
    ceil = bool(c.attr("ceil_mode", 0)) and auto in ("NOTSET", "")
    return {"kernel": kernel, "ceil": ceil, **options}


@converter("MaxPool")
def max_pool(c: Call) -> Any:
    options = _pool_options(c)
    indices = None
    if c.wants(1):
        indices = c.emit("nn.max_pool_indices", c[0], column_major=bool(c.attr("storage_order", 0)), **options)
    return c.emit("nn.max_pool", c[0], **options), indices


@converter("AveragePool")
def average_pool(c: Call) -> Value:
    return c.emit("nn.avg_pool", c[0], count_pads=bool(c.attr("count_include_pad", 0)), **_pool_options(c))


def _norm(c: Call) -> int:
    """`p` of a p-norm, a float in opset 1."""
    p = c.attr("p", 2.0)
    if not 1 <= p < 1 << 15 or p != int(p):
        raise c.fail(f"computes a norm with p = {p}")
    return int(p)


@converter("LpPool")
def lp_pool(c: Call) -> Value:
    return c.emit("nn.lp_pool", c[0], p=_norm(c), **_pool_options(c))


@converter("GlobalAveragePool", "GlobalMaxPool")
def global_pool(c: Call) -> Value:
    axes = tuple(range(2, len(c[0].type.shape)))
    return c.emit("math.reduce_mean" if "Average" in c.op_type else "math.reduce_max", c[0], axes=axes)


@converter("GlobalLpPool")
def global_lp_pool(c: Call) -> Value:
    x, p = c[0], float(_norm(c))
    axes = tuple(range(2, len(x.type.shape)))
    total = c.emit("math.reduce_sum", c.emit("math.pow", c.emit("math.abs", x), c.like(p, x)), axes=axes)
    return c.emit("math.pow", total, c.like(1 / p, x))


@converter("MaxUnpool")
def max_unpool(c: Call) -> Value:
    x, indices = c[0], c[1]
    kernel = c.ints("kernel_shape")
    if kernel is None:
        raise c.fail("lacks kernel_shape")
    rank = len(kernel)
    if len(x.type.shape) != rank + 2:
        raise c.fail(f"has a window of {rank} axes over a tensor of {len(x.type.shape)}")
    strides, pads = c.per_axis("strides", rank, 1), c.per_axis("pads", 2 * rank, 0)
    shape = (
        *x.type.shape[:2],
        *[
            (d - 1) * s - pads[i] - pads[i + rank] + k
            for i, (d, s, k) in enumerate(zip(x.type.shape[2:], strides, kernel, strict=True))
        ],
    )
    if not c.has(2):
        return c.emit("nn.max_unpool", x, indices, shape=shape)
    wanted = c.numbers(2)
    if wanted is None or not all(isinstance(d, int) for d in shape):
        raise c.needs("the output shape", 2)
    if len(wanted) != len(shape):
        raise c.fail(f"has an output shape of {len(wanted)} extents for {len(shape)} axes")
    flat = c.emit("nn.max_unpool", x, indices, shape=shape)
    # indices count in the inferred shape: place it in the corner of the larger one
    return c.emit("shape.pad", flat, pads=(0,) * len(shape) + tuple(w - d for w, d in zip(wanted, shape, strict=True)))


# --- normalisation --------------------------------------------------------------------------------------------------


@converter("BatchNormalization")
def batch_norm(c: Call) -> Any:
    x, scale, bias, mean, var = (c[i] for i in range(5))
    eps, momentum = c.attr("epsilon", 1e-5), c.attr("momentum", 0.9)
    if not c.attr("spatial", 1):
        raise c.fail("normalises each position on its own (spatial = 0 of opset 7 and before)", "IG0104")
    if not c.attr("training_mode", 0):
        return c.emit("nn.batch_norm", x, scale, bias, mean, var, eps=eps)
    axes = (0, *range(2, len(x.type.shape)))
    now = c.emit("math.reduce_mean", x, axes=axes, keepdims=False)
    centred = c.emit("math.sub", x, c.emit("math.reduce_mean", x, axes=axes))
    spread = c.emit("math.reduce_mean", c.emit("math.mul", centred, centred), axes=axes, keepdims=False)

    def running(old: Value, new: Value) -> Value:
        return c.emit(
            "math.add",
            c.emit("math.mul", old, c.like(momentum, old)),
            c.emit("math.mul", new, c.like(1 - momentum, new)),
        )

    return c.emit("nn.batch_norm", x, scale, bias, now, spread, eps=eps), running(mean, now), running(var, spread)


@converter("InstanceNormalization")
def instance_norm(c: Call) -> Value:
    x, scale, bias = c[0], c[1], c[2]
    rank = len(x.type.shape)
    axes = tuple(range(2, rank))
    mean = c.emit("math.reduce_mean", x, axes=axes)
    centred = c.emit("math.sub", x, mean)
    variance = c.emit("math.reduce_mean", c.emit("math.mul", centred, centred), axes=axes)
    y = c.emit(
        "math.div", centred, c.emit("math.sqrt", c.emit("math.add", variance, c.like(c.attr("epsilon", 1e-5), x)))
    )
    per_channel = [c.emit("shape.unsqueeze", v, axes=tuple(range(1, rank - 1))) for v in (scale, bias)]
    return c.emit("math.add", c.emit("math.mul", y, per_channel[0]), per_channel[1])


@converter("LayerNormalization")
def layer_norm(c: Call) -> Any:
    """The fused op when only the result is wanted and nothing is computed in another precision; else ONNX's body."""
    x = c[0]
    elem = element(x)
    narrow = isinstance(elem, Float) and elem.dtype.itemsize < 4
    if c.wants(1) or c.wants(2) or narrow or c.attr("stash_type", 1) != 1 or not c.has(1):
        return NotImplemented
    axis = c.attr("axis", -1)
    return c.emit("nn.layer_norm", x, c[1], c.optional(2), axis=axis % len(x.type.shape), eps=c.attr("epsilon", 1e-5))


@converter("LRN")
def lrn(c: Call) -> Value:
    return c.emit(
        "nn.lrn",
        c[0],
        size=c.attr("size", 1),
        alpha=c.attr("alpha", 1e-4),
        beta=c.attr("beta", 0.75),
        bias=c.attr("bias", 1.0),
    )
