"""The tool, and a browser where there is one."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def tool():
    # Not imported by its name, which modules of other tools have too.
    path = Path(__file__).parents[2] / 'tools/report.py'
    spec = importlib.util.spec_from_file_location('report_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
