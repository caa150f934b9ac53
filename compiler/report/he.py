"""The report's section on an encrypted model: what the circuit takes, in operations, keys, time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .html import bar, section, table

__all__ = ["encrypted"]

PARTS = {
    "keys": "evaluation keys",
    "contexts": "the engine's tables",
    "loading": "a key while it is loaded",
    "plaintexts": "encoded weights",
    "ciphertexts": "ciphertexts alive at once",
    "diagonals": "which weight goes where",
    "process": "the process itself",
}


def encrypted(facts: Mapping[str, Any]) -> str:
    """The section for what a manifest holds of target `he` (backends/he/program.py, `facts`)."""
    security = facts["security"]
    shown = [
        (escape(facts["engine"]), f"N = {security['ring_degree']}, {security['log_qp']} bits of modulus"),
        (f"{facts['rotations']:,}", "rotations"),
        (f"{facts['plaintext_products']:,}", "products by plaintexts"),
        (f"{facts['ciphertext_products']:,}", "products of ciphertexts"),
        (f"{facts['levels']:,}", f"levels, {facts['bootstraps']} bootstraps"),
        (f"{facts['keys']}", f"keys, {facts['key_bytes'] / 1e6:,.0f} MB"),
        (f"{facts['predicted_seconds']:.3g} s", f"of one core for a sample, predicted ({facts['predicted_by']})"),
        (f"{facts['predicted_peak_bytes'] / 1e9:.2f} GB", "at the peak, predicted"),
    ]
    cards = "".join(f'<div class="fact"><b>{value}</b><span>{escape(label)}</span></div>' for value, label in shown)
    again = facts["encoded_again"]
    note = f"{again:,} weights are encoded again for every sample: the cache has no room for them. " if again else ""
    words = f"{note}Security: {security['stamp']}, secret {security['secret']}. {security['model']}"
    return section("Encrypted", f'<div class="facts">{cards}</div>{_memory(facts)}<p class="quiet">{escape(words)}</p>')


def _memory(facts: Mapping[str, Any]) -> str:
    parts, whole = facts["predicted_bytes"], max(facts["predicted_peak_bytes"], 1)
    rows = [(escape(PARTS[name]), f"{n / 1e6:,.0f}", f"{n / whole:.1%}", bar(n / whole)) for name, n in parts.items()]
    return table(("memory", "MB", "share", ""), rows, right=(1, 2))
