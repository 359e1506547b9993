"""The command line."""

from tokenscope.cli.main import main

__all__ = ["main"]
