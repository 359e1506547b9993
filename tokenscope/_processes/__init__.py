"""What workers in other processes spend, and how it comes home."""
