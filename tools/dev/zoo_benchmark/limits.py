"""What a process may take."""

from __future__ import annotations


def limit_memory(gigabytes: float | None) -> None:
    """Let allocations beyond a limit fail instead of filling the machine.

    Args:
        gigabytes (float, optional): 1e9 bytes of private memory. None, or a
            system that cannot limit it: no limit.
    """
    if gigabytes is None:
        return
    try:
        import resource
    except ImportError:
        return
    # Not the address space, of which libraries map far more than they use.
    limit = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
