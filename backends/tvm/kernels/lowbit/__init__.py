"""Kernels on numbers of 16 bits and fewer: int8, int4, bf16 and single bits.

`dot.py` has the arithmetic, one class a kind of number; the templates of products and convolutions work with any of
them.
"""
