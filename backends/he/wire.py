"""Messages between client and server: a header of fixed length, then the bytes of one key or one ciphertext.

    bytes    field
    8        magic, "IGHE\\r\\n\\x1a\\n": a text transfer that changes line ends is noticed
    2        format version
    2        kind
    4        index: a rotation's step, or which ciphertext of a request
    2 + 2    level and size of what follows
    8        length of what follows
    32       digest of the parameters
    32       SHA-256 of the header so far and of what follows

All of it is checked before an engine sees a byte: the header before the first byte of the payload is taken, so that
nobody makes us allocate more than these parameters explain; the digest before the payload is parsed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ...ir.diagnostics import IntaglioError, error
from .parameters import KeyManifest, Parameters

__all__ = ["HEADER_BYTES", "KINDS", "Header", "message", "parse_header", "read", "verify"]

MAGIC, FORMAT = b"IGHE\r\n\x1a\n", 1
KINDS = {"relin": 1, "conjugate": 2, "rotate": 3, "ciphertext": 4, "secret": 5, "public": 6}
NAMES = {code: name for name, code in KINDS.items()}
FIELDS = struct.Struct("<8sHHIHHQ32s")
DIGEST_BYTES = 32
HEADER_BYTES = FIELDS.size + DIGEST_BYTES
AGAIN = "make and send it again with the client's part of this artifact"


@dataclass(frozen=True)
class Header:
    """What a message says of itself. `length` counts the bytes after the header."""

    kind: str
    index: int
    level: int
    size: int
    length: int
    parameters: str  # digest
    digest: bytes

    def packed(self) -> bytes:
        """The header's bytes before its digest."""
        identity = bytes.fromhex(self.parameters)
        return FIELDS.pack(MAGIC, FORMAT, KINDS[self.kind], self.index, self.level, self.size, self.length, identity)


def message(
    kind: str, payload: bytes, parameters: Parameters, *, index: int = 0, level: int = 0, size: int = 2
) -> bytes:
    """A header, to be sent before the payload."""
    header = Header(kind, index, level, size, len(payload), parameters.digest, b"")
    front = header.packed()
    return front + hashlib.sha256(front + payload).digest()


def largest(kind: str, level: int, size: int, parameters: Parameters) -> int:
    """The most bytes that a payload of that kind can need: residues, and what an engine writes around them."""
    around = 4096 + 16 * parameters.ring_degree
    if kind == "ciphertext":
        return parameters.ciphertext_bytes(level, size) + around
    if kind in ("secret", "public"):
        rows = len(parameters.prime_bits) + len(parameters.special_bits)
        return 2 * rows * parameters.ring_degree * 8 + around
    return parameters.key_bytes(level) + around


def parse_header(data: bytes, parameters: Parameters, manifest: KeyManifest | None = None) -> Header:
    """A header that these parameters (and, for a key, this manifest) allow.

    IG0567: damaged; IG0568: of other parameters, or nothing that is wanted; IG0569: too large.
    """
    if len(data) != HEADER_BYTES:
        raise error("IG0567", f"a message ends after {len(data)} of its header's {HEADER_BYTES} bytes", hint=AGAIN)
    magic, version, code, index, level, size, length, identity = FIELDS.unpack_from(data)
    if magic != MAGIC or code not in NAMES:
        raise error("IG0567", "this is no message of intaglio", hint=AGAIN)
    if version != FORMAT:
        what = f"a message of format {version}; this version of intaglio reads {FORMAT}"
        raise error("IG0567", what, hint="use the same version on both sides")
    if identity.hex() != parameters.digest:
        raise error("IG0568", "a message for other parameters than this artifact's", hint=AGAIN)
    header = Header(NAMES[code], index, level, size, length, identity.hex(), data[FIELDS.size :])
    if level > parameters.max_level or size not in (2, 3):
        raise error("IG0568", f"a message of level {level} and size {size}", hint=AGAIN)
    if length > largest(header.kind, level, size, parameters):
        raise error("IG0569", f"a message of {length} bytes: more than its kind can need here", hint=AGAIN)
    if manifest is not None and not _wanted(header, manifest):
        raise error("IG0568", f"a key `{header.kind}` {index} at level {level}, which the program lacks", hint=AGAIN)
    return header


def _wanted(header: Header, manifest: KeyManifest) -> bool:
    match header.kind:
        case "rotate":
            return manifest.steps.get(header.index) == header.level
        case "relin" | "conjugate":
            return header.index == 0 and getattr(manifest, header.kind) == header.level
    return False


def running_digest(header: Header) -> Any:
    """A hash that has seen the header; `update` it with the payload as it comes."""
    return hashlib.sha256(header.packed())


def verify(header: Header, digest: bytes) -> None:
    """IG0567 when the bytes are not those that were sent."""
    if digest != header.digest:
        raise error("IG0567", "a message was damaged on its way: its digest differs", hint=AGAIN)


def read(
    stream: BinaryIO, parameters: Parameters, manifest: KeyManifest | None = None
) -> Iterator[tuple[Header, bytes]]:
    """The messages of a stream, each checked, until its end. Raises what `parse_header` and `verify` raise."""
    while front := stream.read(HEADER_BYTES):
        header = parse_header(front, parameters, manifest)
        payload = stream.read(header.length)
        if len(payload) != header.length:
            raise truncated(len(payload), header.length)
        digest = running_digest(header)
        digest.update(payload)
        verify(header, digest.digest())
        yield header, payload


def truncated(got: int, wanted: int) -> IntaglioError:
    return error("IG0567", f"a message ends after {got} of {wanted} bytes", hint=AGAIN)
