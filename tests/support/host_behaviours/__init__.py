"""Small programs, each of which returns what it has seen: `test_host_behaviours.py` compares that with and without tokenscope.

Nothing here imports tokenscope, so that the programs can run without it.
"""

from support.host_behaviours import (  # noqa: F401 - they fill the table
    concurrent,
    copying,
    failing,
    memory,
    methods,
    overriding,
    process,
    running,
    settings,
)
from support.host_behaviours.table import OURS, PROGRAMS, main

__all__ = ["OURS", "PROGRAMS", "main"]
