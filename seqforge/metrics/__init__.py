"""Figures that say how they were taken."""

from seqforge.metrics.score import Score

__all__ = ["Score"]
