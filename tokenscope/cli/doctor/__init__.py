"""`tokenscope doctor`."""
