"""`tokenscope doctor`: checks whether everything that DSPy spends is counted, and counted once."""
