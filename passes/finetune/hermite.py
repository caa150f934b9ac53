"""Hermite's polynomials for torch: an orthonormal basis where the input is normally distributed (HerPN)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["HERMITE", "PART", "change", "polynomial_of"]

HERMITE = [1.0, 1.0, 2.0**0.5, 6.0**0.5, 24.0**0.5]  # norms of Hermite's polynomials under the normal distribution
PART = 4  # one of so many samples of a batch tells moments and the range penalty: looking costs as much as a layer


def change(degree: int, mean: float, deviation: float) -> Any:
    """The matrix from Hermite's basis of (x - mean) / deviation to powers of x."""
    from numpy.polynomial import Polynomial, hermite_e

    matrix = np.zeros((degree + 1, degree + 1))
    inside: Any = Polynomial([-mean / deviation, 1 / deviation])
    for k in range(degree + 1):
        found = Polynomial(hermite_e.herme2poly([0] * k + [1]))(inside).coef
        matrix[: k + 1, k] = found[: k + 1]
    return matrix


def polynomial_of(torch: Any) -> Any:
    """A polynomial whose gradients take few passes over memory, for that is what they cost; only its input is kept.

    Those of the coefficients, five numbers, are estimated from the first samples of the batch, as is the penalty.
    """

    def line(x: Any, a: float, b: float) -> Any:  # a + b x
        return torch.add(torch.tensor(a, dtype=x.dtype), x, alpha=b)

    def value(x: Any, c: list[float]) -> Any:
        if len(c) <= 2:
            return line(x, c[0], c[1])
        if len(c) == 3:
            return line(x, c[0], c[1]).addcmul_(x, x, value=c[2])
        square = x * x
        return line(x, c[0], c[1]).addcmul_(square, value(x, c[2:]))

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, coeffs: Any, ends: Any, limit: Any, looked: int, cap: float | None) -> Any:
            few = x[:looked]
            ctx.facts, ctx.outside = coeffs.tolist(), few - few.clamp(*ends)
            x = x if limit is None else x.clamp(*limit)
            ctx.save_for_backward(x)
            if cap is None:
                return value(x, ctx.facts), ctx.outside.square().mean(dtype=torch.float32)
            out = ctx.outside.abs().float()  # Huber's loss
            ctx.outside = ctx.outside.clamp(-cap, cap)
            return value(x, ctx.facts), torch.where(out < cap, out * out, 2 * cap * out - cap * cap).mean()

        @staticmethod
        def backward(ctx: Any, g: Any, penalty: Any) -> Any:
            (x,), c = ctx.saved_tensors, ctx.facts
            few = len(ctx.outside)
            power, found = g[:few], [g[:few].sum(dtype=torch.float32)]
            for _ in c[1:]:
                power = power * x[:few]
                found.append(power.sum(dtype=torch.float32))
            slope = value(x, [k * a for k, a in enumerate(c)][1:]).mul_(g)
            slope[:few].add_(ctx.outside, alpha=float(penalty) * 2 / ctx.outside.numel())
            return slope, torch.stack(found).double() * (len(x) / few), None, None, None, None

    return Function
