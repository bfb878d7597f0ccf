"""Tests of ``benchmarks``: that it measures and notices errors, never how fast anything is."""
