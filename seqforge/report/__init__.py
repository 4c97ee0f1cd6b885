"""A run folder -> one self-contained HTML page, and its learning curves as a PNG."""

from seqforge.report.page import build, curves_png

__all__ = ["build", "curves_png"]
