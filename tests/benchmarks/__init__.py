"""Benchmarks: each measures a ratio to a reference in the same run. The ordinary test run skips them. Run them with:

    python -m pytest tests/benchmarks --benchmark-only

Only benchmarks have such bounds. Ordinary tests do not depend on the speed of the machine.
"""
