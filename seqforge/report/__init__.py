"""A run folder -> one self-contained HTML page, its pictures as PNG, and its learning curves as one."""

from seqforge.report.comparison import compare_png
from seqforge.report.learning import curves_png
from seqforge.report.many import build_many, many_png
from seqforge.report.page import build, pictures_png

__all__ = ["build", "build_many", "compare_png", "curves_png", "many_png", "pictures_png"]
