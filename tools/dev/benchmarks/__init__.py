"""Benchmarks of this project; ``tools/dev/benchmark.py`` runs them.

What they compare with is also what the tests compare with, and lies in
``tests/oracles``. Importing this package makes ``oracles`` importable, and,
through ``hmsa_mmseg``, mmseg.
"""

import sys
from pathlib import Path

import hmsa_mmseg  # noqa: F401

sys.path.append(str(Path(__file__).resolve().parents[3] / 'tests'))
