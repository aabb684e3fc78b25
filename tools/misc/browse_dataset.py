"""Runs ``analysis_tools/browse_dataset.py``: mmseg has this tool twice."""

import runpy
from pathlib import Path

TOOL = (
    Path(__file__).resolve().parents[1]
    / 'analysis_tools'
    / Path(__file__).name
)

if __name__ == '__main__':
    runpy.run_path(str(TOOL), run_name='__main__')
