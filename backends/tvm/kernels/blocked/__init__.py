"""Kernels on tensors in blocks of channels."""
