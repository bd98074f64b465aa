"""Benchmarks: measurements, not tests. Each file names its baseline; `docs/benchmarks.md` has the figures."""
