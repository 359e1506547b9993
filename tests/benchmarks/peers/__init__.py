"""What other tools report for the same DSPy programs, measured against what a local server billed.

    python -m tests.benchmarks.peers                     the table of docs/explanation/comparison.md
    python -m tests.benchmarks.peers opik mlflow         some tools only
    python -m tests.benchmarks.peers --environments DIR  keep the environments, and use those that are there

`tools` sets each tool up, `scenarios` has the programs, and `worker` runs all scenarios with one tool, in the tool's own
environment, where tokenscope is not installed. The bill is kept here, in the process that starts the workers.
"""
