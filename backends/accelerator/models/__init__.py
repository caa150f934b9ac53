"""Published machines whose timing is no instance of the general cost model: closed forms over machine and layer.

Each module says what was published, which constants were fitted, and on which network. docs/accelerator-validation.md
holds them against what was measured.
"""
