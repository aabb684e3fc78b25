"""Whether a module does what its class says."""

from __future__ import annotations

from torch import nn

_HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_backward_hooks',
    '_backward_pre_hooks',
)


def is_untouched(module: nn.Module) -> bool:
    """Whether no hook and no other ``forward`` has been put on a module.

    Whoever does a module's work without calling it would leave them out.

    Args:
        module (nn.Module): Any module; those within it are not looked at.
    """
    return 'forward' not in vars(module) and not any(
        getattr(module, name, None) for name in _HOOKS
    )
