"""The server: evaluates one program on ciphertexts that it cannot read. Nothing in here knows a secret key (a test).

limits.py     what a session may use
app.py        HTTP: sessions, keys, requests; checks every message's header and digest, never loads an engine
worker.py     the parent's end of a session's process: start it, talk to it, end it
process.py    that process: the engine, the keys and the program of one session, under a cap of memory
"""

from __future__ import annotations

from .limits import Limits

__all__ = ["Limits"]
