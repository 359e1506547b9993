"""Benchmarks, each a ratio to a reference in the same run. No part of the ordinary test run:

    python -m pytest tests/benchmarks --benchmark-only

The bounds stand here and nowhere else: no ordinary test depends on how fast a machine is.
"""
