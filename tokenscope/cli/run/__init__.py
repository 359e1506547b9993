"""`tokenscope run`."""
