"""A model provider on loopback, for tests and demonstrations. It is OpenAI-compatible over real HTTP, and keeps a bill."""

from tokenscope.testing.provider import LoopbackProvider

__all__ = ["LoopbackProvider"]
