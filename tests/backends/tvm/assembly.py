"""Reading compiled code: the loop that does the work of a kernel, and what one pass of it executes.

    loop = hot_loop(api.kernel_assembly(kernel.func, api.cpu_target("avx512")))
    loop.products, loop.accesses, loop.spills

Instructions are counted where they stand: nothing is run and nothing is timed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Loop", "hot_loop", "loops"]

PRODUCTS = re.compile(r"vf(n?)m(add|sub)\d+ps|vpdpbusds?|vdpbf16ps|fml[as]\t.*v\d+\.4s")
X86_ACCESS = re.compile(r"-?\w*\(%\w+[^)]*\)")  # displacement(base, index, scale)
X86_STACK = re.compile(r"\(%[re]sp\b")
ARM_ACCESS = re.compile(r"\[\s*(x\d+|sp)")
ARM_STACK = re.compile(r"\[\s*(sp|x29)\b")
VECTOR = re.compile(r"%[xyz]mm\d|\b[qv]\d")
JUMP = re.compile(r"^\t(j\w+|b|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.L\w+)$")
LABEL = re.compile(r"^(\.L\w+|[A-Za-z_]\w*):")


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop that belong to none inside it, in order."""

    code: tuple[str, ...]
    innermost: bool = True

    def count(self, pattern: str | re.Pattern[str]) -> int:
        """Instructions in which the pattern is found."""
        return sum(re.search(pattern, line) is not None for line in self.code)

    @property
    def products(self) -> int:
        """Vector multiply-adds and dot products."""
        return self.count(PRODUCTS)

    @property
    def accesses(self) -> int:
        """Instructions that load or store, also as an operand of arithmetic; a pair of loads counts as two."""
        found = [x for x in self.code if (X86_ACCESS if "%" in x else ARM_ACCESS).search(x)]
        found = [x for x in found if not x.startswith(("lea", "prefetch", "prfm", "nop"))]
        return len(found) + sum(x.startswith(("ldp", "stp")) for x in found)

    @property
    def spills(self) -> int:
        """Vectors that go to the stack or come from there: accumulators that did not fit into registers."""
        on_stack = [x for x in self.code if (X86_STACK if "%" in x else ARM_STACK).search(x)]
        return sum(VECTOR.search(x) is not None for x in on_stack)

    @property
    def calls(self) -> int:
        return self.count(r"^(call|bl\b|blr\b)")

    def __str__(self) -> str:
        return "\n".join(self.code)


def loops(text: str) -> list[Loop]:
    """All loops of an assembly text: a label and a jump back to it, without the loops in between."""
    lines = text.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := LABEL.match(line))}
    ends: dict[int, int] = {}  # first line to last
    for i, line in enumerate(lines):
        m = JUMP.match(line.split("#")[0].rstrip() if "%" in line else line)
        start = labels.get(m[2], i) if m else i
        if start < i:
            ends[start] = i
    found = []
    for start, end in ends.items():
        inner = [(a, b) for a, b in ends.items() if start < a and b <= end]
        own = [i for i in range(start, end + 1) if not any(a <= i <= b for a, b in inner)]
        code = (lines[i].strip() for i in own)
        kept = tuple(c for c in code if c and not c.startswith((".", "#", "//")) and not c.endswith(":"))
        found.append(Loop(kept, innermost=not inner))
    return found


def hot_loop(text: str) -> Loop:
    """The loop with the most multiply-adds; of those with as many, the one with the least code."""
    return max(loops(text), key=lambda loop: (loop.products, -len(loop.code)))
