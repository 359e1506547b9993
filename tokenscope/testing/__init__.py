"""A model provider on loopback, for tests and demonstrations: OpenAI-compatible over real HTTP, and it keeps its own bill."""

from tokenscope.testing.provider import LoopbackProvider

__all__ = ["LoopbackProvider"]
