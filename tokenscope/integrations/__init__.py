"""Other packages: patches of them, and what their users can import."""

from tokenscope.integrations.patches import applied, instrument, uninstrument

__all__ = ["applied", "instrument", "uninstrument"]
