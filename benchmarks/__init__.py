"""Benchmarks and on-device validation; run from the repository root as ``python -m benchmarks.NAME``."""
