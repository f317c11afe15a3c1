"""Report of one or several runs: one table of figures, and one HTML page that needs no other file."""

from fastreid.evaluation.report.make import make_report
from fastreid.evaluation.report.runs import ReportError

__all__ = ["ReportError", "make_report"]
