"""Pages about a test run and about a set of labels, and what they share."""

from .label_report import ReportOptions, make_report
from .run_report import report_run

__all__ = ['ReportOptions', 'make_report', 'report_run']
