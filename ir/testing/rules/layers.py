"""Samples for products, windows, normalisation and Einstein sums."""

from __future__ import annotations

from ...dims import Extent, Shape
from .attributes import some_axis
from .site import UNSET, Site, Want, number_of
from .tape import Reject

__all__ = ["conv", "conv_transpose", "einsum", "layer_norm", "matmul", "pool"]


def matmul(site: Site) -> None:
    """Vectors, matrices and stacks; the operand that is a leaf fits the other."""
    want = site.want
    a, b = site.peek(0), site.peek(1)
    first = 0 if a is not None or (b is None and not site.free(0)) or (b is None and site.free(1)) else 1
    batch: Shape = ()
    if want is not None and len(want) >= 2:
        lead = site.drawing.filled(want[:-2], symbolic=False)
        left: Want = (*lead, want[-2], None)
        right: Want = (*site.drawing.narrowed(lead), None, want[-1])
    else:
        kinds = ((2, 2), (2, 2), (3, 2), (3, 3), (2, 3), (1, 2), (2, 1), (1, 1), (4, 2))
        ranks = site.pick(kinds)
        batch = site.drawing.filled((None,) * max(0, max(ranks) - 2))
        left = (*batch[len(batch) - max(0, ranks[0] - 2) :], *[None] * min(2, ranks[0]))
        right = (*batch[len(batch) - max(0, ranks[1] - 2) :], *[None] * min(2, ranks[1]))
    if first == 0:
        shape = site.shape(0, left)
        if not shape:
            raise Reject("a product of a scalar")
        site.shape(1, _inner(right, shape[-1], shape, -2))
    else:
        shape = site.shape(1, right)
        if not shape:
            raise Reject("a product of a scalar")
        site.shape(0, _inner(left, shape[-2] if len(shape) > 1 else shape[0], shape, -1))


def _inner(want: Want, extent: Extent, other: Shape, axis: int) -> Want:
    """The operand's wish with the summed extent, and a batch that fits the other's."""
    assert want is not None
    out = list(want)
    out[axis if len(out) > 1 else 0] = extent
    for i in range(3, min(len(out), len(other)) + 1):
        if out[-i] != 1:
            out[-i] = other[-i]
    return tuple(out)


def _spatial(site: Site) -> int:
    """The number of spatial axes: what is known, else 1 or 2."""
    for i in (0, 1):
        if i < len(site.pattern.args) and (s := site.peek(i)) is not None:
            if len(s) < 3:
                raise Reject("no spatial axes")
            return len(s) - 2
    for name, per_axis in (("strides", 1), ("dilations", 1), ("pads", 2), ("kernel", 1)):
        if name in site.op.attrs and isinstance(v := site.given(name), tuple):
            return len(v) // per_axis
    if site.want is not None:
        if len(site.want) < 3:
            raise Reject("no spatial axes")
        return len(site.want) - 2
    return 1 + site.below(2)


def _windows(site: Site, spatial: Shape, kernel: Shape) -> None:
    """Strides, dilations and pads with which the window fits, if they are free."""
    rank = len(spatial)
    site.ints("pads", 2 * rank, lambda i: site.below(3))
    pads = site.attrs["pads"] or (0,) * (2 * rank)
    room = []
    for i, (d, k) in enumerate(zip(spatial, kernel, strict=True)):
        total = number_of(d) + pads[i] + pads[i + rank] if isinstance(d, int) else 1 << 20
        if total < number_of(k):
            raise Reject("the window does not fit")
        room.append(2 if 2 * (number_of(k) - 1) + 1 <= total else 1)
    site.ints("dilations", rank, lambda i: 1 + site.below(room[i]))
    site.ints("strides", rank, lambda i: 1 + site.below(3))


def _same(site: Site) -> bool:
    """Whether a wanted result is best met by a window that keeps the extents."""
    return site.want is not None and site.free(0)


def conv(site: Site) -> None:
    rank = _spatial(site)
    want: Want = site.want if site.want is not None and len(site.want) == rank + 2 else None
    w, g = site.peek(1), site.given("g")
    channels: Extent | None = None
    if w is not None and g is not UNSET:
        channels = number_of(w[1]) * g
    elif g is not UNSET:
        channels = g * (1 + site.below(2))
    spatial: Want = want[2:] if want is not None else (None,) * rank
    x = site.shape(0, (want[0] if want is not None else None, channels, *(spatial or ())))
    if len(x) != rank + 2:
        raise Reject("another number of spatial axes")
    c = number_of(x[1])
    if w is not None and (not isinstance(w[1], int) or c % w[1]):
        raise Reject("channels do not fit")
    divisors = [n for n in range(1, c + 1) if c % n == 0]
    g = site.attr("g", lambda: c // number_of(w[1]) if w is not None else site.pick((1, *divisors)))
    if g < 1 or c % g:
        raise Reject("channels do not fit")
    if want is not None and isinstance(want[1], int):
        m: Extent = want[1]
    else:
        m = g * (1 + site.below(2))
    keep = want is not None and site.below(4) < 3
    kernel = (1,) * rank if keep else tuple(1 + site.below(3) for _ in range(rank))
    shape = site.shape(1, (m, c // g, *kernel))
    if len(shape) != rank + 2:
        raise Reject("another number of spatial axes")
    if site.present(2):
        site.shape(2, (shape[0],))
    if keep and all(site.given(n) is UNSET for n in ("strides", "pads", "dilations")):
        for n in ("strides", "pads", "dilations"):
            site.attr(n, lambda: None)
    _windows(site, x[2:], shape[2:])


def conv_transpose(site: Site) -> None:
    rank = _spatial(site)
    x = site.shape(0, (None,) * (rank + 2))
    c = number_of(x[1])
    g = site.attr("g", lambda: site.pick([1, *[n for n in range(1, c + 1) if c % n == 0]]))
    w = site.shape(1, (c, 1 + site.below(2), *[1 + site.below(3) for _ in range(rank)]))
    if site.present(2):
        site.shape(2, (number_of(w[1]) * g,))
    site.ints("strides", rank, lambda i: 1 + site.below(2))
    site.ints("dilations", rank, lambda i: 1 + site.below(2))
    site.ints("pads", 2 * rank, lambda i: site.below(2))
    site.ints("output_pads", rank, lambda i: 0)


def pool(site: Site) -> None:
    rank = _spatial(site)
    want: Want = site.want if site.want is not None and len(site.want) == rank + 2 else None
    x = site.shape(0, want or (None,) * (rank + 2))
    if len(x) != rank + 2:
        raise Reject("another number of spatial axes")
    small = [min(3, d) if isinstance(d, int) else 3 for d in x[2:]]
    kernel = site.attr("kernel", lambda: tuple(1 + site.below(k) for k in small))
    if len(kernel) != rank:
        raise Reject("another number of spatial axes")

    def below_kernel(i: int) -> int:  # a window lies at least in part in the data
        return site.below(int(kernel[i % rank]))

    site.ints("pads", 2 * rank, below_kernel)
    site.ints("strides", rank, lambda i: 1 + site.below(2))
    site.ints("dilations", rank, lambda i: 1)


def layer_norm(site: Site) -> None:
    x = site.shape(0, site.want or None, rank=1 + site.below(3))
    axis = site.attr("axis", lambda: some_axis(site, len(x)))
    if not -len(x) <= axis < len(x):
        raise Reject("no such axis")
    for i in (1, 2):
        if site.present(i):
            site.shape(i, x[axis % len(x) :])


_EQUATIONS = {
    1: ("ij->ji", "ii->i", "ij->i", "ijk->", "i->i", "ij->", "...i->..."),
    2: ("ij,jk->ik", "ij,ij->ij", "i,j->ij", "bij,bjk->bik", "ij,kj->ik", "ij,ij->", "ij,j->i", "bhid,bhjd->bhij"),
    3: ("ij,jk,kl->il", "i,i,i->"),
}


def einsum(site: Site) -> None:
    from ...shapes import einsum_terms

    count = len(site.values)
    equation = site.attr("equation", lambda: site.pick(_EQUATIONS.get(count, ("i",))))
    letters: dict[str, Extent] = {}
    plain = [len(t.replace("...", "")) + ("..." in t) for t in equation.partition("->")[0].split(",")]
    if len(plain) != count:
        raise Reject("another number of operands")
    ranks = [len(s) if (s := site.peek(i)) is not None else r for i, r in enumerate(plain)]
    terms, _ = einsum_terms(equation, ranks)
    for i in sorted(range(count), key=lambda i: (not site.known(i), site.free(i))):
        shape = site.shape(i, tuple(letters.get(c) or letters.setdefault(c, site.drawing.extent()) for c in terms[i]))
        if len(shape) != len(terms[i]):
            raise Reject("another rank")
        letters.update(zip(terms[i], shape, strict=True))
