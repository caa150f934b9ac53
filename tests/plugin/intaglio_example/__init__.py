"""An op, a pass and rules for Intaglio."""

from pathlib import Path

RULES = Path(__file__).with_name("example.rules")
