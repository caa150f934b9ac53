"""Exporters: modules of the IR in the formats of others."""
