"""Pages about a test run and about a set of labels, and what they share."""

from .label_report import DEFAULT_THRESHOLD, ReportOptions, make_report
from .pages import ReportError, build_page
from .run_report import report_run

__all__ = [
    'DEFAULT_THRESHOLD',
    'ReportError',
    'ReportOptions',
    'build_page',
    'make_report',
    'report_run',
]
