"""The process-wide tracker, its records and their sinks."""
