"""`python -m tokenscope`."""

from tokenscope.cli import main

main(prog_name="tokenscope")
