"""Helpers that tests share: programs, providers, reports, and functions that spend tokens."""
