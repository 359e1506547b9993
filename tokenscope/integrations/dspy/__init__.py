"""What programs that use DSPy can import. Imports no dspy: that would patch it in the midst of our own import."""

from __future__ import annotations

from tokenscope.integrations.dspy.gepa import gepa_stopper

__all__ = ["gepa_stopper"]
