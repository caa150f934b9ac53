"""Intaglio, a neural-network compiler.

    import intaglio

    compiled = intaglio.compile("resnet20.onnx", target="cpu")
    module = intaglio.load("resnet20.onnx")
    smaller = intaglio.optimize(module, "canonicalize")

Importing this module loads nothing else: each name below is fetched from its home when first asked for.
"""

__version__ = "0.1.0"

__all__ = ["Budget", "IntaglioError", "compile", "load", "optimize"]

# Type checkers go by the name alone; to import it from typing would cost more than the rest of this file.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from .compiler.api import compile, load, optimize
    from .compiler.ledger import Budget
    from .ir.diagnostics import IntaglioError
else:
    _HOMES = {
        "Budget": ".compiler.ledger",
        "IntaglioError": ".ir.diagnostics",
        "compile": ".compiler.api",
        "load": ".compiler.api",
        "optimize": ".compiler.api",
    }

    # Not shown to type checkers: they would take any misspelt name for an attribute.
    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
        return value

    def __dir__():
        return sorted({*globals(), *_HOMES})
