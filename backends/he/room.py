"""How much memory encoded plaintexts may take: encoding a diagonal costs more than using it, so as many are kept as do.

A quarter of what the process may use: of the machine's memory, its container's, or the limit that the server sets for a
session (RLIMIT_AS). Keys, tables and ciphertexts have the rest.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

__all__ = ["SHARE", "room", "usable"]

SHARE = 4
CONTAINERS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def room() -> int:
    """Bytes of encoded plaintexts."""
    return usable() // SHARE


def usable() -> int:
    """Bytes that this process may use at most; what others use now is not looked at, so it is the same every time."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(soft)
    for path in CONTAINERS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # or `max`
            found.append(int(text))
    return min(found)
