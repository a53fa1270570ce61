"""Benchmarks: methods side by side on the same facts, scored by what the model says."""
