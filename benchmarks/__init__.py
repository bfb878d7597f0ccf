"""Benchmarks: CPU per unit of work, beside a peer in the same run."""
