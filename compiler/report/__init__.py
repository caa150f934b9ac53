"""The report: what is known of a compiled model, on one page of HTML that needs nothing else, not even a script."""

from .page import render

__all__ = ["render"]
