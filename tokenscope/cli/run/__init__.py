"""`tokenscope run`: a program runs as with Python, and what it spent is shown when it ends."""
