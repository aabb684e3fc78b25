"""Lets gloo's threads end before the interpreter does."""

import atexit
import gc
import sys

import torch.distributed as dist


@atexit.register
def close_gloo():
    """Destroy gloo's process group at the end of a program that has not.

    mmseg's tools leave it to the interpreter. A thread of gloo that drops
    its last tensor while the interpreter shuts down aborts the process
    ("terminate called without an active exception", pytorch/pytorch#190489),
    and the launcher calls a training that has done all of its work failed.

    NCCL is left alone, and so are programs that end by an exception: there a
    collective may wait for processes that will never come.
    """
    failed = hasattr(sys, 'last_type')
    if failed or not (dist.is_available() and dist.is_initialized()):
        return
    if dist.get_backend() == 'gloo':
        # A wrapped model holds the group, in cycles of references.
        gc.collect()
        dist.destroy_process_group()
