"""What narrow numbers cost in the array: multiplications per cycle and energy of a multiplication with accumulate.

    fixed        a multiplier of the widest type; narrow operands save nothing but traffic
    composable   a unit of 16 two-bit bricks: 16 / (ceil(w/2) ceil(a/2)) multiplications a cycle (Bit Fusion, ISCA 2018)
    serial_w     one bit of the weight a cycle: cycles grow with w (Stripes, MICRO 2016; there of the activation)
    serial       one bit of each: cycles grow with w a (Loom, DAC 2018)

Energies are of 45 nm: integers from the synthesis that Bit Fusion's authors published (500 MHz, one multiplier with its
accumulator, power over clock), floats from Horowitz (ISSCC 2014).
"""

from __future__ import annotations

import math

__all__ = ["BRICK", "COMPOSABLE", "FIXED", "FLOAT", "KINDS", "mac_energy", "macs_per_cycle"]

KINDS = ("fixed", "composable", "serial_w", "serial")

BRICK = 2  # bits of each operand that one brick of a composable unit takes
BRICKS = 16  # of a unit: 8 x 8 bits
FIXED = {2: 0.063, 4: 0.136, 8: 0.344, 16: 1.085}
"""pJ of a multiplier of exactly that many bits, accumulator included."""
FLOAT = {16: 1.5, 32: 4.6}
"""pJ of a multiplication and an addition in floating point."""
COMPOSABLE = 0.689  # pJ of a whole unit: twice the multiplier of 8 bits that it replaces


def macs_per_cycle(kind: str, w: int, a: int, widest: tuple[int, int] = (8, 8)) -> float:
    """Multiplications of w x a bits per element and cycle, where those of the `widest` types make one."""
    if kind != "composable" and (w > widest[0] or a > widest[1]):
        raise ValueError(f"{w} x {a} bits are wider than the multipliers, {widest[0]} x {widest[1]}")
    match kind:
        case "composable":
            return _bricks(*widest) / _bricks(w, a)
        case "serial_w":
            return widest[0] / w
        case "serial":
            return widest[0] * widest[1] / (w * a)
    return 1.0


def mac_energy(kind: str, w: int, a: int, floating: bool = False, widest: tuple[int, int] = (8, 8)) -> float:
    """pJ of one multiplication of w x a bits at 45 nm.

    A fixed multiplier costs what its widest types do; between table entries energy goes as a power of the bits (1.1 to
    1.7, never 2). Serial ones spend that of the narrow multiplier and of what drives it, as fixed ones of w x a would.
    """
    if floating:
        return _interpolate(FLOAT, math.sqrt(w * a))
    if kind == "composable":
        return COMPOSABLE / BRICKS * _bricks(w, a)
    if kind == "fixed":
        w, a = widest
    return _interpolate(FIXED, math.sqrt(w * a))


def _bricks(w: int, a: int) -> int:
    return -(-w // BRICK) * -(-a // BRICK)


def _interpolate(table: dict[int, float], bits: float) -> float:
    """Straight lines in logarithms, the outermost ones carried on."""
    points = sorted(table)
    upper = min((i for i, p in enumerate(points) if p >= bits), default=len(points) - 1)
    upper = max(1, upper)
    x0, x1 = points[upper - 1], points[upper]
    power = math.log(table[x1] / table[x0]) / math.log(x1 / x0)
    return table[x0] * (bits / x0) ** power
