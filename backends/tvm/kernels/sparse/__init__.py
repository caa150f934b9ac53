"""Products and convolutions with sparse constant weights; see `block.py` and `csr.py` for what pays when."""
