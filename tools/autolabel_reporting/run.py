"""From a folder of auto-labels to its report."""

from __future__ import annotations

import json
from pathlib import Path

from hmsa_mmseg.autolabel.report_tree import read_tree
from hmsa_mmseg.datasets.autolabel_files import REPORT_HTML, REPORT_JSON
from hmsa_mmseg.utils import atomic_file

from .collect import collect
from .options import DEFAULT_THRESHOLD, ReportOptions
from .page import build_page
from .sheet import draw_samples

__all__ = ['DEFAULT_THRESHOLD', 'ReportOptions', 'make_report']


def make_report(out: Path, options: ReportOptions) -> Path:
    """Write ``report.json`` and ``report.html`` of a folder of auto-labels.

    Args:
        out (Path): The folder.
        options (ReportOptions): What to compare with.

    Returns:
        Path: Of the page.

    Raises:
        OSError: If a file that is needed is missing, or none can be written.
        ValueError: If something does not fit; the message names it.
        ImportError: If jinja2 is missing.
        RuntimeError: If a process that reads was killed.
    """
    out = Path(out)
    tree = read_tree(out)
    data = collect(tree, options)
    samples = draw_samples(tree, data['worst']['worst'], options.threshold)
    page = build_page(data, tree, samples)
    text = json.dumps(data, allow_nan=False)
    with atomic_file(out / REPORT_JSON) as file:
        file.write((text + '\n').encode())
    with atomic_file(out / REPORT_HTML) as file:
        file.write(page.encode())
    return out / REPORT_HTML
