"""Which parameters are secure: 128 bits against a classical computer, by table.

Largest log2 of the modulus, special and bootstrapping primes counted, by ring degree and secret:

    uniform ternary   the table of the Homomorphic Encryption Standard (Albrecht et al., 2018), continued to 2^16 as in
                      Bossuat et al., "Security Guidelines for Implementing Homomorphic Encryption" (CiC 2024)
    h=192             the sparse secrets of bootstrapping, after the same guidelines

What is not in the table is refused. A table, not an estimator: it is small enough to be read.
"""

from __future__ import annotations

from ...ir.diagnostics import error
from .parameters import Parameters

__all__ = ["LARGEST_LOG_QP", "STAMP", "check", "limit", "statement"]

LARGEST_LOG_QP: dict[tuple[str, int], int] = {
    ("ternary", 1 << 12): 109,
    ("ternary", 1 << 13): 218,
    ("ternary", 1 << 14): 438,
    ("ternary", 1 << 15): 881,
    ("ternary", 1 << 16): 1793,
    ("h=192", 1 << 15): 768,
    ("h=192", 1 << 16): 1553,
}

STAMP = "insecure-for-tests"


def limit(parameters: Parameters) -> int | None:
    """The most bits of modulus for its ring and secret; None where the table has nothing."""
    return LARGEST_LOG_QP.get((parameters.secret, parameters.ring_degree))


def check(parameters: Parameters) -> None:
    """IG0561 for parameters below 128 bits, unless they are marked as insecure."""
    most = limit(parameters)
    if parameters.insecure or (most is not None and parameters.log_qp <= most):
        return
    what = f"secret `{parameters.secret}` in a ring of degree {parameters.ring_degree}"
    if most is None:
        known = ", ".join(f"{secret} at {n}" for secret, n in LARGEST_LOG_QP)
        why, hint = f"nothing is known to be secure for {what}", f"known are {known}"
    else:
        why = f"logQP is {parameters.log_qp}, and 128 bits of security end at {most} for {what}"
        hint = "use fewer or smaller primes (special and bootstrapping ones count), or a larger ring"
    raise error("IG0561", f"insecure parameters: {why}", hint=f"{hint}; `{STAMP}` admits them for tests")


def statement(parameters: Parameters) -> dict[str, object]:
    """What every artifact says of its security, as JSON."""
    most = limit(parameters)
    secure = most is not None and parameters.log_qp <= most
    return {
        "stamp": "128-bit classical, by table" if secure else STAMP,
        "ring_degree": parameters.ring_degree,
        "log_qp": parameters.log_qp,
        "largest_log_qp": most,
        "secret": parameters.secret,
        "model": "honest but curious server; it sees the program, shapes and sizes, never inputs or results. Decrypted "
        "results are for the key's owner: rounded before anybody else sees them (IND-CPA-D, Li and Micciancio 2021).",
    }
