"""Quantization: from a float graph and calibration data to a graph of codes. Start reading at quantize.py."""
