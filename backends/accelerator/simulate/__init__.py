"""Machines that run programs: one for what is computed, one for how long it takes."""
