"""What one session, and one server, may use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Caps; what goes beyond them ends with IG0571, and with the session where it is a session's."""

    sessions: int = 4  # at once; each is a process
    memory: int = 8 << 30  # bytes of address space of a session's process
    seconds: float = 600.0  # wall time of one evaluation, and of starting a session
    silence: float = 30.0  # seconds without a byte within a request
    idle: float = 300.0  # seconds between two requests of a session
