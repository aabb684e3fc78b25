"""Keeping half precision out."""

from __future__ import annotations

import torch


def no_autocast(device: torch.device) -> torch.autocast:
    """Switch autocast off on a device.

    Args:
        device (torch.device): Of the tensors; `meta`, which autocast does
            not know, stands for the CPU.

    Returns:
        torch.autocast: A context manager.
    """
    kind = 'cpu' if device.type == 'meta' else device.type
    return torch.autocast(kind, enabled=False)
