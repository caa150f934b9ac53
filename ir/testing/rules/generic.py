"""Shapes by signature: broadcasting, and everything whose operands are made of named extents."""

from __future__ import annotations

from ...diagnostics import IntaglioError
from ...dims import Dim, Extent, Shape, exact_div
from ...op import Op
from ...rewrite.language import Literal, Variable
from ...shapes import broadcast
from ...signature import Axis, Operand
from .numbers import Domain
from .site import UNSET, Site, Want
from .tape import Reject

__all__ = ["broadcasting", "generic", "in_order"]

# Operands whose numbers have to lie somewhere for the op to mean something.
DOMAINS: dict[tuple[str, int], Domain] = {
    ("nn.batch_norm", 4): Domain(0.0625, 4.0),
    ("math.shift_left", 1): Domain(0, 9),
    ("math.shift_right", 1): Domain(0, 9),
    ("shape.trilu", 1): Domain(-2, 2),
}


def in_order(site: Site) -> list[int]:
    """The operands: those that are known, then those that ops compute, then leaves, numbers last."""
    indices = [i for i in range(len(site.values)) if site.present(i)]
    numbers = {i for i, a in enumerate(site.pattern.args) if isinstance(a, Literal)}
    return sorted(indices, key=lambda i: (not site.known(i), site.free(i), i in numbers))


def broadcasts(op: Op) -> bool:
    axes = op.signature.results[0].axes if op.signature.results else ()
    return len(axes) == 1 and axes[0].call is not None and axes[0].call.name == "broadcast"


def generic(site: Site) -> None:
    """Operands that fit the signature and each other."""
    if broadcasts(site.op):
        broadcasting(site)
    else:
        by_signature(site)


# --- broadcasting ---------------------------------------------------------------------------------------------------


def together(shapes: list[Shape]) -> Shape:
    try:
        return broadcast(*shapes)
    except IntaglioError as e:
        raise Reject(e.diagnostics[0].message) from None


def broadcasting(site: Site) -> None:
    """Operands that broadcast: the same shape, fewer axes, ones; some leaf wider than the rest."""
    drawing, order = site.drawing, in_order(site)
    want = None if site.want is None else drawing.filled(site.want, symbolic=False)
    shapes: list[Shape] = []
    for at, i in enumerate(order):
        last = all(site.known(j) for j in order[at + 1 :])
        have = together(shapes) if shapes else None
        if site.known(i):
            shapes.append(site.shape(i))
        elif not site.free(i):
            target = want if want is not None else have
            shapes.append(site.shape(i, None if target is None else drawing.narrowed(target) if have else target))
        else:
            domain = DOMAINS.get((site.op.name, i), site.domain)
            shapes.append(site.shape(i, _leaf(site, i, have, want, last), domain))


def _leaf(site: Site, i: int, have: Shape | None, want: Shape | None, last: bool) -> Want:
    drawing = site.drawing
    pattern = site.pattern.args[i] if i < len(site.pattern.args) else None
    if isinstance(pattern, Literal):
        have = want if want is not None else have
        if have is None or drawing.below(8) < 5 or _symbolic(have):
            return ()
        want = None
    if want is not None:
        shape = want if last and have != want else drawing.narrowed(want)
    elif have is not None:
        wider = drawing.below(5)
        shape = drawing.narrowed(have)
        if wider == 3:
            shape = (drawing.extent(), *have)
        elif wider == 4:
            shape = tuple(drawing.extent() if d == 1 else d for d in have)
    else:
        return None
    if isinstance(pattern, Variable):
        shape = _as_wished(site, pattern, shape)
    return shape


def _as_wished(site: Site, p: Variable, shape: Shape) -> Shape:
    """The shape for a leaf of which conditions ask a rank or a size."""
    hints = site.drawing.hints
    rank = hints.rank(p)
    if rank is not None:
        more = tuple(site.drawing.extent() for _ in range(rank - len(shape)))
        shape = (*more, *shape[len(shape) - rank :]) if rank <= len(shape) else (*more, *shape)
    if p.name in hints.single:
        shape = (1,) * len(shape)
    return tuple(1 if isinstance(d, Dim) else d for d in shape) if p.const else shape


def _symbolic(shape: Shape) -> bool:
    return any(isinstance(d, Dim) for d in shape)


# --- named extents --------------------------------------------------------------------------------------------------


def by_signature(site: Site) -> None:
    """Bind the names that the wanted result gives, then operand by operand what its shape gives."""
    env: dict[str, Want | Extent] = {}
    results = site.op.signature.results
    if site.want is not None and len(results) >= 1 and not results[0].repeated:
        result = results[min(site.pattern.result, len(results) - 1)]
        _bind(result.axes, site.want, env, site, strict=False)
    for i in in_order(site):
        operand = site.op.signature.operands[min(i, len(site.op.signature.operands) - 1)]
        want = None if site.known(i) else _wanted(operand, env, site, i)
        _bind(operand.axes, site.shape(i, want, DOMAINS.get((site.op.name, i))), env, site, strict=True)


def _wanted(operand: Operand, env: dict[str, Want | Extent], site: Site, i: int) -> Want:
    """What fits an operand: known names, holes for the others."""
    if len(operand.axes) == 1 and operand.axes[0].splat and operand.axes[0].name not in env:
        return None
    out: list[Extent | None] = []
    for axis in operand.axes:
        have = env.get(axis.name)
        if axis.splat:
            if have is None:
                have = (None,) * site.below(3)
                env[axis.name] = have
            assert isinstance(have, tuple)
            out.extend(have)
        elif axis.size is not None:
            out.append(axis.size)
        elif axis.factor:
            factor = site.attr(axis.factor, lambda: site.pick((1, 1, 2, 3)))
            if have is None:
                have = env[axis.name] = site.drawing.extent()
            out.append(factor * have)
        else:
            out.append(have)  # type: ignore[arg-type]
    return tuple(out)


def _bind(axes: tuple[Axis, ...], shape: Want, env: dict[str, Want | Extent], site: Site, strict: bool) -> None:
    """Names from a shape. What cannot be read off (calls, unknown attributes) is left to inference."""
    assert shape is not None
    splat = next((i for i, a in enumerate(axes) if a.splat), None)
    fixed = len(axes) - (splat is not None)
    if len(shape) < fixed or (splat is None and len(shape) != fixed):
        if strict:
            raise Reject("operands of another rank")
        return
    at = 0
    for axis in axes:
        width = len(shape) - fixed if axis.splat else 1
        part = shape[at : at + width]
        at += width
        if axis.call is not None or not axis.name:
            continue
        if axis.splat:
            if axis.name not in env or (strict and None in (env[axis.name] or ())):  # type: ignore[operator]
                env[axis.name] = part
        elif axis.factor:
            factor = site.given(axis.factor)
            if factor is not UNSET and part[0] is not None and (found := exact_div(part[0], factor)) is not None:
                env.setdefault(axis.name, found)
        elif part[0] is not None and (strict or axis.name not in env):
            env[axis.name] = part[0]
