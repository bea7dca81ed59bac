"""Naive implementations of what the package implements: the tests compare results with them, the benchmarks speed.

Nothing here imports the package. Layers, models and training follow the formulas one operation after another, on
parameters that carry the package's names.
"""
