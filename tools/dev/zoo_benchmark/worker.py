"""The process that measures: one model, one job after the other."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path

import torch
from benchmarks.measure import machine

from .jobs import Findings
from .limits import limit_memory
from .measuring import error_text, measure


def work(order: Path) -> None:
    """Do the jobs of an order.

    Args:
        order (Path): JSON with ``jobs``, all of one model, ``counts``, the
            job that counts its operations (or None), ``folder`` of the
            findings, ``threads``, ``memory_gb``, and ``parent``, the process
            to work for, without which it stops.
    """
    content = json.loads(order.read_text())
    if content['threads']:
        torch.set_num_threads(content['threads'])
    limit_memory(content['memory_gb'])
    findings = Findings(Path(content['folder']))
    for job in content['jobs']:
        if os.getppid() != content['parent']:
            return
        counted = content['counts'] and findings.read(content['counts'])
        counts = (counted or {}).get('measured')
        start = time.perf_counter()
        try:
            found = dict(measured=measure(dict(job, counts=counts)))
        except Exception as error:
            traceback.print_exc()
            found = dict(error=error_text(error))
        seconds = time.perf_counter() - start
        findings.write(job, **found, seconds=seconds, machine=machine())
        # After an error too: what is held must not be missing later.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == '__main__':
    work(Path(sys.argv[1]))
