"""Converters of what goes element by element: arithmetic, comparison, casts, activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.graph import Value
from .call import Call, converter, element
from .tensors import elem_type

_UNARY = {
    "Abs": "abs", "Neg": "neg", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Floor": "floor", "Ceil": "ceil",
    "Round": "round", "Sign": "sign", "Erf": "erf", "Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus",
    "Not": "not", "BitwiseNot": "bit_not", "IsNaN": "is_nan",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "And": "and", "Or": "or", "Xor": "xor",
    "BitwiseAnd": "bit_and", "BitwiseOr": "bit_or", "BitwiseXor": "bit_xor", "Equal": "equal", "Less": "less",
    "LessOrEqual": "less_equal", "Greater": "greater", "GreaterOrEqual": "greater_equal",
}  # fmt: skip


@converter(*_UNARY)
def unary(c: Call) -> Value:
    return c.emit(f"math.{_UNARY[c.op_type]}", c[0])


@converter(*_BINARY)
def binary(c: Call) -> Value:
    a, b = c[0], c[1]
    if c.version < 7 and c.attr("broadcast", 0):
        b = _legacy_broadcast(c, a, b)
    return c.emit(f"math.{_BINARY[c.op_type]}", a, b)


def _legacy_broadcast(c: Call, a: Value, b: Value) -> Value:
    """Before opset 7, `axis` says where b's axes stand in a's."""
    axis = c.attrs.get("axis")
    if axis is None:
        return b
    rank_a, rank_b = len(a.type.shape), len(b.type.shape)
    trailing = rank_a - (axis % rank_a if rank_a else 0) - rank_b
    return c.emit("shape.unsqueeze", b, axes=tuple(range(rank_b, rank_b + trailing))) if trailing > 0 else b


@converter("Identity")
def identity(c: Call) -> Value:
    return c[0]


_VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add", "Mean": "add"}


@converter(*_VARIADIC)
def variadic(c: Call) -> Value:
    total = c[0]
    for i in range(1, len(c)):
        total = c.emit(f"math.{_VARIADIC[c.op_type]}", total, c[i])
    return c.emit("math.div", total, c.like(len(c), total)) if c.op_type == "Mean" else total


@converter("Mod")
def mod(c: Call) -> Value:
    return c.emit("math.mod", c[0], c[1], truncated=bool(c.attr("fmod", 0)))


@converter("BitShift")
def bit_shift(c: Call) -> Value:
    left = c.choice("direction", "", ("LEFT", "RIGHT")) == "LEFT"
    return c.emit("math.shift_left" if left else "math.shift_right", c[0], c[1])


@converter("Where")
def where(c: Call) -> Value:
    return c.emit("math.where", c[0], c[1], c[2])


@converter("IsInf")
def is_inf(c: Call) -> Value:
    return c.emit(
        "math.is_inf", c[0], negative=bool(c.attr("detect_negative", 1)), positive=bool(c.attr("detect_positive", 1))
    )


# --- types ----------------------------------------------------------------------------------------------------------


def _cast(c: Call, to: Any) -> Value:
    if to is element(c[0]):
        return c[0]
    up = c.choice("round_mode", "up", ("up", "nearest"))
    return c.emit("math.cast", c[0], to=to, saturate=bool(c.attr("saturate", 1)), round_up=up == "up")


_OLD_NAMES = {
    "FLOAT": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "BOOL": 9,
    "FLOAT16": 10,
    "DOUBLE": 11,
}


@converter("Cast")
def cast(c: Call) -> Value:
    to = c.attrs.get("to")
    code = _OLD_NAMES.get(to, 0) if isinstance(to, str) else to
    return _cast(c, elem_type(code or 0, "the result of a Cast"))


@converter("CastLike")
def cast_like(c: Call) -> Value:
    return _cast(c, element(c[1]))


@converter("BitCast")
def bit_cast(c: Call) -> Value:
    return c.emit("math.bitcast", c[0], to=elem_type(c.attr("to", 0), "the result of a BitCast"))


# --- activations ----------------------------------------------------------------------------------------------------


@converter("Clip")
def clip(c: Call) -> Value:
    x = c[0]
    if c.version < 11:
        low: Value | None = c.like(c.attr("min", 0.0), x) if "min" in c.attrs else None
        high: Value | None = c.like(c.attr("max", 0.0), x) if "max" in c.attrs else None
    else:
        low, high = c.optional(1), c.optional(2)
    if low is not None:
        x = c.emit("math.maximum", x, low)
    return x if high is None else c.emit("math.minimum", x, high)


@converter("LeakyRelu")
def leaky_relu(c: Call) -> Value:
    return c.emit("math.leaky_relu", c[0], alpha=c.attr("alpha", 0.01))


@converter("Gelu")
def gelu(c: Call) -> Value:
    return c.emit("nn.gelu", c[0], approximate=c.choice("approximate", "none", ("none", "tanh")) == "tanh")


@converter("Selu")
def selu(c: Call) -> Value:
    x = c[0]
    alpha, gamma = c.attr("alpha", 1.67326319217681884765625), c.attr("gamma", 1.05070102214813232421875)
    below = c.emit("math.mul", c.like(alpha, x), c.emit("math.sub", c.emit("math.exp", x), c.like(1, x)))
    y = c.emit("math.where", c.emit("math.greater", x, c.like(0, x)), x, below)
    return c.emit("math.mul", c.like(gamma, x), y)


@converter("Elu", "Celu")
def elu(c: Call) -> Value:
    x, alpha = c[0], c.attr("alpha", 1.0)
    inner = c.emit("math.div", x, c.like(alpha, x)) if c.op_type == "Celu" else x
    below = c.emit("math.mul", c.like(alpha, x), c.emit("math.sub", c.emit("math.exp", inner), c.like(1, x)))
    return c.emit("math.where", c.emit("math.less", x, c.like(0, x)), below, x)


@converter("HardSigmoid")
def hard_sigmoid(c: Call) -> Value:
    x = c[0]
    y = c.emit("math.add", c.emit("math.mul", x, c.like(c.attr("alpha", 0.2), x)), c.like(c.attr("beta", 0.5), x))
    return c.emit("math.minimum", c.emit("math.maximum", y, c.like(0, x)), c.like(1, x))


@converter("HardSwish")
def hard_swish(c: Call) -> Value:
    x = c[0]
    y = c.emit("math.add", c.emit("math.mul", x, c.like(1 / 6, x)), c.like(0.5, x))
    return c.emit("math.mul", x, c.emit("math.minimum", c.emit("math.maximum", y, c.like(0, x)), c.like(1, x)))


@converter("PRelu")
def prelu(c: Call) -> Value:
    x, slope = c[0], c[1]
    if c.version < 7 and len(slope.type.shape) == 1 and len(x.type.shape) > 2:
        slope = c.emit("shape.unsqueeze", slope, axes=tuple(range(1, len(x.type.shape) - 1)))
    return c.emit("math.where", c.emit("math.less", x, c.like(0, x)), c.emit("math.mul", x, slope), x)


@converter("Softsign")
def softsign(c: Call) -> Value:
    x = c[0]
    return c.emit("math.div", x, c.emit("math.add", c.like(1, x), c.emit("math.abs", x)))


@converter("ThresholdedRelu")
def thresholded_relu(c: Call) -> Value:
    x = c[0]
    return c.emit("math.where", c.emit("math.greater", x, c.like(c.attr("alpha", 1.0), x)), x, c.like(0, x))


@converter("Shrink")
def shrink(c: Call) -> Value:
    x = c[0]
    bias, bound = c.like(c.attr("bias", 0.0), x), c.attr("lambd", 0.5)
    above = c.emit("math.where", c.emit("math.greater", x, c.like(bound, x)), c.emit("math.sub", x, bias), c.like(0, x))
    return c.emit("math.where", c.emit("math.less", x, c.like(-bound, x)), c.emit("math.add", x, bias), above)


@converter("Dropout")
def dropout(c: Call) -> Any:
    """Nothing at inference."""
    if c.version >= 12 and c.has(2):
        training, ratio = c.array(2), c.array(1) if c.has(1) else np.array(0.5)
        if training is None or ratio is None:
            raise c.needs("whether and how much it drops", 1, 2)
        if bool(training.reshape(-1)[0]) and float(ratio.reshape(-1)[0]) != 0.0:
            raise c.fail("drops at random, which inference does not", hint="export the model in evaluation mode")
    elif c.version < 7 and not c.attr("is_test", 0):
        raise c.fail("drops at random, which inference does not", hint="export the model in evaluation mode")
    mask = None
    if c.wants(1):
        mask = c.emit("shape.full", c.constant(np.True_), shape=c[0].type.shape)
    return c[0], mask
