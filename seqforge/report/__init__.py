"""A run folder -> one self-contained HTML page, and its learning curves as a PNG."""

from seqforge.report.comparison import compare_png
from seqforge.report.many import build_many
from seqforge.report.page import build, curves_png

__all__ = ["build", "build_many", "compare_png", "curves_png"]
